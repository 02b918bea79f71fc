"""Raw words for QEMU, hooks and programs: what of them a profile has that is not root's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from qlaunch.cli.elevate import refuse_what_pkexec_would
from qlaunch.errors import ProfileError
from qlaunch.profile.check_qemu import check_inherited
from qlaunch.profile.control import Qemu
from qlaunch.profile.letin import is_let_in, is_roots
from qlaunch.profile.profile import Profile
from qlaunch.profile.read import read_profile
from qlaunch.values import VmName

BOOT = '[[disk]]\nfile = "disk.img"\n'
ARGS = BOOT + '[qemu]\nargs = ["-device", "usb-tablet"]\n'
TOLD = "through pkexec, only a profile of root's own may say what is run"
USER = 4242
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="files of root's and of others' are made")


@pytest.fixture(autouse=True)
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("word", [
    "-add-fd", "--add-fd", "fd=100", "tap,id=n,fd=101", "tap,fds=101:102", "tap,vhostfd=103",
    "tap,vhostfds=103:104", "proxy,sock_fd=100", "socket,id=c,fd=100", "fd:100", "vfio-pci,fd=100",
    '{"driver":"vfio-pci","fd":"100"}', '{"qom-type": "iommufd", "fd": "100"}',
    "stream,id=n,addr.type=fd,addr.str=100", "nbd,server.type=fd,server.str=100",
    '{"server":{"type":"fd","str":"100"}}', "file,filename=/dev/fdset/1", "/dev/fd/100",
    "file=/proc/self/fd/100", "file=/proc//thread-self/fd/100",
])
def test_no_raw_word_names_an_open_file_of_qlaunchs(word: str) -> None:
    (finding,) = check_inherited(Profile(name=VmName("vm"), qemu=Qemu(args=("-x", word))))
    assert finding.path == ("qemu", "args", 1)
    assert (finding.problem.severity, bool(finding.problem.hint)) == ("error", True)


@pytest.mark.parametrize("table", ["set", "globals"])
def test_no_property_does(table: str) -> None:
    said: Any = {
        "net0.fd": 100, "net0.vhostfd": "101", "net0.host_mtu": 9000, "x.iommufd": "iommufd0",
    }
    qemu = Qemu(set=said) if table == "set" else Qemu(globals=said)
    found = check_inherited(Profile(name=VmName("vm"), qemu=qemu))
    assert [f.path for f in found] == [("qemu", table, "net0.fd"), ("qemu", table, "net0.vhostfd")]


@pytest.mark.parametrize("word", [
    "vfio-pci,host=01:00.0,iommufd=iommufd0", "iommufd,id=iommufd0", "memory-backend-memfd,id=m",
    "name=opt/x,string=fd=1", "file=/home/me/fd/disk.img", "rd.debug root=/dev/fd0", "-fdtype",
    "if=floppy,file=/dev/fd0", "-fda", "type=fdc", "driver=isa-fdc,fdtypeA=144",
])
def test_words_that_look_like_it(word: str) -> None:
    assert list(check_inherited(Profile(name=VmName("vm"), qemu=Qemu(args=(word,))))) == []


@pytest.mark.parametrize(("environ", "found"), [
    ({}, False), ({"SUDO_UID": "1000"}, False), ({"PKEXEC_UID": "1000"}, True),
    ({"PKEXEC_UID": "1000", "SUDO_UID": "0"}, True), ({"PKEXEC_UID": "0"}, False),
    ({"PKEXEC_UID": "x"}, False),
])
def test_who_was_let_in(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, found: bool
) -> None:
    assert is_let_in(environ) is found
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert is_let_in()  # by a set-user-ID program, whatever the environment says


@ROOT
@pytest.mark.parametrize(("lines", "where"), [
    ('[qemu]\nargs = ["-device", "usb-tablet"]\n', "vm.toml:4: qemu.args"),
    ('[hooks]\nbefore = [["true"]]\n', "vm.toml:4: hooks.before"),
    ('[hooks]\nafter = [["true"]]\n', "vm.toml:4: hooks.after"),
    ('[qemu]\nbinary = "./own"\n', "vm.toml:4: qemu.binary"),
])
def test_a_users_profile_says_what_is_run_through_sudo_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, where: str
) -> None:
    path, own = tmp_path / "vm.toml", tmp_path / "own"
    path.write_text(BOOT + lines, encoding="utf-8")
    own.touch()
    for file in (path, own):
        os.chown(file, USER, USER)
    monkeypatch.setenv("SUDO_UID", str(USER))
    assert not read_profile(path, root_user=True).trusted
    monkeypatch.setenv("PKEXEC_UID", str(USER))
    with pytest.raises(ProfileError) as caught:
        read_profile(path, root_user=True)
    (problem,) = caught.value.problems
    assert (problem.message, problem.where) == (TOLD, where)
    assert "/etc/qlaunch" in problem.hint
    for file in (path, own):
        os.chown(file, 0, 0)
    assert read_profile(path, root_user=True).trusted
    with pytest.raises(ProfileError, match="may say what is run"):
        read_profile(path, ['qemu.args=["-device","usb-tablet"]'], root_user=True)


@ROOT
def test_a_program_of_roots_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(Path("/bin/true").resolve())
    assert is_roots([program])
    path = tmp_path / "vm.toml"
    path.write_text(f'{BOOT}[qemu]\nbinary = "{program}"\n', encoding="utf-8")
    os.chown(path, USER, USER)
    monkeypatch.setenv("PKEXEC_UID", str(USER))
    assert not read_profile(path, root_user=True).trusted
    assert not is_roots([str(tmp_path / "none")])


@ROOT
def test_nobody_is_asked_for_a_password_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "pkexec").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys, "argv", ["qlaunch", "run", "vm"])
    path = tmp_path / "vm.toml"
    path.write_text(ARGS, encoding="utf-8")
    refuse_what_pkexec_would(read_profile(path, root_user=False))  # root's
    os.chown(path, USER, USER)
    loaded = read_profile(path, root_user=False)
    with pytest.raises(ProfileError) as caught:
        refuse_what_pkexec_would(loaded)
    (problem,) = caught.value.problems
    assert (problem.message, problem.where) == (TOLD, "vm.toml:4: qemu.args")
    path.write_text(BOOT, encoding="utf-8")
    refuse_what_pkexec_would(read_profile(path, root_user=False))
    path.write_text(ARGS, encoding="utf-8")
    monkeypatch.delenv("DISPLAY")
    (tools / "sudo").touch(mode=0o755)
    refuse_what_pkexec_would(loaded)
