"""What is known of certain devices, from a table in data/quirks.json: advice, never a refusal.

A quirk says whom it is about (ids and classes as shell patterns), when it does not apply (a reset
method that the kernel has for the device, KVM hidden already), and where the fact is from. It is
shown by `check`, `plan` and `devices`, and read only there.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Literal

from msgspec import Struct

from qlaunch.codec import from_json
from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.plan.model import Plan
from qlaunch.profile.profile import Profile

TABLE = Path(__file__).parents[1] / "data/quirks.json"


class Quirk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry. An empty list is no condition; all that are there must hold."""

    id: str
    severity: Literal["warning", "note"]
    text: str
    advice: str
    source: str  # a link
    devices: tuple[str, ...] = ()  # "10de:12??"
    classes: tuple[str, ...] = ()  # how the six digits of the class code begin
    drivers: tuple[str, ...] = ()  # the host's
    addresses: tuple[str, ...] = ()
    guests: tuple[str, ...] = ()  # only for a profile with one of these
    unless_reset: tuple[str, ...] = ()  # not when the kernel can reset it by one of these
    unless_hidden: bool = False  # not when the profile hides KVM
    covers: tuple[str, ...] = ()  # quirks that say less of the same

    def is_about(self, device: PciDevice, profile: Profile | None) -> bool:
        """Whether it holds for a device, in a profile's hands when there is one."""
        return (
            _any(self.devices, lambda p: fnmatchcase(device.id, p))
            and _any(self.classes, f"{device.class_code:06x}".startswith)
            and _any(self.drivers, lambda p: p == device.driver)
            and _any(self.addresses, lambda p: p == device.address)
            and not set(self.unless_reset) & set(device.reset_methods or ())
            and self._fits(profile)
        )

    def _fits(self, profile: Profile | None) -> bool:
        if profile is None:
            return True
        if self.unless_hidden and profile.cpu.hide_kvm:
            return False
        return not self.guests or profile.guest in self.guests

    def problem(self, device: PciDevice, where: str) -> Problem:
        """As it is told."""
        return Problem(f"{device.address}: {self.text}", where, severity=self.severity,
                       hint=f"{self.advice} ({self.source})")


def _any(patterns: tuple[str, ...], holds: Callable[[str], bool]) -> bool:
    return not patterns or any(holds(pattern) for pattern in patterns)


@lru_cache(maxsize=1)
def table() -> tuple[Quirk, ...]:
    """The whole table."""
    quirks: tuple[Quirk, ...] = from_json(TABLE.read_bytes(), tuple[Quirk, ...])
    return quirks


def quirks_of(device: PciDevice, profile: Profile | None = None) -> list[Quirk]:
    """Those that hold for a device, without those that another one covers."""
    if device.is_bridge:
        return []
    found = [quirk for quirk in table() if quirk.is_about(device, profile)]
    covered = {ident for quirk in found for ident in quirk.covers}
    return [quirk for quirk in found if quirk.id not in covered]


def quirk_problems(plan: Plan, facts: HostFacts) -> list[Problem]:
    """What is known of the plan's devices, each with the key that names it."""
    devices = [(card.key, facts.device(card.address)) for card in plan.cards]
    return [
        quirk.problem(device, f"{key}.device")
        for key, device in devices if device is not None
        for quirk in quirks_of(device, plan.profile)
    ]
