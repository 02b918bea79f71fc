"""Host files: kinds, block devices in use, and rights computed for another account."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from qlaunch.facts.files import can_access, read_files
from qlaunch.facts.model import HostFile, Invoker
from tests.fake.trees import Tree

ME, MINE = os.getuid(), os.getgid()
OTHER, THEIRS = ME + 5, MINE + 5
ACCOUNT = Invoker(root=True, uid=OTHER, gid=THEIRS, name="other", groups=(THEIRS,))


def one(root: Path, path: str, account: Invoker | None = ACCOUNT) -> HostFile:
    (file,) = read_files([path], account, root)
    return file


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tmp_path.chmod(0o755)
    return Tree(tmp_path)


def test_kinds(tree: Tree) -> None:
    tree.write("images/a.img", b"x" * 700)
    os.mkfifo(tree.root / "images/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree.root / "s"))
        found = {p: one(tree.root, p).kind for p in ("/images/a.img", "/images", "/images/fifo",
                                                     "/s", "/none", "/images/a.img/x")}
    assert found == {
        "/images/a.img": "file", "/images": "directory", "/images/fifo": "other", "/s": "socket",
        "/none": "missing", "/images/a.img/x": "missing",
    }
    assert one(tree.root, "/images/a.img").size == 700
    assert one(Path("/"), "/dev/null").kind == "char"


def test_each_path_once_and_in_order(tree: Tree) -> None:
    found = read_files(["/b", "/a", "/b"], ACCOUNT, tree.root)
    assert [f.path for f in found] == ["/b", "/a"]


def test_block_devices_say_what_uses_them(tree: Tree) -> None:
    parts = {f"sdc{i}": (f"8:{32 + i}", 2048) for i in range(1, 7)}
    tree.disk("sys/devices/x", "sdc", "8:32", 1 << 21, parts)
    tree.mount("8:33", "/home", "/dev/sdc1")
    tree.swap("/dev/sdc2")
    tree.stacked("dm-0", "253:0", ["sdc3"], name="vg-a", uuid="LVM-1")
    tree.stacked("md0", "9:0", ["sdc4"])
    tree.directory("sys/module/zfs/parameters")
    tree.write("run/udev/data/b8:37", "E:ID_FS_TYPE=zfs_member")
    tree.link("dev/disk/by-id/ata-x-part6", "../../sdc6")
    found = {p: one(tree.root, p) for p in (*(f"/dev/sdc{i}" for i in range(1, 6)), "/dev/sdc")}
    assert {f.kind for f in found.values()} == {"block"}
    assert [f.in_use for f in found.values()] == ["", "swap", "lvm", "md", "zfs", "swap"]
    assert found["/dev/sdc1"].mounted == found["/dev/sdc"].mounted == ("/home",)
    assert found["/dev/sdc"].size == 1 << 30
    free = one(tree.root, "/dev/disk/by-id/ata-x-part6")
    assert (free.kind, free.size, free.mounted, free.in_use) == ("block", 1 << 20, (), "")


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "want", "may"),
    [
        (0o600, ME, (), "rw", True),
        (0o060, ME, (MINE,), "r", False),  # the owner's bits count for the owner, even when fewer
        (0o640, OTHER, (MINE,), "r", True),
        (0o640, OTHER, (MINE,), "w", False),
        (0o604, OTHER, (MINE,), "r", False),  # and the group's for its members
        (0o604, OTHER, (), "r", True),
        (0o600, OTHER, (), "r", False),
        (0o000, 0, (), "rw", True),
    ],
)
def test_modes(
    tree: Tree, mode: int, uid: int, groups: tuple[int, ...], want: str, may: bool
) -> None:
    if ME == 0 and uid == 0 and mode != 0:
        uid = OTHER  # root may everything: hand the file to somebody, who then is its owner
        owner = OTHER
    else:
        owner = ME
    file = tree.write("a", b"")
    if owner != ME:
        os.chown(file, owner, MINE)
    file.chmod(mode)
    assert can_access(str(file), uid, THEIRS, groups, want, top=str(tree.root)) is may


def test_every_directory_counts_and_links_are_followed(tree: Tree) -> None:
    file = tree.write("closed/open/a", b"")
    file.chmod(0o666)
    tree.link("a", "closed/open/a")
    (tree.root / "closed/open").chmod(0o711)  # x alone is enough to pass
    top = str(tree.root)
    for path in (file, tree.root / "a"):
        (tree.root / "closed").chmod(0o755)
        assert can_access(str(path), OTHER, THEIRS, (), "rw", top=top)
        (tree.root / "closed").chmod(0o700)
        assert not can_access(str(path), OTHER, THEIRS, (), "r", top=top)
    assert not can_access(top + "/none", OTHER, THEIRS, (), "r", top=top)


def test_a_missing_file_is_writable_where_it_could_be_made(tree: Tree) -> None:
    tree.directory("mine").chmod(0o755)
    tree.directory("everyones").chmod(0o777)
    assert not one(tree.root, "/mine/new.img").writable
    new = one(tree.root, "/everyones/new.img")
    assert (new.kind, new.readable, new.writable) == ("missing", False, True)


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


@pytest.mark.parametrize(
    ("raw", "may"),
    [
        (acl((1, 6, 0), (2, 6, OTHER), (4, 0, 0), (16, 6, 0), (32, 0, 0)), True),
        (acl((1, 6, 0), (2, 6, OTHER), (4, 0, 0), (16, 4, 0), (32, 0, 0)), False),  # masked
        (acl((1, 6, 0), (2, 6, OTHER + 1), (4, 0, 0), (16, 6, 0), (32, 0, 0)), False),
        (acl((1, 6, 0), (4, 0, 0), (8, 6, THEIRS), (16, 6, 0), (32, 0, 0)), True),
        (acl((1, 6, 0), (4, 0, 0), (8, 4, THEIRS), (16, 6, 0), (32, 6, 0)), False),
    ],
)
def test_access_lists(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, raw: bytes, may: bool
) -> None:
    node = tree.write("kvm", b"")
    node.chmod(0o660)

    def getxattr(path: Path, name: str) -> bytes:
        if Path(path) == node and name == "system.posix_acl_access":
            return raw
        raise OSError

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert can_access(str(node), OTHER, THEIRS, (), "rw", top=str(tree.root)) is may
