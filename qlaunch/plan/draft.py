"""What the parts of a plan share while it is being made: inputs, slots, fds, problems.

Only `make.py` creates one; it does not leave the room.
"""

from __future__ import annotations

from qlaunch.errors import Problem, Severity
from qlaunch.facts.model import HostFacts
from qlaunch.plan.eras import ERAS, Era
from qlaunch.plan.model import FIRST_FD, Account, FdKind, PlannedFd
from qlaunch.plan.slots import SlotMap
from qlaunch.profile.profile import Profile


class Draft:
    """A plan in the making."""

    def __init__(self, profile: Profile, facts: HostFacts, account: Account | None) -> None:
        self.profile = profile
        self.facts = facts
        self.account = account
        self.era: Era = ERAS[profile.guest]
        self.slots = SlotMap()
        self.problems: list[Problem] = []
        self.fds: list[PlannedFd] = []

    @property
    def is_pc(self) -> bool:
        """The old i440fx machine, without PCI Express."""
        return self.profile.machine.type.split("-")[0] == "pc" and (
            "q35" not in self.profile.machine.type
        )

    @property
    def bus(self) -> str:
        """Id of the guest's bus 0."""
        return "pci.0" if self.is_pc else "pcie.0"

    def fd(self, kind: FdKind, of: str = "", *, writable: bool = True) -> int:
        """Reserve the next fixed fd number."""
        number = FIRST_FD + len(self.fds)
        self.fds.append(PlannedFd(number=number, kind=kind, of=of, writable=writable))
        return number

    def problem(
        self, message: str, where: str, *, found: str = "", allowed: str = "", hint: str = "",
        severity: Severity = "error",
    ) -> None:
        """Note a fault, a warning or a note."""
        self.problems.append(Problem(message, where, found, allowed, hint, severity))
