"""Reading the bytes of a profile: whatever stands at the path, the answer is text or a sentence.

A FIFO or device is never opened, a directory or a huge file never read, and the status that is
judged is that of the descriptor that is read.
"""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from msgspec import Struct

from qlaunch.errors import Problem, ProfileError

LIMIT = 1 << 20
_TEXT = "a profile is a short text; a disk image goes into one: [[disk]] file = …"
_KINDS = (
    (stat.S_ISDIR, "this is a directory"),
    (stat.S_ISFIFO, "this is a pipe"),
    (stat.S_ISSOCK, "this is a socket"),
    (stat.S_ISCHR, "this is a device"),
    (stat.S_ISBLK, "this is a device"),
)


class OpenError(ProfileError):
    """There is no text to be had at the path."""


class FileText(Struct, frozen=True):
    """A file's text, and its status from the descriptor it was read through."""

    text: str
    status: os.stat_result


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: control characters and undecodable bytes escaped."""
    text = os.fspath(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def read_text(path: Path, name: str) -> FileText:
    """The UTF-8 text of a regular file of at most 1 MiB. Raises ProfileError (`name` is shown)."""
    try:
        _regular(path.stat(), path)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor has no Path
            status = os.fstat(fd)
            _regular(status, path)
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise _fault(path, "there is no such file",
                     hint="paths are relative to the file that says them") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise _fault(path, f"cannot be read: {(reason or str(error)).lower()}") from None
    if len(data) > LIMIT:  # it grew, or is of a kind that does not tell its size, as in /proc
        raise _fault(path, "larger than 1 MiB, which no profile is", hint=_TEXT)
    return FileText(_decode(data, name), status)


def _regular(status: os.stat_result, path: Path) -> None:
    for is_kind, message in _KINDS:
        if is_kind(status.st_mode):
            raise _fault(path, message, hint="a profile is a regular file, NAME.toml")
    if status.st_size > LIMIT:
        size = f"{status.st_size} bytes"
        raise _fault(path, "larger than 1 MiB, which no profile is", size, _TEXT)


def _fault(path: Path, message: str, found: str = "", hint: str = "") -> OpenError:
    return OpenError(Problem(message, where=shown(path), found=found, hint=hint))


def _decode(data: bytes, name: str) -> str:
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        good = body[: error.start].decode("utf-8")
        found = f"byte 0x{body[error.start]:02x}"
        hint = "save the file as UTF-8"
        if body[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            hint = "this looks like UTF-16: " + hint
        raise _misread(name, good, "not UTF-8 text", found, hint) from None
    if "\0" in text:
        good = text[: text.index("\0")]
        raise _misread(name, good, "a NUL byte", "", "a profile is plain text")
    return text


def _misread(name: str, good: str, message: str, found: str, hint: str) -> ProfileError:
    line, column = good.count("\n") + 1, len(good) - good.rfind("\n")
    return ProfileError(Problem(message, f"{name}:{line}:{column}", found, hint=hint))
