"""Whom QEMU runs as, by who asked and how."""

from __future__ import annotations

import os
import pwd
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import qlaunch.facts.own_uid as own_uid_module
from qlaunch.errors import HostError
from qlaunch.facts.invoker import read_invoker
from qlaunch.facts.own_uid import LAST, is_own, keep_uid, own_uid

SOMEBODY = next(e for e in pwd.getpwall() if 0 < e.pw_uid < 60000)
ANOTHER = next(e for e in pwd.getpwall() if 0 < e.pw_uid < 60000 and e.pw_uid != SOMEBODY.pw_uid)
UID = str(SOMEBODY.pw_uid)


@pytest.mark.parametrize(
    "env", [{"SUDO_UID": UID}, {"PKEXEC_UID": UID}, {"PKEXEC_UID": UID, "SUDO_UID": "0"}]
)
def test_root_runs_qemu_as_the_one_who_asked(env: dict[str, str]) -> None:
    found = read_invoker(environ=env, euid=0)
    assert (found.root, found.uid, found.name) == (True, SOMEBODY.pw_uid, SOMEBODY.pw_name)
    assert (found.asked, found.home) == (SOMEBODY.pw_uid, SOMEBODY.pw_dir)
    assert found.gid == SOMEBODY.pw_gid
    assert set(found.groups) == set(os.getgrouplist(SOMEBODY.pw_name, SOMEBODY.pw_gid))


def test_the_group_sudo_names_is_taken() -> None:
    found = read_invoker(environ={"SUDO_UID": UID, "SUDO_GID": "4321"}, euid=0)
    assert found.gid == 4321
    assert 4321 in found.groups


@pytest.mark.parametrize(
    "env", [{}, {"SUDO_UID": "0"}, {"SUDO_UID": " 1"}, {"SUDO_UID": "-1"}, {"SUDO_UID": "x"},
            {"SUDO_UID": "4294967295"}, {"SUDO_UID": "3999999999"}, {"PKEXEC_UID": "\u0661"}],
)
def test_root_for_itself_runs_qemu_as_nobody(env: dict[str, str]) -> None:
    found = read_invoker(environ=env, euid=0)
    assert (found.name, found.asked) == ("nobody", None)
    assert found.uid != 0


def test_each_machine_of_roots_has_a_uid_of_its_own() -> None:
    found = read_invoker(machine="vm", environ={}, euid=0)
    assert is_own(found.uid)
    assert (found.gid, found.groups, found.name) == (found.uid, (found.uid,), f"uid {found.uid}")
    assert (found.root, found.asked, found.runtime_dir) == (True, None, "")
    assert read_invoker(machine="other", environ={}, euid=0).uid != found.uid
    assert read_invoker("nobody", machine="vm", environ={}, euid=0).name == "nobody"
    assert read_invoker(machine="vm", environ={"SUDO_UID": UID}, euid=0).uid == SOMEBODY.pw_uid


def test_a_uid_is_kept_and_nobody_elses(tmp_path: Path) -> None:
    def uid_of(machine: str, *used: int) -> int:
        found = own_uid(machine, str(tmp_path), used.__contains__)
        assert found is not None
        return found

    first = uid_of("vm")
    assert first == uid_of("vm") != uid_of("other")
    assert uid_of("vm", first) == first + 1  # an account of the host
    state = tmp_path / "vm"
    state.mkdir()
    keep_uid(first + 1, str(state))
    assert uid_of("vm") == first + 1
    assert uid_of("vm", first + 1) == first
    (tmp_path / "copied").mkdir()
    keep_uid(uid_of("vm"), str(tmp_path / "copied"))
    assert uid_of("vm") == first != uid_of("copied")
    for text in ("0", "65534", "x", str(LAST + 1), ""):
        (state / "uid").write_text(text)
        assert uid_of("vm") == first
    assert own_uid("vm", str(tmp_path), lambda _: True) is None
    (tmp_path / "copied/uid").unlink()
    assert len({uid_of(f"vm{n}") for n in range(100)}) > 95
    keep_uid(LAST, str(state))
    assert uid_of("vm", LAST) != LAST


def test_the_host_s_accounts_keep_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = own_uid("vm", str(tmp_path))
    assert free is not None
    monkeypatch.setattr(own_uid_module, "_DYNAMIC", str(tmp_path))
    (tmp_path / str(free)).symlink_to("nowhere")  # as systemd's are
    assert own_uid("vm", str(tmp_path)) not in (free, None)


def test_an_ordinary_user_is_not_believed_to_be_another() -> None:
    found = read_invoker(environ={"SUDO_UID": UID}, euid=ANOTHER.pw_uid)
    assert (found.root, found.uid, found.asked) == (False, ANOTHER.pw_uid, None)


def test_a_named_user_comes_first() -> None:
    found = read_invoker(ANOTHER.pw_name, environ={"SUDO_UID": UID, "SUDO_GID": "1"}, euid=0)
    assert (found.uid, found.gid) == (ANOTHER.pw_uid, ANOTHER.pw_gid)
    assert found.asked == SOMEBODY.pw_uid
    assert read_invoker(str(ANOTHER.pw_uid), environ={}, euid=0).name == ANOTHER.pw_name
    assert read_invoker("root", environ={}, euid=0).uid == 0  # obeyed, when said


def test_an_unknown_user_has_a_hint() -> None:
    with pytest.raises(HostError) as caught:
        read_invoker("nobodi", environ={}, euid=0)
    (problem,) = caught.value.problems
    assert (problem.where, problem.hint) == ("qemu.user", "did you mean nobody?")
    with pytest.raises(HostError):
        read_invoker("3999999999", environ={}, euid=0)


def test_a_uid_without_an_account() -> None:
    found = read_invoker(environ={}, euid=3999999999)
    assert (found.uid, found.name) == (3999999999, "3999999999")


def test_the_runtime_directory_is_the_users(tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": "/run/mine"}
    assert read_invoker(environ=env, euid=ANOTHER.pw_uid).runtime_dir == "/run/mine"
    named = {"XDG_RUNTIME_DIR": str(tmp_path)}
    roots = read_invoker(environ={**named, "SUDO_UID": UID}, euid=0).runtime_dir
    if tmp_path.stat().st_uid != SOMEBODY.pw_uid:
        assert roots in ("", f"/run/user/{UID}")  # root's, not the user's
    if os.geteuid() == 0:
        os.chown(tmp_path, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
        for key in ("SUDO_UID", "PKEXEC_UID"):
            assert read_invoker(environ={**named, key: UID}, euid=0).runtime_dir == str(tmp_path)
        other = read_invoker(ANOTHER.pw_name, environ={**named, "SUDO_UID": UID}, euid=0)
        assert other.runtime_dir != str(tmp_path)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can reach."""
    with tempfile.TemporaryDirectory(prefix="qscreen-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_wayland_alone(place: Path) -> None:
    def found(display: str, **more: str) -> str:
        env = {"WAYLAND_DISPLAY": display, "XDG_RUNTIME_DIR": str(place), **more}
        user = read_invoker(environ=env, euid=ANOTHER.pw_uid)
        assert user.display is (user.no_display == "")
        return user.no_display

    assert found("wayland-7") == f"there is no {place}/wayland-7"
    with socket.socket(socket.AF_UNIX) as screen:
        screen.bind(f"{place}/wayland-7")
        (place / "wayland-7").chmod(0o777)
        assert found("wayland-7") == ""
        assert found(f"{place}/wayland-7") == ""
        assert "no XDG_RUNTIME_DIR" in found(f"{place}/wayland-7", XDG_RUNTIME_DIR="")
        (place / "wayland-7").chmod(0o700)
        if place.stat().st_uid != ANOTHER.pw_uid:
            assert found("wayland-7") == f"{ANOTHER.pw_name} may not use {place}/wayland-7"
    assert "no XDG_RUNTIME_DIR" in read_invoker(
        environ={"WAYLAND_DISPLAY": "wayland-0", "SUDO_UID": "3"}, euid=0).no_display
    assert found("wayland-8", DISPLAY=":0") == ""  # X is there


def test_x_asks_for_the_cookie(place: Path) -> None:
    def found(user: str = "", **env: str) -> str:
        return read_invoker(user, environ={"DISPLAY": ":0", **env}, euid=0).no_display

    cookie = place / "cookie"
    assert found(XAUTHORITY=str(cookie)) == ""  # the server may know the user by the uid
    cookie.touch(0o600)
    if place.stat().st_uid == 0:
        assert found(XAUTHORITY=str(cookie)) == f"nobody may not read {cookie}"
        os.chown(cookie, SOMEBODY.pw_uid, -1)
        assert found(XAUTHORITY=str(cookie), SUDO_UID=UID) == ""
        (place / ".Xauthority").touch(0o600)
        assert found(HOME=str(place)) == f"nobody may not read {place}/.Xauthority"
        assert found(HOME=str(place), SUDO_UID=UID) == ""
    cookie.chmod(0o644)
    assert found(XAUTHORITY=str(cookie)) == ""
    unset = read_invoker(environ={"DISPLAY": ""}, euid=0)
    assert (unset.display, unset.no_display) == (
        False, "neither DISPLAY nor WAYLAND_DISPLAY is set")


def test_this_process() -> None:
    found = read_invoker()
    assert found.root is (os.geteuid() == 0)
    assert found.gid in found.groups
