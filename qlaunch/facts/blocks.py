"""Block devices: what lies on top of one, where it is mounted, what swaps on it.

From /sys/class/block (partitions are subdirectories, `holders` links lead to dm, md and bcache
devices on top), /proc/self/mountinfo, /proc/swaps and, for btrfs, whose mounts carry an anonymous
device number, /sys/fs/btrfs/UUID/devices.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from qlaunch.facts.tree import (
    base_of,
    link_name,
    link_target,
    list_names,
    read_attribute,
    read_lines,
    read_number,
    real_path,
)

_BLOCK = "/sys/class/block"
_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))  # mangle_path()


class BlockTable:
    """Mounts and swaps of one moment, by kernel block device name (`sda1`, `dm-0`)."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.base = base_of(root)
        self.names = frozenset(list_names(self.base + _BLOCK))
        self._numbers: dict[str, str] = {}
        self._mounts: dict[str, list[str]] = {}
        self._written: set[str] = set()  # mounted, and not read-only
        self._read_numbers()
        self._read_mounts()
        self._read_btrfs()
        self.swaps = frozenset(
            name
            for line in read_lines(f"{self.base}/proc/swaps")[1:]
            if (name := self.name_of(line.split(" ")[0])) is not None
        )

    def name_of(self, node: str) -> str | None:
        """`/dev/sda1`, `/dev/mapper/vg-root`, `/dev/disk/by-id/…` → kernel name; None if none."""
        if not node.startswith("/dev/"):
            return None
        if (name := node.removeprefix("/dev/").replace("/", "!")) in self.names:
            return name
        target = link_target(self.base + node)
        if target is not None and (name := target.rpartition("/")[2]) in self.names:
            return name
        return next((n for n in self.names if n.startswith("dm-") and self.label(n) == node), None)

    def number_of(self, name: str) -> str:
        """`major:minor`, or ""."""
        return next((number for number, n in self._numbers.items() if n == name), "")

    def label(self, name: str) -> str:
        """How people name it: /dev/mapper/NAME for device mapper, else /dev/NAME."""
        mapped = read_attribute(f"{self._path(name)}/dm/name") if name.startswith("dm-") else None
        return f"/dev/mapper/{mapped}" if mapped else f"/dev/{name.replace('!', '/')}"

    def size(self, name: str) -> int | None:
        """Capacity in bytes; the attribute counts 512-byte sectors whatever the device's own."""
        sectors = read_number(f"{self._path(name)}/size")
        return sectors * 512 if sectors is not None else None

    def above(self, name: str) -> tuple[str, ...]:
        """The device itself, its partitions, and everything on top of them, each once."""
        found: list[str] = []
        left = [name]
        while left:
            current = left.pop(0)
            if current not in found:
                found.append(current)
                entries = list_names(self._path(current))
                left.extend(e for e in entries if e.startswith(current) and e in self.names)
                left.extend(list_names(f"{self._path(current)}/holders"))
        return tuple(found)

    def related(self, name: str) -> tuple[str, ...]:
        """What shares its sectors without lying on top: its partitions, or the drive it is of."""
        parts = [e for e in list_names(self._path(name)) if e.startswith(name) and e in self.names]
        whole = (link_target(self._path(name)) or "").split("/")[-2:-1]
        return (*parts, *(w for w in whole if w in self.names))

    def mounted(self, name: str) -> tuple[str, ...]:
        """Mount points of the device or anything above it."""
        points = (point for n in self.above(name) for point in self._mounts.get(n, ()))
        return tuple(dict.fromkeys(points))

    def written(self, name: str) -> bool:
        """Whether the host writes to a file system on the device or anything above it."""
        return not self._written.isdisjoint(self.above(name))

    def mounts_of(self, name: str) -> tuple[str, ...]:
        """Mount points of exactly this device."""
        return tuple(self._mounts.get(name, ()))

    def in_use(self, name: str) -> str:
        """Why it is not free although nothing of it is mounted: swap, lvm, md, zfs, … or ""."""
        above = self.above(name)
        if any(n in self.swaps for n in above):
            return "swap"
        for other in above[1:]:
            if kind := self.layer(other):
                return kind
        return "zfs" if any(self.pool_of(n) is not None for n in above) else ""

    def is_partition(self, name: str) -> bool:
        """Whether it is part of a drive."""
        return "partition" in list_names(self._path(name))

    def layer(self, name: str) -> str:
        """What a device on top of another is: lvm, crypt, multipath, md, bcache; "" for a disk."""
        if name.startswith("dm-"):
            kind = (read_attribute(f"{self._path(name)}/dm/uuid") or "").partition("-")[0]
            return {"LVM": "lvm", "CRYPT": "crypt", "mpath": "multipath"}.get(kind, "dm")
        return next((kind for kind in ("md", "bcache") if name.startswith(kind)), "")

    def _path(self, name: str) -> str:
        return f"{self.base}{_BLOCK}/{name}"

    def _read_numbers(self) -> None:
        for name in self.names:
            if number := read_attribute(f"{self._path(name)}/dev"):
                self._numbers[number] = name

    def _read_mounts(self) -> None:
        for line in read_lines(f"{self.base}/proc/self/mountinfo"):
            words = line.split(" ")
            if len(words) < 10 or "-" not in words:
                continue
            source, *options = words[words.index("-") + 2 :][:2] or [""]
            written = "rw" in "".join(options).split(",")  # the file system, not one mount of it
            for name in self._sources(words[2], _plain(source)):
                self._mounts.setdefault(name, []).append(_plain(words[4]))
                if written:
                    self._written.add(name)

    def _sources(self, number: str, source: str) -> Iterator[str]:
        """The devices of a mount: by number or name; bcachefs says `/dev/sda:/dev/sdb`."""
        if (known := self._numbers.get(number) or self.name_of(source)) is not None:
            yield known
        elif ":/dev/" in source:
            names = (self.name_of(node) for node in source.split(":"))
            yield from (name for name in names if name is not None)

    def _read_btrfs(self) -> None:
        path = f"{self.base}/sys/fs/btrfs"
        for uuid in list_names(path):
            members = list_names(f"{path}/{uuid}/devices")
            points = [point for member in members for point in self._mounts.get(member, ())]
            for member in members:
                self._mounts[member] = list(dict.fromkeys(points))
            if not self._written.isdisjoint(members):
                self._written.update(members)

    def pool_of(self, name: str) -> str | None:
        """The ZFS pool that it is a member of. ZFS claims nothing in sysfs: udev's word, and the
        module loaded."""
        if not list_names(f"{self.base}/sys/module/zfs"):
            return None
        lines = read_lines(f"{self.base}/run/udev/data/b{self.number_of(name)}")
        if "E:ID_FS_TYPE=zfs_member" not in lines:
            return None
        label = "E:ID_FS_LABEL="
        return next((line.removeprefix(label) for line in lines if line.startswith(label)), "")


def block_name(root: Path, path: str) -> str | None:
    """The kernel name of a block device node, following links; None when it is none.

    In a recorded tree nodes are ordinary files: what counts there is /sys/class/block/NAME.
    """
    base = base_of(root)
    real = real_path(base + path)
    if not base:
        import stat

        try:
            status = Path(real).stat()
        except OSError:
            return None
        if not stat.S_ISBLK(status.st_mode):
            return None
        return link_name(f"/sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    inside = real.removeprefix(real_path(base))
    name = inside.removeprefix("/dev/").replace("/", "!")
    if inside.startswith("/dev/") and list_names(f"{base}{_BLOCK}/{name}"):
        return name
    return None


def is_claimed(path: str) -> bool:
    """Whether the kernel keeps a block device, or part of it, for itself: mounted somewhere, also
    in another mount namespace, or held by a driver such as md, ZFS or an iSCSI target.

    open(2): without O_CREAT, O_EXCL on a block device that the system uses fails with EBUSY. A
    device that we may not open counts as free.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.EBUSY
    os.close(fd)
    return False


def _plain(text: str) -> str:
    for escape, character in _ESCAPES:
        text = text.replace(escape, character)
    return text
