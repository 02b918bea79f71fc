"""Discs put into and taken out of the drives of a machine that runs."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.guest import Guest, make_guest
from tests.qemu.test_verbs import Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu
DRIVES = '[[cdrom]]\nfile = "first.iso"\n[[cdrom]]\nbus = "scsi"\n'


def disc(vm: Vm, name: str, size: int = 1 << 16) -> Path:
    path = vm.directory / name
    path.write_bytes(name.encode().ljust(size, b"\0"))
    return path


def running(make: Make, qemu: str = "", drives: str = DRIVES, **settings: str) -> Vm:
    vm = make(disk=drives, **settings)
    disc(vm, "first.iso")
    extra = ("--set", f'qemu.binary="{qemu}"') if qemu else ()
    started = qlaunch("run", str(vm.path), "--detach", *extra)
    assert started.returncode == 0, started.stderr
    return vm


def media(vm: Vm, *words: str) -> dict[str, tuple[str, bool]]:
    """Drive → (name of what is in it, whether its tray is open), after the verb."""
    done = qlaunch("media", vm.name, *words, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["machine"] == vm.name
    return {d["id"]: (Path(d["file"]).name, d["tray_open"]) for d in said["drives"]}


def open_files(vm: Vm) -> set[str]:
    folder = Path(f"/proc/{vm.qemu()}/fd")
    return {entry.readlink().name for entry in folder.iterdir()
            if entry.is_symlink()}


def test_discs_are_changed_and_taken_out(make: Make, both_qemus: str) -> None:
    vm = running(make, both_qemus)
    second, third = disc(vm, "second.iso"), disc(vm, "third, with comma.iso")
    for path in (second, third):
        path.chmod(0o600)  # for root's machine: QEMU's account cannot open it
    assert media(vm) == {"cd0": ("first.iso", False), "cd1": ("", False)}
    assert media(vm, "change", str(second), "--drive", "cd0") == {
        "cd0": ("second.iso", False), "cd1": ("", False)}
    assert {"second.iso", "first.iso"} & open_files(vm) == {"second.iso"}
    assert media(vm, "change", str(third), "--drive", "cd1") == {
        "cd0": ("second.iso", False), "cd1": (third.name, False)}
    assert media(vm, "eject", "cd0") == {"cd0": ("", True), "cd1": (third.name, False)}
    assert {"second.iso", third.name} & open_files(vm) == {third.name}
    assert media(vm, "change", str(vm.directory / "first.iso"), "--drive", "cd0") == {
        "cd0": ("first.iso", False), "cd1": (third.name, False)}
    shown = qlaunch("media", vm.name).stdout.splitlines()
    assert shown[0].split() == ["DRIVE", "TRAY", "MEDIUM"]
    assert shown[1].endswith("/first.iso")
    assert qlaunch("stop", vm.name, "--now").returncode == 0


def test_what_cannot_be_done_changes_nothing(make: Make) -> None:
    vm = running(make)
    before = media(vm)
    cases: tuple[tuple[tuple[str, ...], int, str], ...] = (
        (("change",), 2, "change needs a file"),
        (("change", "/nonexistent.iso", "--drive", "cd0"), 1, "cannot be opened: No such file"),
        (("change", str(vm.directory), "--drive", "cd0"), 1, "no file or block device"),
        (("change", "/dev/null", "--drive", "cd0"), 1, "no file or block device"),
        (("change", str(vm.directory / "first.iso")), 2, "which drive?"),
        (("eject", "cd7"), 2, "did you mean cd"),
        (("eject", "cd0", "--drive", "cd1"), 2, "two drives are named"),
        (("eject", "disk0"), 2, "there is no such drive"),
        (("show", "cd0"), 2, "takes nothing else"),
        (("nonsense",), 2, "there is no such choice"),
    )
    for words, code, says in cases:
        done = qlaunch("media", vm.name, *words)
        assert (done.returncode, says in done.stderr) == (code, True), (words, done)
    assert media(vm) == before
    nodes = {name for name in open_files(vm) if name.endswith(".iso")}
    assert nodes == {"first.iso"}


def test_a_machine_without_drives_and_one_that_does_not_run(make: Make) -> None:
    vm = running(make, drives="")
    assert media(vm) == {}
    done = qlaunch("media", vm.name, "eject")
    assert (done.returncode, "has no CD drive" in done.stderr) == (1, True)
    qlaunch("stop", vm.name, "--now")
    gone = qlaunch("media", vm.name)
    assert (gone.returncode, "no machine" in gone.stderr) == (1, True)


def test_somebody_else_has_the_monitor(make: Make) -> None:
    vm = running(make, drives='[[cdrom]]\n')
    info = json.loads(Path(vm.runtime, "run.json").read_text())
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(f"{info['socket_dir']}/qmp.sock")
        other.recv(100)  # its greeting: the monitor is ours now
        done = qlaunch("media", vm.name)
    assert done.returncode == 1
    assert "the machine's monitor does not answer" in done.stderr
    assert "one program at a time" in done.stderr
    assert media(vm) == {"cd0": ("", False)}


def test_an_image_that_another_machine_writes_to(make: Make) -> None:
    """Whoever has it is named; the lock is the one that QEMU takes for a disk it writes to
    (RAW_LOCK_PERM_BASE + 1 in block/file-posix.c)."""
    vm = running(make, drives="[[cdrom]]\n")
    image = disc(vm, "theirs.img")
    with image.open("r+b") as theirs:
        fcntl.fcntl(theirs, fcntl.F_OFD_SETLK,
                    struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        done = qlaunch("media", vm.name, "change", str(image))
    assert done.returncode == 1
    assert f"error: {image}: another QEMU writes to this file\n  found:   " in done.stderr
    assert f"(pid {os.getpid()})\nhint: shut that machine down first\n" in done.stderr
    refused = qlaunch("qmp", vm.name, "blockdev-del", '{"node-name": "none"}')
    assert f"hint: qlaunch logs '{vm.name}' may tell more" in refused.stderr
    unknown = qlaunch("qmp", vm.name, "xyzzy")
    assert f"hint: qlaunch qmp '{vm.name}' query-commands\n" in unknown.stderr
    assert media(vm) == {"cd0": ("", False)}
    qlaunch("pause", vm.name)
    assert f"qlaunch resume '{vm.name}' lets it go on" in qlaunch("reset", vm.name).stderr


LOCKING = """\
exec 3</dev/sr0
echo guest: $(head -c 8 /dev/sr0) locked
while head -c 8 /dev/sr0 2>/dev/null | grep -q first; do sleep 1; done
exec 3<&-
echo guest: unlocked
while sleep 1; do echo guest: has $(head -c 8 /dev/sr0 2>/dev/null); done
"""


@pytest.fixture
def guest() -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-guest-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield make_guest(directory, LOCKING, ("ahci", "sr_mod"))


def test_a_guest_that_has_locked_the_drive(
    make: Make, both_qemus: str, guest: Guest
) -> None:
    vm = make(disk='[[cdrom]]\nfile = "first.iso"\n')
    disc(vm, "first.iso")
    second, third = disc(vm, "second.iso"), disc(vm, "third.iso")
    text = vm.path.read_text().replace('memory = "64M"', 'memory = "256M"').replace("boot = 0", "")
    vm.path.write_text(
        text + f'[kernel]\nfile = "{guest.kernel}"\ninitrd = "{guest.initrd}"\n'
        f'append = "{guest.append}"\n'
    )
    done = qlaunch("run", str(vm.path), "--detach", "--set", f"qemu.binary={both_qemus}")
    assert done.returncode == 0, done.stderr
    until(lambda: "guest: first.is locked" in vm.serial.read_text(), "the guest has locked it")
    assert "locked" in qlaunch("media", vm.name).stdout
    refused = qlaunch("media", vm.name, "change", str(second))
    assert refused.returncode == 1
    assert "the guest has locked the drive and does not open it" in refused.stderr
    assert "--force" in refused.stderr
    assert media(vm) == {"cd0": ("first.iso", False)}
    assert {n for n in open_files(vm) if n.endswith(".iso")} == {"first.iso"}
    assert media(vm, "change", str(second), "--force") == {"cd0": ("second.iso", False)}
    until(lambda: "guest: unlocked" in vm.serial.read_text(), "the guest has let go of it")
    assert media(vm, "change", str(third)) == {"cd0": ("third.iso", False)}
    until(lambda: "guest: has third.is" in vm.serial.read_text(), "the guest sees the new one")
