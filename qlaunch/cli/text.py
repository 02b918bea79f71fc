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


def columns(rows: Sequence[Sequence[str]], head: Sequence[str], *, fold: bool = False) -> str:
    """A plain table: columns as wide as their widest cell, the last one free, or folded between
    its words at 80 columns."""
    table = [list(head), *[list(r) for r in rows]]
    widths = [max(len(r[i]) for r in table) for i in range(len(head))]
    left = sum(widths[:-1]) + 2 * len(widths[:-1])
    lines = []
    for row in table:
        start = "".join(f"{cell:{width}}  " for cell, width in zip(row, widths[:-1], strict=False))
        for part in _parts(row[-1], max(80 - left, 20)) if fold else [row[-1]]:
            lines.append((start + part).rstrip())
            start = " " * left
    return "\n".join(lines) + "\n"


def _parts(text: str, width: int, indent: str = "") -> list[str]:
    if len(text) <= width:
        return [text]
    from textwrap import wrap

    return wrap(text, width, subsequent_indent=indent, break_long_words=False,
                break_on_hyphens=False, drop_whitespace=True)


def folded(problem: str, width: int) -> str:
    """A problem's text for a terminal: sentences broken between words, hints only after a
    semicolon, so that a command can be copied whole."""
    lines = []
    for line in problem.split("\n"):
        if line.startswith("hint: "):
            parts = line.split("; ")
            ends = [f"{part};" for part in parts[:-1]] + parts[-1:]
            lines += _joined(ends, width) if len(line) > width else [line]
        else:
            indent = " " * (11 if line.startswith("  ") else 2)
            lines += _parts(line, width, indent)
    return "\n".join(lines)


def _joined(parts: Sequence[str], width: int) -> list[str]:
    """As many on a line as fit."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(f"      {part}")
    return lines


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
    if "qlaunch " in text:
        from qlaunch.cli.command import typed

        text = typed(text)
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def write_json(value: object) -> None:
    """Indented JSON to stdout."""
    from qlaunch.codec import to_json

    write(to_json(value, indent=2).decode() + "\n")
