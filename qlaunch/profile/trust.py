"""May root act on this file? As sshd's StrictModes: only if nobody else could have written it.

The file and every directory that the kernel walks to reach it (symbolic links followed, the
directories that hold them included) must belong to root or to the user who asked through sudo or
pkexec, and group and others may not write. A sticky directory such as /tmp is accepted only as
the parent of a trusted *directory*, which nobody else can then rename or replace (may_delete() in
fs/namei.c); a file straight in /tmp is refused, because anyone can be there first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import Struct

from qlaunch.errors import Problem

_MAX_LINKS = 40  # as the kernel (MAXSYMLINKS)


class Status(Protocol):
    """What the check reads of an os.stat_result."""

    @property
    def st_mode(self) -> int: ...
    @property
    def st_uid(self) -> int: ...


class Verdict(Struct, frozen=True):
    """What stands against the file, and whether root alone could have written it."""

    problems: tuple[Problem, ...]
    root_only: bool


def asking_user(environ: dict[str, str] | None = None) -> int | None:
    """The uid of the ordinary user who became root: through a set-user-ID program (then what the
    environment says is theirs), through pkexec or sudo."""
    if environ is None and os.geteuid() == 0 != os.getuid():
        return os.getuid()
    env = os.environ if environ is None else environ
    for name in ("PKEXEC_UID", "SUDO_UID"):
        text = env.get(name, "")
        if text.isascii() and text.isdigit() and int(text[:10]) != 0:
            return int(text[:10])
    return None


def check_trust(
    path: str,
    opened: Status,
    asking: int | None,
    lstat: Callable[[str], Status] = os.lstat,
    readlink: Callable[[str], str] = os.readlink,
) -> Verdict:
    """Judge an absolute path whose open file has the status `opened` (from fstat)."""
    owners: set[int] = {opened.st_uid}
    problems: dict[str, Problem] = {}
    for directory, status, child in _steps(path, lstat, readlink):
        owners.add(status.st_uid)
        kept = bool(status.st_mode & stat.S_ISVTX) and _is_own_directory(child, asking)
        for problem in _judge(directory, status, asking, kept):
            problems.setdefault(directory, problem)
    for problem in _judge(path, opened, asking, False):
        problems.setdefault(path, problem)
    return Verdict(tuple(problems.values()), owners == {0})


def _is_own_directory(status: Status, asking: int | None) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (0, asking)


def _judge(path: str, status: Status, asking: int | None, kept: bool) -> Iterator[Problem]:
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
    found = f"owner uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_uid not in (0, asking):
        yield Problem(
            f"root does not act on a profile when another user owns the {kind}",
            where=path, found=found, hint=f"chown root {path}, or run as that user",
        )
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not kept:
        sticky = status.st_mode & stat.S_ISVTX
        yield Problem(
            f"root does not act on a profile when others may write the {kind}",
            where=path, found=found,
            hint="move the profile to /etc/qlaunch" if sticky else f"chmod go-w {path}",
        )


def _steps(
    path: str, lstat: Callable[[str], Status], readlink: Callable[[str], str]
) -> Iterator[tuple[str, Status, Status]]:
    """(directory, its status, the status of what is looked up in it), as the kernel walks."""
    at = "/"
    pending = path.split("/")[::-1]
    links = 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = at.rpartition("/")[0] or "/"
            continue
        child = os.path.join(at, part)  # noqa: PTH118 - a Path would fold what is walked here
        status = lstat(child)
        yield at, lstat(at), status
        if not stat.S_ISLNK(status.st_mode):
            at = child
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(f"too many symbolic links: {path}")
        target = readlink(child)
        at = "/" if target.startswith("/") else at
        pending.extend(target.split("/")[::-1])
