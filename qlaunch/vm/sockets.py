"""Listening sockets, made before QEMU and handed over: nobody waits for a path to appear."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from qlaunch.errors import HostError, Problem

if TYPE_CHECKING:
    from qlaunch.plan.model import Account

_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SUN_PATH = 108  # sizeof(sockaddr_un.sun_path), the closing zero included


def listen_unix(
    path: str, *, mode: int = 0o600, backlog: int = 4, account: Account | None = None
) -> socket.socket:
    """A listening socket at `path`, with `mode` from its first moment, and then of `account`.

    A socket that an earlier run left there is replaced; anything else, and a directory that is a
    link, is refused. The path may be
    of any length, its last part up to 80 bytes. After HostError nothing of ours is at `path`.
    """
    target = Path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = -1
    bound = False
    try:
        place = os.open(target.parent, _PLACE)
        _clear(target.name, place)
        # bind() takes the mode from the socket's own inode: no moment at the umask's mode.
        os.fchmod(sock.fileno(), mode)
        sock.bind(_address(path, place, target.name))
        bound = True
        _set_mode(target.name, place, mode)  # the umask was taken off it
        if account is not None:
            os.chown(
                target.name, account.uid, account.gid, dir_fd=place, follow_symlinks=False
            )
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        if bound:
            os.unlink(target.name, dir_fd=place)
        raise HostError(
            Problem("no socket could be made", where=path, found=error.strerror or str(error),
                    hint=f"namei -l '{path}' shows what is in the way")
        ) from None
    finally:
        if place >= 0:
            os.close(place)
    return sock


def connect_unix(sock: socket.socket, path: str) -> None:
    """connect() to a path of any length. Raises OSError."""
    place = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(_address(path, place, Path(path).name))
    finally:
        os.close(place)


def _address(path: str, place: int, name: str) -> str:
    if len(os.fsencode(path)) < SUN_PATH:
        return path
    short = f"/proc/self/fd/{place}/{name}"
    if len(os.fsencode(short)) >= SUN_PATH:
        raise OSError(0, f"its last part is too long: {len(os.fsencode(name))} bytes")
    return short


def _set_mode(name: str, place: int, mode: int) -> None:
    """chmod of the socket itself: a link that somebody put in its place is not followed."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(0, "something else was put in its place")
        Path(f"/proc/self/fd/{fd}").chmod(mode)  # fchmod refuses an O_PATH fd
    finally:
        os.close(fd)


def _clear(name: str, place: int) -> None:
    try:
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(0, "something that is not a socket is in the way")
    os.unlink(name, dir_fd=place)
