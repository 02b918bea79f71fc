"""Writes that outlive the process that asked for them, and how an undo waits for them.

A guarded write is made by a child, which goes on when its launcher is killed: an undo that began
meanwhile would find nothing to undo, and what is made a moment later would stay for ever. So the
child shares a lock on the journal that announces the write. It is taken before the fork, and the
kernel lets go of it when the last of the two has ended (flock(2): it belongs to the open file, not
to a process), so there is no moment in which a dead launcher's write is still to come and the lock
is free. To ask who the child's parent is would leave one: the kernel closes a dead process's files,
and with them its other locks, before its children get another parent (do_exit in kernel/exit.c).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qlaunch import children
from qlaunch.host.handler import Host

POLL = 0.01


@contextmanager
def writing(host: Host) -> Iterator[int]:
    """An fd that holds the lock, for the child to inherit; -1 when the host has no journal.

    Shared: a child that hangs on one device must not keep us from another. A journal that is gone
    has nobody who would wait.
    """
    fd = _open(host)
    try:
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_SH)
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)


def wait_for_writers(host: Host) -> bool:
    """Wait until no child of a dead process writes any more; False when the host's deadline has
    passed. It is told like any other wait for the kernel."""
    fd = _open(host)
    if fd < 0:
        return True
    start, told = time.monotonic(), children.PROGRESS_FIRST
    try:
        while not _is_free(fd):
            passed = time.monotonic() - start
            if passed >= host.deadline:
                return False
            if host.on_wait is not None and passed >= told:
                host.on_wait("a write that a dead process has begun", passed)
                told += children.PROGRESS_EVERY
            time.sleep(POLL)
    finally:
        os.close(fd)
    return True


def _open(host: Host) -> int:
    if host.journal:
        with suppress(OSError):
            return os.open(host.journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    return -1


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
