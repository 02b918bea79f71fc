"""QEMU's pid and start time, as its launcher has noted them in the machine's runtime directory.

QEMU runs as who asked, and may be a program of theirs: it could unlock and close what it has
inherited, and change the words that it was started with. Not its number, nor when it was started.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import NamedTuple

from qlaunch.run.locks import open_own

QEMU = "qemu"
EXITING = 0x4  # PF_EXITING of include/linux/sched.h, in the flags of proc_pid_stat(5)


def note_qemu(runtime_dir: str, pid: int, starttime: int) -> None:
    """By its launcher, once it has started it. Without room for it, QEMU is found all the same."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with contextlib.suppress(OSError):
        fd = os.open(f"{runtime_dir}/{QEMU}", flags, 0o600)
        try:
            os.write(fd, b"%d %d\n" % (pid, starttime))
        finally:
            os.close(fd)


class Noted(NamedTuple):
    """A QEMU that lives; `exiting` when the kernel is taking it down."""

    pid: int
    exiting: bool


def read_noted(runtime_dir: str) -> Noted | None:
    """The QEMU that was noted; None once it has ended, with all its threads.

    The pidfd says that, and not the first thread's state: that one may end before the others.
    """
    try:
        with os.fdopen(open_own(f"{runtime_dir}/{QEMU}"), "rb") as file:
            pid, start = (int(word) for word in file.read(64).split())
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError):
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()  # from the third, its state, on
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        if int(fields[19]) != start or ended.poll(0):
            return None
        return Noted(pid, bool(int(fields[6]) & EXITING))
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(pidfd)
