"""The one door to /sys and /proc: reads that an undo depends on, and every write.

A write is one write(2) on an existing file with the kernel's errno kept. Clearing is a written
newline: a zero-length write is no write at all (drivers/base/driver.c driver_set_override never
sees it). What takes the device lock, even a read of `driver_override` (pci-sysfs.c), sleeps as
long as a hung unbind holds it, so everything about a PCI device goes through `children.guarded`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qlaunch import children
from qlaunch.host.handler import Door, Host

EMPTY = "\n"
POLL = 0.01  # seconds between two looks at something that is about to happen


class Kernel:
    """The real door."""

    def write(self, path: Path, data: bytes) -> None:
        """One write(2), without creating or truncating. Raises OSError with the path."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        finally:
            os.close(fd)

    def try_open(self, path: Path) -> None:
        """Open read-write and close again. Raises OSError."""
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))

    def run(self, argv: Sequence[str]) -> children.Done:
        """See `children.run_child`."""
        return children.run_child(argv)


KERNEL = Kernel()


def door(host: Host) -> Door:
    """The host's door, or the real one."""
    return host.door or KERNEL


def read_text(path: Path) -> str | None:
    """The file's text without surrounding blanks; None when it is not there. Raises OSError."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return None


def read_number(path: Path) -> int | None:
    """A decimal number; None when the file is not there or holds something else."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def read_link_name(path: Path) -> str | None:
    """The last part of a link's target (`driver`, `iommu_group`); None when there is no link."""
    try:
        return os.readlink(path).rsplit("/", 1)[-1]  # noqa: PTH115 - no Path is needed
    except FileNotFoundError:
        return None


def write(host: Host, path: Path, text: str) -> None:
    """Write to a file whose writer cannot hang. An empty text clears, by a newline."""
    door(host).write(path, (text or EMPTY).encode())


def guarded_write(host: Host, path: Path, text: str, what: str) -> None:
    """Write in a child with the host's deadline. Raises OSError, or StuckError after it."""

    def action() -> None:
        write(host, path, text)

    children.guarded(action, what, deadline=host.deadline, on_wait=host.on_wait)


def guarded_read(host: Host, read: Callable[[], Any], what: str) -> Any:
    """Call `read` in a child with the host's deadline; its answer must be JSON."""

    def action() -> str:
        return json.dumps(read())

    answer = children.guarded(action, what, deadline=host.deadline, on_wait=host.on_wait)
    return json.loads(answer)


def wait_until(host: Host, ready: Callable[[], bool]) -> bool:
    """Look until `ready` or until the host's settling time has passed; say which."""
    end = time.monotonic() + host.settle
    while not ready():
        if time.monotonic() >= end:
            return False
        time.sleep(POLL)
    return True
