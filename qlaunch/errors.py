"""What can go wrong, as data.

Every room reports faults as `Problem`s; only `cli` prints them and turns the exception's
`exit_code` into the process's. A problem is one sentence, the place, what was found, what is
allowed, and the next thing to type.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]

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
            lines.append(f"  allowed: {self.allowed}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


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
