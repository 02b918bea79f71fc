"""Carrying a setup out: files by rename, then the commands; when one fails, all is put back.

What will be there is recorded before the first file is written, so that a setup that was killed
half-way can be reverted. With a directory for a root only files are written, because the commands
would speak of the machine that runs us.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import join

import msgspec

from qlaunch import children
from qlaunch.codec import to_json
from qlaunch.errors import HostError, NotRestoredError, Problem
from qlaunch.facts.tree import base_of
from qlaunch.setup.model import RECORD_PATH, Change, Command, Record, Setup

LIMIT = 1800.0  # seconds: an initramfs for each of several kernels on a slow disk
Say = Callable[[str], None]


class Door:
    """Every effect of a setup; tests put faults in here."""

    def write(self, path: str, data: bytes) -> None:
        """A whole file at once, with the mode, owner and attributes of the one it replaces."""
        old = os.stat(path) if os.path.exists(path) else None  # noqa: PTH110, PTH116
        fresh = f"{path}.qlaunch-new"
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(fd, left) :]
                if old is not None:
                    _as_before(fd, path, old)
                else:
                    os.fchmod(fd, 0o644)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(fresh, path)  # noqa: PTH105
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(fresh)  # noqa: PTH108
            raise

    def remove(self, path: str) -> None:
        """unlink(2)."""
        os.unlink(path)  # noqa: PTH108

    def make_directory(self, path: str) -> None:
        """mkdir(2), for everybody to read."""
        os.mkdir(path)  # noqa: PTH102
        os.chmod(path, 0o755)  # noqa: PTH101, S103 - as /etc/modprobe.d is

    def remove_directory(self, path: str) -> None:
        """rmdir(2)."""
        os.rmdir(path)  # noqa: PTH106

    def run(self, argv: Sequence[str]) -> children.Done:
        """A command to its end."""
        return children.run_child(argv, timeout=LIMIT)


def _as_before(fd: int, path: str, old: os.stat_result) -> None:
    """A boot partition's FAT knows neither owners nor attributes, and says EPERM or ENOTSUP."""
    os.fchmod(fd, stat.S_IMODE(old.st_mode))
    with contextlib.suppress(OSError):
        os.fchown(fd, old.st_uid, old.st_gid)
    with contextlib.suppress(OSError):
        for name in os.listxattr(path):
            with contextlib.suppress(OSError):
                os.setxattr(fd, name, os.getxattr(path, name))


class _Work:
    """One setup being carried out, and how far it came."""

    def __init__(self, root: Path, door: Door, say: Say) -> None:
        self.base, self.door, self.say = base_of(root), door, say
        self.before: dict[str, bytes | None] = {}
        self.made: list[str] = []  # directories
        self.runs = True
        self.ran: list[Command] = []

    def real(self, path: str) -> str:
        """Where a path leads inside the root. Raises HostError when it leads out of it."""
        found = os.path.realpath(self.base + path)
        top = os.path.realpath(self.base) if self.base else ""
        if top and not found.startswith(f"{top}/"):
            raise HostError(Problem("this symbolic link leads out of the root directory",
                                    where=self.base + path, found=found,
                                    hint=f"make it a relative one: ln -sfr TARGET '{path}'"))
        return found

    def write(self, path: str, data: bytes | None) -> None:
        """One file's new content; None removes it."""
        file = self.real(path)
        there = Path(file).read_bytes() if os.path.exists(file) else None  # noqa: PTH110
        self.before.setdefault(path, there)
        if data is None:
            if there is not None:
                self.door.remove(file)
        elif data != there:
            self._directories(os.path.dirname(file))  # noqa: PTH120
            self.door.write(file, data)

    def _directories(self, path: str) -> None:
        if not os.path.isdir(path):  # noqa: PTH112
            self._directories(os.path.dirname(path))  # noqa: PTH120
            self.door.make_directory(path)
            self.made.append(path)

    def run(self, command: Command) -> None:
        """Run it and show what it says. Raises HostError when it fails."""
        self.say(f"$ {join(command.argv)}")
        self.ran.append(command)
        done = self.door.run(command.argv)
        for line in (done.out + done.err).splitlines():
            self.say(f"  {line}")
        if done.code:
            words = (done.err or done.out).strip().splitlines()
            raise HostError(Problem(f"{join(command.argv)} failed with exit code {done.code}",
                                    found=words[-1] if words else "",
                                    hint=f"try it by hand: {join(command.argv)}"))

    def put_back(self) -> list[Problem]:
        """Files and directories as they were, then the commands' other way. Problems: what not."""
        left: list[Problem] = []
        for path, data in reversed(list(self.before.items())):
            try:
                self.write(path, data)
            except (OSError, HostError) as error:
                left.append(Problem("this file could not be put back", where=self.base + path,
                                    found=str(error), hint=_way_on(self.base + path)))
        for directory in reversed(self.made):
            with contextlib.suppress(OSError):
                self.door.remove_directory(directory)
        for argv in dict.fromkeys(c.back for c in reversed(self.ran)):
            try:
                self.say(f"$ {join(argv)}")
                code = self.door.run(argv).code
            except (OSError, HostError) as error:
                left.append(Problem(f"{join(argv)} could not be run", found=str(error),
                                    hint=f"by hand: {join(argv)}"))
            else:
                if code:
                    left.append(Problem(
                        f"with the files put back, {argv[0]} failed with exit code {code}",
                        hint=f"by hand: {join(argv)}",
                    ))
        return left


def _way_on(path: str) -> str:
    return f"namei -l '{path}' and df -h '{os.path.dirname(path)}' show what is in the way"  # noqa: PTH120


def carry_out(
    root: Path, setup: Setup, old: Record | None, say: Say, *, door: Door | None = None,
    commands: bool | None = None,
) -> None:
    """Write and run. Raises HostError with the host as it was, NotRestoredError when it is not.

    `commands`: whether to run them; None: where the root is this host's own.
    """
    work = _Work(root, door or Door(), say)
    work.runs = not work.base if commands is None else commands
    with children.held_signals():
        try:
            _carry_out(work, setup, old)
        except (OSError, HostError) as error:
            problems = list(error.problems) if isinstance(error, HostError) else [
                Problem(f"the host could not be changed: {error.strerror or error}",
                        where=str(error.filename or ""), hint=_way_on(error.filename or "/etc"))
            ]
            left = work.put_back()
            if left:
                raise NotRestoredError([*problems, *left]) from None
            raise HostError([
                *problems, Problem("what was written has been put back", severity="note"),
            ]) from None


def _carry_out(work: _Work, setup: Setup, old: Record | None) -> None:
    made = list(old.directories if old else ())
    announced = _announced(work, setup, old, made)
    work.write(RECORD_PATH, _json(announced))
    for change in setup.changes:
        _check_unchanged(work, change)
        work.write(change.path, _bytes(change.after))
        work.say(f"{'removed' if change.after is None else 'wrote'} {change.path}")
    if work.runs:
        for command in setup.commands:
            work.run(command)
    _finish(work, setup, announced)


def _announced(work: _Work, setup: Setup, old: Record | None, made: list[str]) -> Record:
    """The record while it happens: what was there and what will be, so that both can be undone."""
    paths = [RECORD_PATH, *(c.path for c in setup.changes if c.after is not None)]
    for path in paths:
        directory = os.path.dirname(work.real(path))  # noqa: PTH120
        while not os.path.isdir(directory) and directory not in made:  # noqa: PTH112
            made.append(directory)
            directory = os.path.dirname(directory)  # noqa: PTH120
    before, after = old or Record(), setup.record or Record()
    return msgspec.structs.replace(
        after, done=False, boot=after.boot or before.boot,
        parameters=tuple(dict.fromkeys((*before.parameters, *after.parameters))),
        shown=tuple(dict.fromkeys((*before.shown, *after.shown))),
        parts=tuple(dict.fromkeys((*before.parts, *after.parts))),
        directories=tuple(dict.fromkeys(_shown(work, d) for d in made)),
    )


def _shown(work: _Work, directory: str) -> str:
    """As the host itself sees it."""
    top = os.path.realpath(work.base) if work.base else ""
    return directory.removeprefix(top)


def _check_unchanged(work: _Work, change: Change) -> None:
    """Between the diff and the writing somebody else may have written."""
    file = work.real(change.path)
    there = Path(file).read_bytes() if os.path.exists(file) else None  # noqa: PTH110
    if there != _bytes(change.before):
        raise HostError(Problem("this file has changed since it was read",
                                where=work.base + change.path, hint="do this again"))


def _finish(work: _Work, setup: Setup, announced: Record) -> None:
    """The record as it stays, or with nothing left to tell none, and no empty directories."""
    if setup.record is not None:
        work.write(RECORD_PATH, _json(msgspec.structs.replace(
            setup.record, directories=announced.directories, done=True)))
        return
    work.write(RECORD_PATH, None)
    for directory in sorted(announced.directories, key=len, reverse=True):
        with contextlib.suppress(OSError):  # somebody else has put something in it
            work.door.remove_directory(work.real(directory))


def _json(record: Record) -> bytes:
    return to_json(record, indent=2) + b"\n"


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")
