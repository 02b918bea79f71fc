"""What a disk image is, by its own header: its format, and how large the guest's disk is.

A profile that calls a qcow2 file raw shows the guest 200 KiB of header and tables as its disk, and
what it writes there destroys the image. Magic numbers and places of the sizes are those of QEMU's
block drivers (block/qcow2.h, qed.h, vdi.c, vhdx.h, vmdk.c, vpc.c). All reading, no following:
backing files and extents are QEMU's to find.
"""

from __future__ import annotations

import os
from typing import Literal

from msgspec import Struct

_HEAD = 512
# format, where its magic is and what it is, (first, last + 1) byte of the size, byte order
_MAGICS: tuple[tuple[str, int, bytes, tuple[int, int], Literal["big", "little"]], ...] = (
    ("qcow", 0, b"QFI\xfb\0\0\0\1", (24, 32), "big"),
    ("qcow2", 0, b"QFI\xfb", (24, 32), "big"),
    ("qed", 0, b"QED\0", (48, 56), "little"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe", (0x170, 0x178), "little"),
    ("vhdx", 0, b"vhdxfile", (0, 0), "little"),
    ("vmdk", 0, b"KDMV", (0, 0), "little"),
    ("vmdk", 0, b"COWD", (0, 0), "little"),
    ("vmdk", 0, b"# Disk DescriptorFile", (0, 0), "little"),
    ("vpc", 0, b"conectix", (48, 56), "big"),
)


class Header(Struct, frozen=True):
    """`format` is raw for what has no header; `capacity` in bytes where it is told."""

    format: str = "raw"
    capacity: int | None = None


def read_header(path: str) -> Header:
    """Of a regular file or block device; of an unknown format ("") when it cannot be read."""
    try:  # non-blocking: a drive's medium, a lease on the file
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return Header("")
    try:
        head = os.pread(fd, _HEAD, 0)
        size = os.lseek(fd, 0, os.SEEK_END)
        tail = os.pread(fd, _HEAD, size - _HEAD) if size >= 2 * _HEAD else b""
    except OSError:
        return Header("")
    finally:
        os.close(fd)
    return parse_header(head, tail)


def parse_header(head: bytes, tail: bytes = b"") -> Header:
    """From the first 512 bytes, and the last: a fixed VHD has its mark there."""
    for data in (head, tail):
        for name, offset, magic, (start, end), order in _MAGICS:
            if data[offset : offset + len(magic)] == magic and (data is head or name == "vpc"):
                size = int.from_bytes(data[start:end], order)
                return Header(name, size if end else None)
    return Header()
