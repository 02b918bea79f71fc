"""Helpers for what verbs print: names that were meant, columns, wrapped reasons."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from qlaunch.errors import HostError, Problem


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def columns(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """A plain table: columns as wide as their widest cell, the last one free."""
    table = [list(head), *[list(r) for r in rows]]
    widths = [max(len(r[i]) for r in table) for i in range(len(head))]
    lines = []
    for row in table:
        cells = [c.ljust(w) for c, w in zip(row[:-1], widths[:-1], strict=True)] + [row[-1]]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def write(text: str) -> None:
    """To stdout. Raises HostError when it cannot be written, BrokenPipeError when nobody reads."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # a locale of another time
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except OSError as error:
        raise _not_written(error) from None


def flush() -> None:
    """What was written is with the reader when this returns; raises as `write` does."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _not_written(error) from None


def _not_written(error: OSError) -> OSError | HostError:
    if isinstance(error, BrokenPipeError):
        return error
    drop_output()
    return HostError(
        Problem(f"the output cannot be written: {error.strerror}", where="stdout",
                hint="df -h shows full disks" if error.errno == errno.ENOSPC else "")
    )


def drop_output(stream: TextIO | None = None) -> None:
    """Nobody takes our output any more; the interpreter's last flush may not fail on it."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, (stream or sys.stdout).fileno())
        os.close(null)


def say(text: str) -> None:
    """Progress and remarks: to stderr, one line, so that stdout stays data."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def write_json(value: object) -> None:
    """Indented JSON to stdout."""
    from qlaunch.codec import to_json

    write(to_json(value, indent=2).decode() + "\n")
