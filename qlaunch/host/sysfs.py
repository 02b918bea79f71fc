"""The one door to /sys and /proc: reads that an undo depends on, and every write.

A write is one write(2) on an existing file with the kernel's errno kept. Clearing is a written
newline: a zero-length write is no write at all (drivers/base/driver.c driver_set_override never
sees it). What takes the device lock, even a read of `driver_override` (pci-sysfs.c), sleeps as
long as a hung unbind holds it, so everything about a PCI device goes through `children.guarded`.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qlaunch import children
from qlaunch.errors import KERNEL_LOG
from qlaunch.host import writers
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

    def mkdir(self, path: Path) -> None:
        """mkdir(2)."""
        path.mkdir(mode=0o755)

    def rmdir(self, path: Path) -> None:
        """rmdir(2)."""
        path.rmdir()

    def run(
        self, argv: Sequence[str], stdin: str = "", *, daemon: bool = False
    ) -> children.Done:
        """See `children.run_child`."""
        return children.run_child(argv, stdin=stdin, daemon=daemon)

    def send_signal(self, pid: int, number: int) -> None:
        """kill(2)."""
        os.kill(pid, number)


KERNEL = Kernel()


def way_on(error: OSError) -> str:
    """The hint for a file of the kernel's (or a node) that could not be changed."""
    if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
        return "this needs root: sudo qlaunch …"
    if error.errno == errno.EROFS:
        return "a container has it read-only; findmnt -T shows how it is mounted"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "df -h and df -i show what is full"
    return KERNEL_LOG


def door(host: Host) -> Door:
    """The host's door, or the real one."""
    return host.door or KERNEL


def run(
    host: Host, argv: Sequence[str], stdin: str = "", *, daemon: bool = False
) -> children.Done:
    """Run a tool through the door, and tell when it takes its time (modprobe of a card's driver).

    Raises HostError when it is missing or does not end."""
    if host.door is not None:
        return host.door.run(argv, stdin, daemon=daemon)
    with writers.writing(host) as lock:
        return children.run_child(argv, stdin=stdin, daemon=daemon, on_wait=host.on_wait,
                                  keep=-1 if daemon else lock)


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

    with writers.writing(host) as lock:
        children.guarded(action, what, deadline=host.deadline, on_wait=host.on_wait, keep=lock)


def guarded_read(host: Host, read: Callable[[], Any], what: str) -> Any:
    """Call `read` in a child with the host's deadline; its answer must be JSON."""

    def action() -> str:
        return json.dumps(read())

    answer = children.guarded(action, what, deadline=host.deadline, on_wait=host.on_wait)
    return json.loads(answer)


def wait_until(
    host: Host, ready: Callable[[], bool], what: str = "", *, times: float = 1.0
) -> bool:
    """Look until `ready` or until the host's settling time (`times` it) has passed; say which.
    `what` is told when it takes over a second."""
    start = time.monotonic()
    tell = host.on_wait if what else None
    while not ready():
        passed = time.monotonic() - start
        if passed >= host.settle * times:
            return False
        if tell is not None and passed >= children.PROGRESS_FIRST:
            tell(what, passed)
            tell = None
        time.sleep(POLL)
    return True
