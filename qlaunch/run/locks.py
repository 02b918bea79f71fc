"""Locks that the kernel frees: flock on an fd that QEMU inherits.

A lock is held as long as either the launcher or QEMU lives, so liveness needs no pid file. A file
may be unlinked by its last holder while another process waits to open it: after locking, the path
must still lead to the locked inode.

flock(2) belongs to the open file that all who inherit it share: any of them can unlock it, and
could write what is open for writing. So the fd is open for reading only, what a locked file says
is written through another one, and that a lock is free is no proof that QEMU has ended
(`info.is_alive`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable

from qlaunch.errors import HostError, NotRestoredError, Problem

HOST_LOCK = ".host.lock"
LOOKING = 2.0  # seconds that those who only look at a lock may be in the way of who takes it
HOST_WAIT = 90.0  # longer than one guarded write's deadline
UNDO_WAIT = 900.0  # longer than a holder's undo in which one device after the other hangs


def make_directory(path: str, mode: int = 0o700, owner: tuple[int, int] | None = None) -> None:
    """Create a directory (parents too) with exactly this mode and owner.

    Raises HostError when it cannot be made, is not a directory, or belongs to somebody else: a
    directory in /run that others may write would let them replace a journal that root reads.
    """
    parent = os.path.dirname(path)  # noqa: PTH120 - pathlib is not imported on the way to a start
    try:
        if parent and not os.path.isdir(parent):  # noqa: PTH112
            make_directory(parent, 0o711 if mode & 0o011 or owner else mode)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode)  # noqa: PTH102
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            Problem(f"the directory cannot be made: {error.strerror}", where=path,
                    hint=remedy(error, path))
        ) from None
    try:
        _own(fd, path, mode, owner)
    finally:
        os.close(fd)


def _own(fd: int, path: str, mode: int, owner: tuple[int, int] | None) -> None:
    info = os.fstat(fd)
    uid = owner[0] if owner else os.geteuid()
    if info.st_uid not in (uid, os.geteuid()):
        raise HostError(
            Problem("the directory belongs to somebody else", where=path,
                    found=f"owner uid {info.st_uid}", hint=f"ls -ld '{path}'")
        )
    try:
        if owner and (info.st_uid, info.st_gid) != owner:
            os.fchown(fd, *owner)
        if info.st_mode & 0o7777 != mode:
            os.fchmod(fd, mode)
    except OSError as error:
        raise HostError(
            Problem(f"the directory cannot be set up: {error.strerror}", where=path,
                    hint=remedy(error, path))
        ) from None


def remedy(error: OSError, path: str) -> str:
    """What to do about a file or directory of ours that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "df -h and df -i show what is full"
    if error.errno == errno.EROFS:
        return "it has to be on a file system that can be written: findmnt -T shows which"
    if path.startswith("/run/user/") or os.environ.get("XDG_RUNTIME_DIR", "\0") in path:
        return "XDG_RUNTIME_DIR has to name a directory of yours; a login session sets it"
    return f"namei -l '{path}' shows what is in the way"


def try_lock(path: str) -> int | None:
    """Open and lock a file; None when another process holds it. The fd is close-on-exec.

    One that only looks (`is_locked`) shares it for a moment, and is waited for.
    Raises HostError when the file cannot be opened.
    """
    deadline = time.monotonic() + LOOKING
    while True:
        try:
            fd = os.open(
                path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600
            )
        except OSError as error:
            raise HostError(
                Problem(f"the lock cannot be opened: {error.strerror}", where=path,
                        hint=remedy(error, path))
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owned = not _shares(fd)
            os.close(fd)
            if owned or time.monotonic() > deadline:
                return None
            time.sleep(0.001)
            continue
        if _is_at(fd, path):
            return fd
        os.close(fd)


def write_locked(fd: int, path: str, text: bytes) -> None:
    """Replace what a file says whose lock we hold as `fd`, through an fd that nobody inherits.

    Raises OSError; also when the path leads to another file by now.
    """
    other = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not os.path.samestat(os.fstat(fd), os.fstat(other)):
            raise OSError(errno.ESTALE, "somebody has replaced it", path)
        os.ftruncate(other, 0)
        os.pwrite(other, text, 0)
    finally:
        os.close(other)


class ForeignFileError(OSError):
    """Not a plain file that only we could write; `strerror` tells what it is."""


def open_own(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file of which we act on what it says: a plain one of our own that nobody else could
    write. Nothing else is waited for: a FIFO would be opened once somebody writes to it.

    Raises OSError, and ForeignFileError for any other file.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(fd)
    plain = stat.S_ISREG(found.st_mode)
    if not plain or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        mode = f"uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
        raise ForeignFileError(errno.EPERM, mode if plain else f"not a plain file: {mode}", path)
    return fd


def is_locked(path: str) -> bool:
    """Whether somebody holds the lock; a missing file is not locked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not _shares(fd)
    finally:
        os.close(fd)


def _shares(fd: int) -> bool:
    """Whether nobody owns the lock; it is shared then until the fd is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)  # noqa: PTH116
    except OSError:
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


class HostLock:
    """The one lock around every change to devices: two actors on one device left override and
    driver in disagreement. A context manager; waits for the other, and says so.

    Who is `undoing` what a dead machine left waits longer, because nobody may come after it (a
    unit's ExecStopPost), and gets NotRestoredError where others get HostError.
    """

    def __init__(self, base: str, say: Callable[[str], None], *, undoing: bool = False) -> None:
        self._path = f"{base}/{HOST_LOCK}"
        self._say = say
        self._undoing = undoing
        self._fd: int | None = None

    def __enter__(self) -> HostLock:
        start = time.monotonic()
        told = False
        while (fd := try_lock(self._path)) is None:
            waited = time.monotonic() - start
            if waited > (UNDO_WAIT if self._undoing else HOST_WAIT):
                raise self._too_long()
            if waited > 2 and not told:
                self._say("waiting for another qlaunch that is changing devices")
                told = True
            time.sleep(0.02)
        self._fd = fd
        return self

    def _too_long(self) -> HostError | NotRestoredError:
        text = "another qlaunch is still changing devices"
        if self._undoing:
            hint = "qlaunch recover --all, once it has ended"
            return NotRestoredError(Problem(f"{text}; nothing was put back", self._path, hint=hint))
        return HostError(Problem(text, self._path, hint="qlaunch ps"))

    def __exit__(self, *exc: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
