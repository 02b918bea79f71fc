"""Disks and CD drives: their places, and whether their files may be used."""

from __future__ import annotations

import pytest

from qlaunch.facts.model import HostFile
from tests.fake.plans import ROOT, USER, host, planned, said

SELF = type(ROOT)(root=True, uid=65534, gid=65534, name="nobody")  # root for itself


def disk(path: str, more: str = "") -> str:
    return f'[[disk]]\nfile = "{path}"\n{more}\n'


def fault(file: HostFile, more: str = "", *, by: object = USER) -> tuple[str, str, str] | None:
    """(where, message, hint) of the one fault, or None."""
    plan = planned(disk(file.path, more), host(files=(file,), invoker=by))
    found = [p for p in plan.problems if p.severity == "error"]
    assert len(found) <= 1, found
    return (found[0].where, found[0].message, found[0].hint) if found else None


def block(**more: object) -> HostFile:
    return HostFile(path="/dev/sdb1", kind="block", **more)  # type: ignore[arg-type]


KINDS = [
    (HostFile(path="/x.qcow2", kind="missing"), "no such file",
     "qemu-img create -f qcow2 '/x.qcow2' 64G"),
    (HostFile(path="/x.img", kind="missing"), "no such file",
     "qemu-img create -f raw '/x.img' 64G"),
    (HostFile(path="/dev/sdz", kind="missing"), "no such file", "lsblk"),
    (HostFile(path="/x", kind="missing"), "no such file", "relative to the profile's"),
    (HostFile(path="/x", kind="denied"), "cannot be reached by you", "namei -l '/x'"),
    (HostFile(path="/x", kind="directory"), "this is a directory", "name a disk image"),
    (HostFile(path="/x", kind="char"), "this is a character device", "name a disk image"),
    (HostFile(path="/x", kind="socket"), "this is a socket", "name a disk image"),
    (HostFile(path="/x", kind="other"), "this is a pipe", "name a disk image"),
    (HostFile(path="/x", kind="file", writable=False), "you may not read and write this file",
     "namei -l"),
    (block(mounted=("/mnt", "/srv")), "the host has this block device mounted",
     "umount /mnt /srv"),
    (block(mounted=("/home", "/")), "the host has this block device mounted",
     "name another disk"),
    (block(in_use="LVM"), "the host uses this block device", "lsblk '/dev/sdb1'"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "message", "hint"), KINDS)
def test_refused_with_a_hint(file: HostFile, message: str, hint: str) -> None:
    found = fault(file)
    assert found is not None
    assert found[0] == "disk[0].file"
    assert found[1].startswith(message) or message in found[1]
    assert hint in found[2]


def test_what_is_only_read_needs_less() -> None:
    ro = "read_only = true"
    assert fault(HostFile(path="/x", kind="file", writable=False), ro) is None
    assert fault(block(mounted=("/mnt",)), ro) is None
    found = fault(HostFile(path="/x", kind="file", readable=False), ro)
    assert found is not None
    assert found[1] == "you may not read this file"


def test_nothing_is_said_of_a_file_that_nobody_looked_at() -> None:
    assert said(planned(disk("/x"), host())) == []


@pytest.mark.parametrize(
    ("by", "kind", "opened"),
    [(SELF, "file", True), (ROOT, "file", False), (ROOT, "block", True), (SELF, "block", True)],
)
def test_root_opens_what_the_account_cannot_and_only_what_it_may(
    by: object, kind: str, opened: bool
) -> None:
    locked = HostFile(path="/x", kind=kind, readable=False, writable=False)  # type: ignore[arg-type]
    plan = planned(disk("/x"), host(files=(locked,), invoker=by))
    assert [f.of for f in plan.fds if f.kind == "file"] == (["/x"] if opened else [])
    assert (plan.disks[0].fd is not None) is opened
    assert bool(said(plan)) is not opened  # a user's path must not open root's files to them
    own = HostFile(path="/x", kind=kind)  # type: ignore[arg-type]
    plan = planned(disk("/x"), host(files=(own,), invoker=by))
    assert plan.disks[0].fd is None


def test_a_cd_is_opened_for_reading() -> None:
    locked = HostFile(path="/x", kind="file", readable=False, writable=False)
    plan = planned('[[cdrom]]\nfile = "/x"\n', host(files=(locked,), invoker=SELF))
    assert [(f.of, f.writable) for f in plan.fds if f.kind == "file"] == [("/x", False)]


def test_block_devices_have_a_driver_of_their_own() -> None:
    plan = planned(disk("/dev/sdb1") + disk("/dev/disk/by-id/x") + disk("/x"),
                   host(files=(block(), HostFile(path="/x", kind="block"))))
    assert [d.protocol for d in plan.disks] == ["host_device"] * 3
    plan = planned(disk("/dev/shm/x") + disk("/y"),
                   host(files=(HostFile(path="/dev/shm/x", kind="file"),)))
    assert [d.protocol for d in plan.disks] == ["file", "file"]


def test_sata_ports_are_a_map() -> None:
    sata = 'bus = "sata"'
    cds = '[[cdrom]]\nfile = "/c"\n' * 3
    plan = planned(disk("/a", sata) + disk("/b", sata) + disk("/d", sata) + cds)
    assert [d.place.bus for d in plan.disks] == [f"ide.{n}" for n in (0, 5, 4, 1, 2, 3)]
    assert said(plan) == []
    four = planned(disk("/a", sata) * 4)
    assert said(four) == ["disk[3]: SATA port 4 is already taken by disk[2]"]
    assert four.problems[-1].hint
    clash = planned(disk("/a", sata) + '[[cdrom]]\nfile = "/c"\nport = 0\n')
    assert said(clash) == ["cdrom[0]: SATA port 0 is already taken by disk[0]"]


def test_the_old_machine_has_two_ide_buses_of_two() -> None:
    text = '[machine]\ntype = "pc"\n' + disk("/a", 'bus = "ide"') + '[[cdrom]]\nfile = "/c"\n'
    plan = planned(text)
    assert [(d.place.bus, d.unit) for d in plan.disks] == [("ide.0", 0), ("ide.0", 1)]


def test_other_files_are_looked_at_too() -> None:
    text = """
[machine]
bios = "/bios"
acpi_tables = [{ file = "/table" }]
[[pci]]
device = "00:02.0"
rom = "/rom"
"""
    files = tuple(HostFile(path=p, kind="missing") for p in ("/bios", "/table", "/rom"))
    found = [line for line in said(planned(text, host(files=files))) if "no such file" in line]
    assert {line.partition(":")[0] for line in found} == {
        "machine.bios", "machine.acpi_tables[0].file", "pci[0].rom",
    }
    locked = (HostFile(path="/bios", kind="file", readable=False),)
    # QEMU opens these by itself, so root cannot hand them over.
    plan = planned('[machine]\nbios = "/bios"\n', host(files=locked, invoker=SELF))
    assert said(plan) == ["machine.bios: nobody, who QEMU runs as, may not read this file"]


@pytest.mark.parametrize(
    ("lock", "read_only", "refused"),
    [("", False, False), ("writing", False, True), ("writing", True, True),
     ("reading", False, True), ("reading", True, False)],
)  # fmt: skip
def test_an_image_that_another_qemu_has(lock: str, read_only: bool, refused: bool) -> None:
    file = HostFile(path="/x", kind="file", lock=lock, locked_by="the machine vm (pid 7)")  # type: ignore[arg-type]
    found = fault(file, "read_only = true" if read_only else "")
    assert (found is not None) is refused
    if found is not None:
        assert found[1] == "another QEMU has this disk open"
        assert found[2].startswith("shut that machine down first")
        assert ("read_only = true" in found[2]) is (lock == "reading")
