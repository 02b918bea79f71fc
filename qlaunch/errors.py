"""What can go wrong, as data.

Every room reports faults as `Problem`s; only `cli` prints them and turns the exception's
`exit_code` into the process's. A problem is one sentence, the place, what was found, what is
allowed, and the next thing to type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]

WIDTH = 80 - len("  allowed: ")
KERNEL_LOG = "sudo dmesg | tail may tell the kernel's reason"  # a hint of several
_NAMED = re.compile(r"(\bqlaunch [a-z]+) NAME\b")  # in hints whose writer knows no machine
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RESTORED = 3


class Problem(NamedTuple):
    """One fault, warning or note. `message` is a lower-case sentence without a full stop."""

    message: str
    where: str = ""  # "win7.toml:12: disk[1].bus", a PCI address, a path
    found: str = ""
    allowed: str = ""
    hint: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        """The text form: `error: place: message`, then found/allowed/hint lines."""
        place = f"{self.where}: " if self.where else ""
        lines = [f"{self.severity}: {place}{self.message}"]
        if self.found:
            lines.append(f"  found:   {self.found}")
        if self.allowed:
            lines.append(f"  allowed: {_folded(self.allowed)}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def of(self, name: str) -> Problem:
        """With the machine's name where the hint says `qlaunch logs NAME`."""
        return self._replace(hint=named(self.hint, name))


def named(text: str, name: str) -> str:
    """With the machine's name where the text says `qlaunch logs NAME`."""
    return _NAMED.sub(lambda found: f"{found[1]} '{name}'", text)


def _folded(choices: str) -> str:
    """A long list of choices in lines of at most 80 columns, broken between two of them."""
    if len(choices) <= WIDTH:
        return choices
    lines: list[str] = []
    for choice in choices.split(", "):
        if lines and len(longer := f"{lines[-1]}, {choice}") < WIDTH:
            lines[-1] = longer
        else:
            lines.append(choice)
    return ",\n           ".join(lines)


class QlaunchError(Exception):
    """Base of all expected failures: `problems` to tell, `exit_code` to leave with.

    Raised only after the raiser has put back, or handed to the engine's undo, whatever it changed.
    """

    exit_code = EXIT_FAILED

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        if isinstance(problems, Problem):
            problems = (problems,)
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))

    def of(self, name: str) -> None:
        """See Problem.of."""
        self.problems = tuple(problem.of(name) for problem in self.problems)
        self.args = ("\n".join(str(p) for p in self.problems),)


class UsageError(QlaunchError):
    """The command line or the profile is at fault; nothing was looked at or touched."""

    exit_code = EXIT_USAGE


class ProfileError(UsageError):
    """The profile is at fault. Holds every fault found, in file order."""


class HostError(QlaunchError):
    """The host cannot do what the plan asks, or refused a step; the host is as it was."""


class StuckError(HostError):
    """A write to the kernel did not return before its deadline; its child may still hang."""


class NotRestoredError(QlaunchError):
    """Something that was changed on the host could not be put back."""

    exit_code = EXIT_NOT_RESTORED
