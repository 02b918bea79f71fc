"""A uid of its own for each machine that root starts for itself, so that none of two QEMUs that
were taken over can reach the other's processes, sockets and files.

It is one of systemd's range for accounts that come and go (systemd.io/UIDS-GIDS), by the machine's
name, or the next one that nobody has: no account, no service, no other machine. The state
directory keeps it, because what the machine's helpers write there belongs to it.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Callable

FIRST, LAST = 61184, 65519
STATES = "/var/lib/qlaunch"
FILE = "uid"
_DYNAMIC = "/run/systemd/dynamic-uid"  # a file for each that systemd has given away


def own_uid(
    machine: str, states: str = STATES, in_use: Callable[[int], bool] | None = None
) -> int | None:
    """The machine's uid, or the one that it will be given; None when all are taken.

    `in_use` stands for the host's accounts (tests).
    """
    used = in_use or _in_use
    others: set[int] = set()
    with contextlib.suppress(OSError):
        others = {_kept(f"{states}/{n}") for n in os.listdir(states) if n != machine}  # noqa: PTH208
    kept = _kept(f"{states}/{machine}")
    if kept and kept not in others and not used(kept):
        return kept
    from zlib import crc32

    count = LAST - FIRST + 1
    start = crc32(machine.encode())
    for step in range(count):
        uid = FIRST + (start + step) % count
        if uid not in others and not used(uid):
            return uid
    return None


def is_own(uid: int) -> bool:
    """Whether it is one that a machine of root's is given."""
    return FIRST <= uid <= LAST


def keep_uid(uid: int, state: str) -> None:
    """Note it in the machine's state directory. Raises OSError."""
    path = f"{state}/{FILE}"
    if _kept(state) == uid:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(f"{path}.new", flags, 0o600)
    try:
        os.write(fd, f"{uid}\n".encode())
    finally:
        os.close(fd)
    os.replace(f"{path}.new", path)  # noqa: PTH105


def _kept(state: str) -> int:
    """0 for none, and for one that is none of ours to give."""
    try:
        with open(f"{state}/{FILE}", "rb") as file:  # noqa: PTH123
            uid = int(file.read(16))
    except (OSError, ValueError):
        return 0
    return uid if is_own(uid) else 0


def _in_use(uid: int) -> bool:
    if os.path.lexists(f"{_DYNAMIC}/{uid}"):
        return True
    for look in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            look(uid)
            return True
    return False
