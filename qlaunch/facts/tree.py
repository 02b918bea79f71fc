"""Reading small kernel files without ever raising.

Everything below /sys and /proc may vanish, refuse or fail with EIO between two looks: a device is
unplugged, a driver answers an error. Here that is None (or an empty list), so that the probes stay
straight. Plain os calls, not pathlib: some hundred files are read before every launch.
"""

from __future__ import annotations

import os
from pathlib import Path

from qlaunch.values import CpuSet, parse_cpu_set

_READ = os.O_RDONLY | os.O_CLOEXEC
_PAGE = 4096  # a sysfs attribute is at most one page
_LONGEST = 80  # characters of a number: 64 bits in base 2, and room


def base_of(root: Path) -> str:
    """The root as a prefix for `base + "/sys/…"`: "" for "/"."""
    return str(root).rstrip("/")


def read_attribute(path: str, dir_fd: int | None = None) -> str | None:
    """A sysfs attribute, stripped; None when it is not there or does not answer."""
    try:
        fd = os.open(path, _READ, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        return os.read(fd, _PAGE).decode(errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(fd)


def read_number(path: str, dir_fd: int | None = None, *, base: int = 10) -> int | None:
    """A sysfs attribute that is one number; `base` 0 accepts 0x."""
    text = read_attribute(path, dir_fd)
    try:
        return int(text, base) if text and len(text) <= _LONGEST else None
    except ValueError:
        return None


def read_cpu_list(path: str) -> CpuSet | None:
    """A CPU list file ("0,4-6"); an empty one is an empty set, an unreadable one None."""
    text = read_attribute(path)
    if not text:
        return CpuSet() if text is not None else None
    try:
        return parse_cpu_set(text)
    except ValueError:
        return None


def read_whole(path: str, limit: int = 1 << 26) -> bytes | None:
    """A file of any length up to `limit` bytes; /proc files come in pieces."""
    try:
        fd = os.open(path, _READ)
    except OSError:
        return None
    pieces: list[bytes] = []
    try:
        while limit > 0 and (piece := os.read(fd, min(limit, 1 << 20))):
            pieces.append(piece)
            limit -= len(piece)
    except OSError:
        return None
    finally:
        os.close(fd)
    return b"".join(pieces)


def read_lines(path: str) -> list[str]:
    """The lines of a /proc file; none when it cannot be read."""
    return (read_whole(path) or b"").decode(errors="replace").splitlines()


def list_names(path: str | int) -> list[str]:
    """A directory's entries, sorted; empty when it is not there."""
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - takes a directory's fd as well
    except OSError:
        return []


def link_target(path: str, dir_fd: int | None = None) -> str | None:
    """What a symbolic link says, unresolved."""
    try:
        return os.readlink(path, dir_fd=dir_fd)
    except OSError:
        return None


def real_path(path: str) -> str:
    """Without links; as it is when one of them goes away meanwhile, which realpath() raises."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path


def link_name(path: str, dir_fd: int | None = None) -> str | None:
    """The last component of a link's target: a driver's, group's or device's name."""
    target = link_target(path, dir_fd)
    return target.rpartition("/")[2] if target else None
