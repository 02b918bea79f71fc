"""Whether another QEMU has a disk image open, before the host is changed for a start that fails.

QEMU says by byte locks what it does with an image and what it cannot share (raw_apply_lock_bytes
in block/file-posix.c): 100+N for permission N in use, 200+N for permission N refused to others;
N = 1 is writing. Every guest's disk, read-only ones included, refuses others to write. Looking
takes no lock, so that it is in nobody's way.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Literal

from msgspec import Struct

from qlaunch.facts.tree import link_target, list_names, read_lines

_WRITES, _REFUSES_WRITERS = 101, 201  # RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE + 1
_FLOCK = struct.Struct("hhqqi")  # struct flock


class ImageLock(Struct, frozen=True):
    """`use` is "writing" or "reading", "" when nobody has it open; `by` may be "" all the same."""

    use: Literal["", "reading", "writing"] = ""
    by: str = ""


def read_image_lock(path: str) -> ImageLock:
    """How QEMUs use the regular file or block device at `path`, if we may open it to look."""
    try:  # non-blocking: a drive's medium, a lease on the file
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ImageLock()
    try:
        if _is_locked(fd, _WRITES):
            return ImageLock("writing", _find_holder(fd, path, _WRITES))
        if _is_locked(fd, _REFUSES_WRITERS):
            return ImageLock("reading", _find_holder(fd, path, _REFUSES_WRITERS))
    except OSError:
        pass  # a file system without locks
    finally:
        os.close(fd)
    return ImageLock()


def _is_locked(fd: int, byte: int) -> bool:
    """Whether an exclusive lock on this byte would be refused."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _find_holder(fd: int, path: str, byte: int) -> str:
    """`the machine win7 (pid 77)`; "" when no process that we may look into has the lock.

    The kernel names no owner for a lock of an open file; fdinfo shows each fd's own locks. Neither
    that nor reading a link touches the file, whose file system may hang.
    """
    inode = os.fstat(fd).st_ino
    device = path.startswith("/dev/")
    for pid in sorted((name for name in list_names("/proc") if name.isdigit()), key=int):
        for number in list_names(f"/proc/{pid}/fd"):
            target = link_target(f"/proc/{pid}/fd/{number}") or ""
            if not target.startswith("/") or target.startswith("/dev/") != device:
                continue
            if any(_is_about(x, inode, byte) for x in read_lines(f"/proc/{pid}/fdinfo/{number}")):
                return _name(pid)
    return ""


def _is_about(line: str, inode: int, byte: int) -> bool:
    """`lock: 1: OFDLCK ADVISORY READ -1 fe:00:1234 100 101`."""
    words = line.split()
    if len(words) < 9 or words[0] != "lock:" or words[-3].rpartition(":")[2] != str(inode):
        return False
    first, last = words[-2:]
    return int(first) <= byte and (last == "EOF" or byte <= int(last))


def _name(pid: str) -> str:
    from qlaunch.facts.processes import read_command, read_machine

    path = f"/proc/{pid}"
    machine = read_machine(path)
    return f"{f'the machine {machine}' if machine else read_command(path)} (pid {pid})"
