"""Root acts only on what nobody else could have written: the walk, judged on invented files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import pytest

from qlaunch.errors import ProfileError
from qlaunch.facts.invoker import read_invoker
from qlaunch.profile.read import read_profile
from qlaunch.profile.trust import Verdict, asking_user, check_trust

DIR, LINK, FILE = stat.S_IFDIR, stat.S_IFLNK, stat.S_IFREG
TMP = (DIR | 0o1777, 0)
BOOT = "[[cdrom]]\nfile = 'install.iso'\n"


class Status(NamedTuple):
    st_mode: int
    st_uid: int


class Host:
    """An invented file system: path → (mode, owner), or a link's target."""

    def __init__(self, **changes: tuple[int, int] | str) -> None:
        self.files: dict[str, tuple[int, int] | str] = {
            "/": (DIR | 0o755, 0),
            "/etc": (DIR | 0o755, 0),
            "/etc/qlaunch": (DIR | 0o755, 0),
            "/etc/qlaunch/vm.toml": (FILE | 0o644, 0),
            "/home": (DIR | 0o755, 0),
            "/home/me": (DIR | 0o700, 1000),
            "/home/me/vm.toml": (FILE | 0o644, 1000),
            "/tmp": TMP,
            "/tmp/own": (DIR | 0o700, 0),
            "/tmp/own/vm.toml": (FILE | 0o600, 0),
            "/tmp/vm.toml": (FILE | 0o600, 0),
            **{"/" + name.replace("__", "/").replace("_toml", ".toml"): change
               for name, change in changes.items()},
        }

    def lstat(self, path: str) -> Status:
        entry = self.files[path]
        return Status(LINK | 0o777, 0) if isinstance(entry, str) else Status(*entry)

    def readlink(self, path: str) -> str:
        entry = self.files[path]
        assert isinstance(entry, str)
        return entry

    def judge(self, path: str, real: str = "", asking: int | None = None) -> Verdict:
        return check_trust(path, self.lstat(real or path), asking, self.lstat, self.readlink)


def where(verdict: Verdict) -> list[str]:
    return [problem.where for problem in verdict.problems]


def test_what_is_roots_alone_is_trusted() -> None:
    assert Host().judge("/etc/qlaunch/vm.toml") == Verdict((), True)
    odd = Host().judge("/etc/./qlaunch//../qlaunch/vm.toml", "/etc/qlaunch/vm.toml")
    assert odd == Verdict((), True)


def test_the_asking_user_may_own_it_but_not_unnoticed() -> None:
    assert Host().judge("/home/me/vm.toml", asking=1000) == Verdict((), False)
    assert where(Host().judge("/home/me/vm.toml")) == ["/home/me", "/home/me/vm.toml"]
    assert where(Host().judge("/home/me/vm.toml", asking=1001)) == [
        "/home/me", "/home/me/vm.toml"
    ]
    # root's own file in a directory of the user's: the user can put another in its place
    host = Host(home__me__vm_toml=(FILE | 0o644, 0))
    assert host.judge("/home/me/vm.toml", asking=1000) == Verdict((), False)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"etc__qlaunch__vm_toml": (FILE | 0o664, 0)}, "/etc/qlaunch/vm.toml"),
        ({"etc__qlaunch__vm_toml": (FILE | 0o646, 0)}, "/etc/qlaunch/vm.toml"),
        ({"etc__qlaunch__vm_toml": (FILE | 0o600, 33)}, "/etc/qlaunch/vm.toml"),
        ({"etc__qlaunch": (DIR | 0o775, 0)}, "/etc/qlaunch"),
        ({"etc__qlaunch": (DIR | 0o757, 0)}, "/etc/qlaunch"),
        ({"etc__qlaunch": (DIR | 0o755, 33)}, "/etc/qlaunch"),
        ({"etc": (DIR | 0o777, 0)}, "/etc"),
        ({"etc": (DIR | 0o755, 33)}, "/etc"),
        ({"etc__qlaunch": (DIR | 0o1777, 0)}, "/etc/qlaunch"),
    ],
)
def test_what_others_may_write_is_refused(
    change: dict[str, tuple[int, int]], refused: str
) -> None:
    assert where(Host(**change).judge("/etc/qlaunch/vm.toml")) == [refused]


def test_sticky_directories() -> None:
    assert Host().judge("/tmp/own/vm.toml") == Verdict((), True)
    assert where(Host().judge("/tmp/vm.toml")) == ["/tmp"]
    assert where(Host(tmp=(DIR | 0o777, 0)).judge("/tmp/own/vm.toml")) == ["/tmp"]
    assert where(Host(tmp=(DIR | 0o1777, 33)).judge("/tmp/own/vm.toml")) == ["/tmp"]
    stranger = Host(tmp__own=(DIR | 0o755, 33)).judge("/tmp/own/vm.toml")
    assert where(stranger) == ["/tmp", "/tmp/own"]


def test_links_are_followed_and_their_directories_judged() -> None:
    host = Host(etc__qlaunch__ln_toml="../../home/me/vm.toml", etc__home="/home/me", tmp__ln="/etc")
    assert where(host.judge("/etc/qlaunch/ln.toml", "/home/me/vm.toml")) == [
        "/home/me", "/etc/qlaunch/ln.toml"
    ]
    assert where(host.judge("/etc/home/vm.toml", "/home/me/vm.toml"))[0] == "/home/me"
    # whoever can replace the link chooses the file
    assert where(host.judge("/tmp/ln/qlaunch/vm.toml", "/etc/qlaunch/vm.toml")) == ["/tmp"]


def test_a_loop_of_links_ends() -> None:
    with pytest.raises(OSError, match="too many symbolic links"):
        Host(etc__a="b", etc__b="a").judge("/etc/a", "/etc")


def test_each_refusal_says_what_to_do() -> None:
    verdict = Host(etc=(DIR | 0o777, 0)).judge("/etc/qlaunch/vm.toml")
    assert str(verdict.problems[0]) == (
        "error: /etc: root does not act on a profile when others may write the directory\n"
        "  found:   owner uid 0, mode 0777\nhint: chmod go-w /etc"
    )


@pytest.mark.parametrize(
    ("environ", "uid"),
    [
        ({}, None), ({"SUDO_UID": "1000"}, 1000), ({"PKEXEC_UID": "1001"}, 1001),
        ({"SUDO_UID": "0"}, None), ({"SUDO_UID": "-1"}, None), ({"SUDO_UID": "x"}, None),
        ({"SUDO_UID": "²"}, None), ({"SUDO_UID": "", "PKEXEC_UID": "7"}, 7),
    ],
)
def test_asking_user(environ: dict[str, str], uid: int | None) -> None:
    assert asking_user(environ) == uid


def test_a_set_user_id_program_believes_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.setenv(name, "0")
    assert asking_user() == 1000
    found = read_invoker("")
    assert (found.root, found.asked, found.uid) == (True, 1000, 1000)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert asking_user() is None


def test_who_is_no_root_reads_anything(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(BOOT, encoding="utf-8")
    path.chmod(0o666)
    assert not read_profile(path, root_user=False).trusted


@pytest.mark.skipif(os.geteuid() != 0, reason="files of root's and of others' are made")
def test_the_reader_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)
    base, path = tmp_path / "base.toml", tmp_path / "vm.toml"
    base.write_text(BOOT, encoding="utf-8")
    path.write_text('extends = "base.toml"\n', encoding="utf-8")
    assert read_profile(path, root_user=True).trusted
    assert read_profile(path, ["cpu.cores=2"], root_user=True).trusted
    base.chmod(0o666)
    with pytest.raises(ProfileError) as caught:
        read_profile(path, root_user=True)
    assert [problem.where for problem in caught.value.problems] == [str(base)]
    base.chmod(0o644)
    os.chown(base, 4242, 4242)
    with pytest.raises(ProfileError):
        read_profile(path, root_user=True)
    monkeypatch.setenv("SUDO_UID", "4242")
    assert not read_profile(path, root_user=True).trusted
    os.chown(base, 0, 0)
    assert read_profile(path, root_user=True).trusted
    assert not read_profile(path, ["cpu.cores=2"], root_user=True).trusted


@pytest.mark.skipif(os.geteuid() != 0, reason="files of root's and of others' are made")
@pytest.mark.parametrize("first", ["roots", "strangers"])
def test_what_is_judged_is_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Another file in its place between opening and judging changes nothing."""
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)
    path, other = tmp_path / "vm.toml", tmp_path / "other.toml"
    roots, strangers = (path, other) if first == "roots" else (other, path)
    roots.write_text(BOOT, encoding="utf-8")
    strangers.write_text(BOOT + "[cpu]\ncores = 7\n", encoding="utf-8")
    os.chown(strangers, 4242, 4242)
    opened: list[str] = []
    real = os.open

    def swap(name: str | Path, *rest: int, **more: int) -> int:
        fd = real(name, *rest, **more)
        if str(name) == str(path):
            opened.append(str(name))
            other.replace(path)
        return fd

    monkeypatch.setattr(os, "open", swap)
    if first == "roots":
        loaded = read_profile(path, root_user=True)
        assert (loaded.trusted, loaded.profile.cpu.cores) == (True, 1)
    else:
        with pytest.raises(ProfileError, match="another user owns the file"):
            read_profile(path, root_user=True)
    assert opened == [str(path)]
