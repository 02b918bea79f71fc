"""What the kernel does with real block devices, as the probe sees it: loop devices of this machine.

What this kernel lacks (device mapper, md, bcache, ZFS) is in test_facts_files.py as recorded trees.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.facts.blocks import BlockTable
from qlaunch.facts.files import read_files
from qlaunch.facts.holders import is_vital, with_holders
from qlaunch.facts.model import Holder, HostFile, PciDevice
from qlaunch.values import PciAddress, PciId
from tests.fake.plans import host, planned, said
from tests.fake.trees import Tree

MIB = 1 << 20


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def attached(image: Path) -> str | None:
    done = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True,
                          check=False)
    return done.stdout.strip() or None


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A drive of 32 MiB with two partitions, the second one of 16."""
    image = tmp_path / "drive"
    entries = b"".join(
        struct.pack("<B3sB3sII", 0, b"\0" * 3, 0x83, b"\0" * 3, start * 2048, size * 2048)
        for start, size in ((1, 8), (9, 16))
    )
    image.write_bytes((b"\0" * 446 + entries).ljust(510, b"\0") + b"\x55\xaa")
    os.truncate(image, 32 * MIB)
    device = attached(image) if os.geteuid() == 0 else None
    if device is None:
        pytest.skip("needs loop devices")
    subprocess.run(["partx", "-a", device], check=True, capture_output=True)
    try:
        for number in (1, 2):
            _node(f"{device}p{number}")
        yield device
    finally:
        subprocess.run(["partx", "-d", device], check=False, capture_output=True)
        for number in (1, 2):
            if not Path(f"/sys/class/block/{Path(device).name}p{number}").exists():
                Path(f"{device}p{number}").unlink(missing_ok=True)
        subprocess.run(["losetup", "-d", device], check=True)


def _node(path: str) -> None:
    """Without udev or devtmpfs nobody makes it."""
    if not Path(path).exists():
        numbers = Path(f"/sys/class/block/{Path(path).name}/dev").read_text().split(":")
        os.mknod(path, 0o60600, os.makedev(int(numbers[0]), int(numbers[1])))


def found(*paths: str) -> list[HostFile]:
    return list(read_files(paths, None))


def refused(file: HostFile, more: str = "") -> list[str]:
    return told(file, more, "error")


def told(file: HostFile, more: str, severity: str = "warning") -> list[str]:
    plan = planned(f'[[disk]]\nfile = "{file.path}"\n{more}', host(files=(file,)))
    return [line for line in said(plan, severity) if line.startswith("disk[0].file")]


def test_a_free_drive_and_its_partitions(loop: str) -> None:
    whole, one, two = found(loop, f"{loop}p1", f"{loop}p2")
    assert [f.size for f in (whole, one, two)] == [32 * MIB, 8 * MIB, 16 * MIB]
    assert {(f.kind, f.mounted, f.in_use, f.lock) for f in (whole, one, two)} == {
        ("block", (), "", "")}
    name = Path(loop).name
    table = BlockTable()
    assert table.related(name) == (f"{name}p1", f"{name}p2")
    assert table.related(f"{name}p1") == (name,)
    assert refused(whole) == []


def test_a_mounted_partition(loop: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", f"{loop}p2")
    point = tmp_path / "a place"
    point.mkdir()
    run("mount", f"{loop}p2", str(point))
    try:
        whole, one, two = found(loop, f"{loop}p1", f"{loop}p2")
    finally:
        run("umount", str(point))
    assert (whole.mounted, one.mounted, two.mounted) == ((str(point),), (), (str(point),))
    assert refused(one) == []
    for file in (whole, two):
        assert refused(file) == [
            "disk[0].file: the host has this block device mounted; two writers destroy a file "
            "system"]
        for key in ("read_only", "throwaway"):
            assert refused(file, f"{key} = true\n") == []
            assert told(file, f"{key} = true\n") == [
                "disk[0].file: the host writes to a file system on this block device while the "
                "guest reads it: what the guest sees does not fit together"]
    assert refused(found(f"{loop}p2")[0]) == []


def test_a_partition_that_is_mounted_to_be_read(loop: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", f"{loop}p2")
    run("mount", "-o", "ro", f"{loop}p2", str(tmp_path))
    try:
        whole, two = found(loop, f"{loop}p2")
    finally:
        run("umount", str(tmp_path))
    for file in (whole, two):
        assert (file.mounted, file.written) == ((str(tmp_path),), False)
        assert told(file, "read_only = true\n") == []


def test_swap(loop: str) -> None:
    run("mkswap", "-q", f"{loop}p1")
    run("swapon", f"{loop}p1")
    try:
        whole, one, two = found(loop, f"{loop}p1", f"{loop}p2")
    finally:
        run("swapoff", f"{loop}p1")
    assert (whole.in_use, one.in_use, two.in_use) == ("swap", "swap", "")
    assert refused(whole) == ["disk[0].file: the host uses this block device"]


def test_mounted_where_we_do_not_see_it(loop: str, tmp_path: Path) -> None:
    """In a mount namespace of somebody else's, as a container's is."""
    run("mkfs.ext4", "-q", f"{loop}p2")
    other = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c",
         f'mount {loop}p2 "{tmp_path}" && echo mounted && read line'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "mounted\n"
        whole, one, two = found(loop, f"{loop}p1", f"{loop}p2")
        held = on_a_controller(loop)
    finally:
        other.communicate("\n")
    assert whole.in_use == two.in_use
    assert two.in_use.startswith("claimed by the kernel")
    assert (two.mounted, one.in_use) == ((), "")
    assert refused(two) == ["disk[0].file: the host uses this block device"]
    assert [(h.kind, h.what, is_vital(h)) for h in held] == [("claimed", loop, True)]
    assert on_a_controller(loop) == ()


def on_a_controller(loop: str) -> tuple[Holder, ...]:
    """Who would hold the function that carried this drive."""
    names = (Path(loop).name, *(f"{Path(loop).name}p{n}" for n in (1, 2)))
    function = PciDevice(
        address=PciAddress("0000:fe:1f.7"), id=PciId("1000:0097"), driver="mpt3sas", nodes=names
    )
    (device,) = with_holders(Path("/"), [function])
    return device.holders or ()


def test_another_machine_has_a_part_of_it(loop: str) -> None:
    """Two QEMUs on a drive and on a partition of it: byte locks lie on each node's own inode."""
    fcntl_lock = (
        "import fcntl,os,struct,sys;f=os.open(sys.argv[1],os.O_RDWR);"
        "fcntl.fcntl(f,fcntl.F_OFD_SETLK,struct.pack('hhqqi',fcntl.F_RDLCK,0,int(sys.argv[2]),1,0));"
        "print('locked',flush=True);sys.stdin.read()"
    )
    with subprocess.Popen(
        ["python3", "-c", fcntl_lock, f"{loop}p1", "101"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        whole, one, two = found(loop, f"{loop}p1", f"{loop}p2")
        holder.communicate("")
    assert (whole.lock, one.lock, two.lock) == ("writing", "writing", "")
    assert refused(whole) == ["disk[0].file: another QEMU has this disk open"]


def test_layers_that_this_kernel_lacks(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    parts = {f"sdd{n}": (f"8:{48 + n}", 2048) for n in range(1, 6)}
    tree.disk("sys/devices/y", "sdd", "8:48", 1 << 20, parts)
    tree.stacked("bcache0", "251:0", ["sdd1"])
    tree.stacked("dm-3", "253:3", ["sdd2"], name="luks-1", uuid="CRYPT-LUKS2-1-luks-1")
    tree.stacked("dm-4", "253:4", ["dm-3"], name="vg-root", uuid="LVM-2")
    tree.mount("253:4", "/", "/dev/mapper/vg-root")
    tree.directory("sys/fs/btrfs/11-22/devices")
    for name in ("sdd3", "sdd4"):
        tree.link(f"sys/fs/btrfs/11-22/devices/{name}", f"../../../../devices/y/block/sdd/{name}")
    tree.mount("0:55", "/data", "/dev/sdd3", "btrfs")
    tree.link("sys/fs/btrfs/features", "x")
    names = [f"/dev/sdd{n}" for n in range(1, 6)]
    files = read_files([*names, "/dev/sdd"], None, tmp_path)
    found = {f.path: (f.mounted, f.in_use) for f in files}
    assert found["/dev/sdd1"] == ((), "bcache")
    assert found["/dev/sdd2"] == (("/",), "crypt")
    assert found["/dev/sdd3"] == found["/dev/sdd4"] == (("/data",), "")
    assert found["/dev/sdd5"] == ((), "")
    assert found["/dev/sdd"] == (("/data", "/"), "bcache")
