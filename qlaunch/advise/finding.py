"""A finding: what is wrong with a host or right with it, seen where, why it matters, what to type.

The words are used by `doctor` for the host and by `check` for a profile's part of it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from qlaunch.facts.health_model import Health
from qlaunch.facts.model import HostFacts
from qlaunch.values import PciAddress

Level: TypeAlias = Literal["fault", "warning", "unknown", "note", "ok"]
LEVELS: tuple[Level, ...] = ("fault", "warning", "unknown", "note", "ok")


class Evidence(NamedTuple):
    """A file (or the command that was asked) and what it says."""

    file: str
    value: str

    def __str__(self) -> str:
        return f"{self.file}: {self.value}"


class Finding(Struct, frozen=True, kw_only=True):
    """One subject's verdict. `fault`: a machine with passed-through devices cannot run;
    `unknown`: could not tell; `note`: only some profiles need it."""

    subject: str
    level: Level
    message: str  # one sentence, lower case, no full stop
    evidence: tuple[Evidence, ...] = ()
    reason: str = ""
    fix: tuple[str, ...] = ()  # commands, or what to do, in order
    devices: tuple[PciAddress, ...] = ()  # whom it is about; none: the whole host


class Host(NamedTuple):
    """What the rules look at: facts, and the part that only a doctor asks for."""

    facts: HostFacts
    health: Health

    @property
    def root(self) -> bool:
        """Whether root looked."""
        return self.facts.invoker is not None and self.facts.invoker.root


def unexamined(subject: str, what: str, *, fix: str = "") -> Finding:
    """Nobody could look."""
    return Finding(
        subject=subject, level="unknown", message=f"could not tell {what}",
        fix=(fix,) if fix else (),
    )
