"""Whom QEMU runs as, by who asked and how."""

from __future__ import annotations

import os
import pwd

import pytest

from qlaunch.errors import HostError
from qlaunch.facts.invoker import read_invoker

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


def test_screen_and_runtime_directory() -> None:
    env = {"XDG_RUNTIME_DIR": "/run/mine", "WAYLAND_DISPLAY": "wayland-0"}
    own = read_invoker(environ=env, euid=ANOTHER.pw_uid)
    assert (own.runtime_dir, own.display) == ("/run/mine", True)
    other = read_invoker(environ={**env, "SUDO_UID": UID}, euid=0)
    assert other.runtime_dir != "/run/mine"  # root's, not the user's
    assert read_invoker(environ={"DISPLAY": ""}, euid=0).display is False


def test_this_process() -> None:
    found = read_invoker()
    assert found.root is (os.geteuid() == 0)
    assert found.gid in found.groups
