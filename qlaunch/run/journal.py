"""The write-ahead record of what a run does to the host, one JSON object a line.

It lies in the machine's runtime directory (tmpfs: it dies with the state it describes). Each line
is on it before the change it announces, so a launcher killed anywhere leaves enough to put the
host back. Reading forgives everything: a cut or garbled line is named and skipped. The last line
may be cut, because the change that it announces was not made; whoever writes next takes the piece
away. Any other one that cannot be read is a change that nobody knows of (`Contents.lost`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from qlaunch.codec import from_json, to_json
from qlaunch.errors import HostError, Problem
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import Step
from qlaunch.run.locks import ForeignFileError, open_own, remedy

FILE_NAME = "journal"
VERSION = 1
SHOWN = 400  # bytes of a line that cannot be read


class _Record(Struct, frozen=True, kw_only=True, tag_field="record"):
    pass


class Header(_Record, frozen=True, kw_only=True, tag="header"):
    """Whose journal this is. A pid means something only together with its start time."""

    version: int = VERSION
    boot_id: str
    pid: int
    start_time: int  # clock ticks since boot, /proc/PID/stat
    name: str
    profile: str = ""


class Stage(_Record, frozen=True, kw_only=True, tag="stage"):
    """A mark of the session ("steps", "qemu", "running", "ending"); `detail` is for people."""

    stage: str
    detail: str = ""


class Intent(_Record, frozen=True, kw_only=True, tag="intent"):
    """Step `k` is about to be applied to a host that looked like `captured`."""

    k: int
    step: Step
    captured: Captured


class Applied(_Record, frozen=True, kw_only=True, tag="applied"):
    """It was; `captured` as `apply` left it."""

    k: int
    captured: Captured


class Undoing(_Record, frozen=True, kw_only=True, tag="undoing"):
    """Its undo is about to begin: what `apply` noted may not hold any more from here on."""

    k: int


class Undone(_Record, frozen=True, kw_only=True, tag="undone"):
    """It is back."""

    k: int
    sentence: str = ""


class Stuck(_Record, frozen=True, kw_only=True, tag="stuck"):
    """A write of it did not return; a recover tries again."""

    k: int
    error: str = ""


class Failed(_Record, frozen=True, kw_only=True, tag="failed"):
    """Its apply or its undo failed; `captured` where the apply has found that other things were
    there than had been read (somebody's device of that UUID)."""

    k: int
    error: str
    captured: Captured | None = None


class End(_Record, frozen=True, kw_only=True, tag="end"):
    """The run is over; `restored` says whether everything is back."""

    restored: bool


class HooksRun(_Record, frozen=True, kw_only=True, tag="hooks"):
    """The profile's hooks for the end have been run: nobody runs them again."""


Record: TypeAlias = (
    Header | Stage | Intent | Applied | Undoing | Undone | Stuck | Failed | End | HooksRun
)


class Contents(NamedTuple):
    """What could be read of a journal."""

    header: Header | None
    records: tuple[Record, ...]  # without the header
    unreadable: tuple[int, ...]  # line numbers, from 1
    lost: tuple[str, ...] = ()  # what cannot be known for certain, a line of the file each

    def is_stale(self, boot_id: str) -> bool:
        """Whether it tells of another boot: then nothing of it is left to undo."""
        return self.header is not None and self.header.boot_id != boot_id

    @property
    def is_restored(self) -> bool:
        """Whether the run, which knew all that it had done, has said that everything is back."""
        ends = [record for record in self.records if isinstance(record, End)]
        return bool(ends) and ends[-1].restored


class Journal:
    """An open journal. Every record is on the file, fsync'd, when `write` returns."""

    def __init__(self, fd: int, path: Path) -> None:
        self.path = path
        self._fd = fd

    def write(self, record: Record) -> None:
        """Append one record. Raises OSError (a full disk), and leaves no piece of a line then."""
        line = memoryview(to_json(record) + b"\n")
        written = 0
        try:
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError:
            self._take_off(written)
            raise
        os.fsync(self._fd)

    def _take_off(self, written: int) -> None:
        """The piece of a line at the end, unless somebody has appended to it meanwhile."""
        end = os.lseek(self._fd, 0, os.SEEK_CUR)  # O_APPEND: behind what was written last
        if written and os.fstat(self._fd).st_size == end:
            os.ftruncate(self._fd, end - written)

    def close(self) -> None:
        """Close the file; it stays where it is."""
        os.close(self._fd)


def create_journal(directory: Path, header: Header) -> Journal:
    """Make DIRECTORY/journal (0600) with its header, both on disk when this returns.

    Raises HostError when one is there already, or when it cannot be written; none is left then
    unless it was there before.
    """
    path = directory / FILE_NAME
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fd = os.open(FILE_NAME, flags, 0o600, dir_fd=folder)
            journal = Journal(fd, path)
            try:
                journal.write(header)
                os.fsync(folder)
            except BaseException:
                os.unlink(FILE_NAME, dir_fd=folder)
                journal.close()
                raise
        finally:
            os.close(folder)
    except FileExistsError:
        raise HostError(
            Problem(
                "the journal of an earlier run is still there", where=str(path),
                hint=f"qlaunch recover '{header.name}'",
            )
        ) from None
    except OSError as error:
        raise HostError(
            Problem("the journal cannot be written", str(path), found=error.strerror or "",
                    hint=remedy(error, str(path)))
        ) from error
    return journal


def open_journal(path: Path) -> Journal:
    """Open one for further records (recover). Raises HostError as `read_journal` does.

    A last line without an end is cut off: what it announces was not done.
    """
    fd = _open(path, os.O_RDWR | os.O_APPEND)
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.ftruncate(fd, os.pread(fd, size, 0).rfind(b"\n") + 1)
    return Journal(fd, path)


def read_journal(path: Path) -> Contents:
    """Whatever can be read. Raises HostError when it is missing or another user could write it.

    What a journal says is done to the host by whoever recovers, so root reads root's only.
    """
    with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
        lines = file.read().split(b"\n")
    header: Header | None = None
    records: list[Record] = []
    unreadable: list[int] = []
    lost: list[str] = []
    begun: set[int] = set()
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record: Record = from_json(line, Record)  # type: ignore[arg-type]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            unreadable.append(number)
            if number < len(lines):
                lost.append(f"line {number}: {_shown(line)}")
            continue
        if isinstance(record, Header):
            header = header or record
            continue
        records.append(record)
        if isinstance(record, Intent | Failed | Stuck):  # an intent that did not fit has a Failed
            begun.add(record.k)
        elif isinstance(record, Applied | Undoing | Undone) and record.k not in begun:
            lost.append(f"line {number} has no beginning: {_shown(line)}")
    return Contents(header, tuple(records), tuple(unreadable), tuple(lost))


def _shown(line: bytes) -> str:
    """As ASCII, for a terminal; its device and driver are in the first few hundred bytes."""
    text = line[:SHOWN].decode("ascii", "backslashreplace")
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text + ("…" if len(line) > SHOWN else "")


def make_header(host: Host, name: str, profile: str = "") -> Header:
    """The header of a run by this process."""
    pid = os.getpid()
    return Header(
        boot_id=read_boot_id(host), pid=pid, start_time=read_start_time(host, pid) or 0,
        name=name, profile=profile,
    )


def read_boot_id(host: Host) -> str:
    """The kernel's id of this boot; empty when it cannot be read."""
    try:
        return host.path("proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def read_start_time(host: Host, pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is no such process."""
    try:
        fields = host.path(f"proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19])  # field 22; the command's name may hold blanks and brackets
    except (OSError, ValueError, IndexError):
        return None


def _open(path: Path, flags: int) -> int:
    try:
        return open_own(str(path), flags)
    except ForeignFileError as error:
        raise HostError(
            Problem(
                "the journal may have been written by somebody else", where=str(path),
                found=error.strerror or "",
                allowed=f"a plain file of uid {os.geteuid()}, writable by its owner only",
                hint=f"ls -ld '{path}' shows it",
            )
        ) from None
    except OSError as error:
        raise HostError(
            Problem("the journal cannot be opened", str(path), found=error.strerror or "",
                    hint=remedy(error, str(path)))
        ) from error
