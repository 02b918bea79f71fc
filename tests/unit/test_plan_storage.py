"""Disks and CD drives: their places, and whether their files may be used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import render_argv
from qlaunch.facts.model import HostFile
from qlaunch.plan.model import Plan
from tests.fake.plans import QEMU, ROOT, USER, host, planned, said

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


def made(path: str = "/vm/new.qcow2", more: str = "", **file: object) -> Plan:
    """A disk that is to be made, where its file is missing."""
    missing = HostFile(path=path, kind="missing", **{"free": 1 << 40, **file})  # type: ignore[arg-type]
    text = disk(path, f'format = "qcow2"\ncreate = {{ size = "64G"{more} }}')
    return planned(text, host(files=(missing,), invoker=USER,
                              programs={"qemu-img": "/usr/bin/qemu-img"}))


def test_a_missing_disk_is_made() -> None:
    plan = made(more=', preallocation = "metadata", lazy_refcounts = true, cluster_size = "2M"')
    assert said(plan) == []
    (make,) = plan.makes
    assert (make.path, make.what) == ("/vm/new.qcow2", "a qcow2 disk of 64G")
    assert make.argv == (
        "/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata",
        "-o", "cluster_size=2097152", "-o", "lazy_refcounts=on", "/vm/new.qcow2.new",
        str(64 << 30),
    )
    there = HostFile(path="/vm/new.qcow2", kind="file", format="qcow2")
    text = disk("/vm/new.qcow2", 'format = "qcow2"\ncreate = { size = "64G" }')
    assert planned(text, host(files=(there,))).makes == ()


def test_what_stands_against_making_one() -> None:
    def why(plan: Plan) -> tuple[str, str, str]:
        (problem,) = plan.problems
        return problem.message, problem.found, problem.hint

    message, found, hint = why(made(near="/"))
    assert (message, found, hint) == (
        "there is no directory to make the disk in", "/vm; / is there", "mkdir -p '/vm'")
    assert why(made(writable=False))[0] == "you may not make a file here"
    full: dict[str, Any] = {"free": 10 << 30}
    message, found, _ = why(made(more=', preallocation = "falloc"', **full))
    assert (message, found) == ("there is no room for the disk", "64G asked for, 10G free")
    assert why(made(**full))[0] == "the disk may grow larger than the space there is"
    assert said(made(**full)) == []
    assert said(made("/dev/sdq")) == ["disk[0].create: a block device is not made here"]
    gone = planned(
        disk("/new", 'create = { size = "1G" }'),
        host(files=(HostFile(path="/new", kind="missing"),), programs={"qemu-img": ""}))
    assert "disk[0].create: qemu-img is not installed" in said(gone)


@pytest.mark.parametrize(("by", "opened"), [(SELF, True), (ROOT, False), (USER, False)])
def test_a_made_file_is_whose_the_machine_is(by: object, opened: bool) -> None:
    missing = HostFile(path="/new", kind="missing")
    plan = planned(disk("/new", 'create = { size = "1G" }'), host(files=(missing,), invoker=by))
    assert [f.of for f in plan.fds if f.kind == "file"] == (["/new"] if opened else [])


@pytest.mark.parametrize(
    ("says", "found", "message"),
    [
        ("raw", "qcow2", "this is a qcow2 image, and would be shown to the guest as it lies there"),
        ("qcow2", "raw", "this is no qcow2 image"), ("qcow2", "vmdk", "this is no qcow2 image"),
        ("raw", "raw", ""), ("vpc", "vpc", ""), ("qcow2", "", ""), ("raw", "", ""),
    ],
)
def test_an_image_is_what_it_is_called(says: str, found: str, message: str) -> None:
    file = HostFile(path="/x", kind="file", format=found)
    fault_found = fault(file, f'format = "{says}"')
    assert (fault_found[1] if fault_found else "") == message
    if message:
        assert fault_found is not None
        assert f'format = "{found}"' in fault_found[2]


def test_a_cd_is_no_qcow2() -> None:
    file = HostFile(path="/x", kind="file", format="qcow2")
    assert said(planned('[[cdrom]]\nfile = "/x"\n', host(files=(file,)))) == [
        "cdrom[0].file: this is a qcow2 image, and would be shown to the guest as it lies there"]


def test_direct_io_is_asked_for_when_the_file_is_opened() -> None:
    locked = HostFile(path="/x", kind="file", readable=False, writable=False)
    for cache, direct in (("none", True), ("directsync", True), ("writeback", False)):
        plan = planned(disk("/x", f'cache = "{cache}"'), host(files=(locked,), invoker=SELF))
        assert [f.direct for f in plan.fds if f.kind == "file"] == [direct]


def test_a_throwaway_disk_is_a_reader_with_a_file_above_it() -> None:
    file = HostFile(path="/x", kind="block", writable=False, mounted=("/mnt",), size=1 << 30)
    plan = planned(disk("/x", 'throwaway = true\ncache = "none"'),
                   host(files=(file,), programs={"qemu-img": "/usr/bin/qemu-img"}))
    assert said(plan) == []
    (one,) = plan.disks
    assert (one.capacity, one.fd, plan.qemu_img) == (1 << 30, None, "/usr/bin/qemu-img")
    assert [(f.kind, f.direct) for f in plan.fds if f.number == one.overlay] == [("overlay", True)]
    qcow2 = HostFile(path="/x", kind="file", format="qcow2", size=200, capacity=5 << 30)
    plan = planned(disk("/x", 'throwaway = true\nformat = "qcow2"'), host(files=(qcow2,)))
    assert plan.disks[0].capacity == 5 << 30


def test_io_that_this_qemu_was_built_without() -> None:
    poor = replace(QEMU, aio=("native", "threads"))
    (problem,) = planned(disk("/x", 'io = "io_uring"'), host(qemu=poor)).problems
    assert (problem.where, problem.allowed) == ("disk[0].io", "native, threads")
    assert "Debian" in problem.hint
    assert said(planned(disk("/x", 'io = "io_uring"'), host())) == []  # nobody asked it


def test_scsi_places() -> None:
    two = '[[controller]]\ntype = "{}"\n'
    cds = '[[cdrom]]\nbus = "scsi"\n' * 2
    scsi = 'bus = "scsi"'
    plan = planned(disk("/a", scsi) + disk("/b", scsi + "\nlun = 3") + cds)
    assert [(d.place.bus, d.target, d.lun) for d in plan.disks] == [
        ("scsi0.0", 0, 0), ("scsi0.0", 1, 3), ("scsi0.0", 15, 0), ("scsi0.0", 14, 0)]
    assert [(c.id, c.device, c.place.addr) for c in plan.controllers] == [
        ("scsi0", "virtio-scsi-pci", "06.0")]
    plan = planned(disk("/a", scsi) + cds + two.format("lsi"))
    assert [(d.place.bus, d.target) for d in plan.disks] == [("lsi0.0", n) for n in (0, 6, 5)]
    assert said(planned(disk("/a", scsi + "\nport = 7") + two.format("lsi"))) == [
        "disk[0].port: the controller lsi0 has no target 7"]
    assert said(planned(disk("/a", scsi + "\nlun = 1") + two.format("pvscsi"))) == [
        "disk[0].lun: the controller pvscsi0 has no logical unit 1"]
    same = disk("/a", scsi) + disk("/b", scsi + "\nport = 0")
    assert said(planned(same)) == ["disk[1]: target 0 of scsi0 is already taken by disk[0]"]


def test_sata_of_the_old_machine_needs_a_controller() -> None:
    pc = '[machine]\ntype = "pc"\n'
    plan = planned(pc + disk("/a", 'bus = "sata"'))
    assert said(plan) == ["disk[0].bus: the pc machine has no SATA"]
    plan = planned(pc + disk("/a", 'bus = "sata"') + '[[controller]]\ntype = "ahci"\n')
    assert (said(plan), plan.disks[0].place.bus) == ([], "ahci0.0")
    assert said(planned(disk("/a", 'bus = "sata"\nport = 6'))) == [
        "disk[0].port: there is no SATA port 6"]


def test_threads_that_are_shared_are_made_once() -> None:
    text = disk("/a", 'iothread = "fast"') + disk("/b", 'iothread = "fast"') + disk(
        "/c", "iothread = true") + '[[controller]]\ntype = "virtio-scsi"\niothread = "fast"\n'
    argv = render_argv(planned(text))
    assert [w for w in argv if w.startswith("iothread,")] == ["iothread,id=fast",
                                                              "iothread,id=iothread2"]
    assert sum(",iothread=fast" in w for w in argv) == 3


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("logical_block_size = 4096", "4096"),
        ("logical_block_size = 512", ""),
        ("logical_block_size = 512\nphysical_block_size = 4096", "4096"),
        ("", ""),
    ],
)
def test_a_physical_sector_is_no_smaller_than_a_logical_one(keys: str, wanted: str) -> None:
    (word,) = [w for w in render_argv(planned(disk("/a", keys))) if w.startswith("virtio-blk")]
    assert word.partition("physical_block_size=")[2].partition(",")[0] == wanted


def test_spread_queues_need_a_new_qemu_and_are_no_subject_of_set() -> None:
    text = disk("/a", "iothreads = 2") + '[qemu]\nset = { "disk0.vectors" = 3 }\n'
    old = replace(QEMU, properties={"virtio-blk-pci": ("iothread",)})
    new = replace(QEMU, properties={"virtio-blk-pci": ("iothread", "iothread-vq-mapping")})
    assert said(planned(text, host(qemu=old)))[0] == (
        "disk[0].iothreads: this QEMU cannot spread the queues of virtio-blk-pci over threads")
    assert said(planned(text, host(qemu=new))) == [
        "qemu.set.disk0.vectors: QEMU cannot set this for a disk with iothreads"]
    scsi = replace(QEMU, properties={"virtio-scsi-pci": ("iothread-vq-mapping",)})
    text = '[[controller]]\ntype = "virtio-scsi"\niothreads = 2\n' + disk("/a", 'bus = "scsi"') + (
        '[qemu]\nset = { "scsi0.x" = 3, "disk0.y" = 4 }\n')
    assert said(planned(text, host(qemu=scsi))) == [
        f"qemu.set.{name}: QEMU cannot set this for a controller with iothreads"
        for name in ("scsi0.x", "disk0.y")]
    plan = planned(disk("/a,b", "iothreads = 2"), host(qemu=new))
    (word,) = [w for w in render_argv(plan) if w.startswith("{")]
    assert json.loads(word)["num-queues"] == 2
