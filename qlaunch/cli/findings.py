"""Findings as text, at most 80 columns and without colour: what `doctor` and `check` print.

Commands are folded with a backslash, so that they can be copied whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from msgspec.structs import asdict

from qlaunch.advise.finding import LEVELS, Finding, Level
from qlaunch.cli.command import typed

WIDTH = 80
_SUBJECT = 20
_WORDS: dict[Level, str] = {
    "fault": "FAULT", "warning": "warning", "unknown": "unknown", "note": "note", "ok": "ok",
}
_COUNTED: dict[Level, tuple[str, str]] = {
    "fault": ("fault", "faults"), "warning": ("warning", "warnings"),
    "unknown": ("could not be told", "could not be told"), "note": ("note", "notes"),
    "ok": ("fine", "fine"),
}
_COMMANDS = ("sudo ", "echo ", "qlaunch ", "ssh ")


def findings_text(found: Sequence[Finding]) -> str:
    """A block each, what is fine in one line."""
    lines: list[str] = []
    before: Level | None = None
    for one in found:
        if before is not None and (one.level != "ok" or before != "ok"):
            lines.append("")
        lines += _head(one)
        if one.level != "ok":
            lines += _body(one)
        before = one.level
    return "\n".join(lines) + "\n" * bool(lines)


def _head(one: Finding) -> list[str]:
    start = f"{_WORDS[one.level]:8} {one.subject:{_SUBJECT}} "
    return wrap(one.message, WIDTH, initial_indent=start, subsequent_indent=" " * len(start),
                break_long_words=False, break_on_hyphens=False)


def _body(one: Finding) -> list[str]:
    lines: list[str] = []
    for evidence in one.evidence:
        lines += _line("found", str(evidence))
    if one.reason:
        lines += _line("why", one.reason)
    for fix in one.fix:
        lines += _line("fix", typed(fix))
    return lines


def _line(word: str, text: str) -> list[str]:
    start = f"{'':9}{word + ':':7}"
    command = word == "fix" and text.startswith(_COMMANDS)
    lines = wrap(text, WIDTH - 2 * command, initial_indent=start,
                 subsequent_indent=" " * (len(start) + 2 * command),
                 break_long_words=False, break_on_hyphens=False)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:] if command else lines


def findings_json(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """The same for `--json`, evidence by name."""
    return [
        {**asdict(one), "evidence": [item._asdict() for item in one.evidence],
         "fix": [typed(fix) for fix in one.fix]}
        for one in found
    ]


def summary(found: Sequence[Finding]) -> str:
    """`1 fault, 2 warnings, 9 fine`."""
    counts = {level: sum(one.level == level for one in found) for level in LEVELS}
    return ", ".join(
        f"{number} {_COUNTED[level][number != 1]}" for level, number in counts.items()
        if number or level == "fault"
    )
