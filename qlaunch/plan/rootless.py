"""Devices that VFIO has already, in an ordinary user's hands: a run that changes nothing.

`host setup --early` has them bound at boot, `--user` lends a user VFIO's nodes and lets them lock
memory. Then QEMU needs nobody: VFIO resets a device when it is opened and when it is closed
(vfio_pci_core_enable and _disable in the kernel's drivers/vfio/pci/vfio_pci_core.c), and counts the
guest's memory, all of it, against the limit of whoever opened it (vfio_lock_acct).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts
from qlaunch.plan.cards import is_display
from qlaunch.plan.draft import Draft
from qlaunch.plan.memory import memlock
from qlaunch.plan.model import Plan, PlannedCard
from qlaunch.plan.steps import HoldPower, LoadModule, ResetDevices, Step, TakeDevice
from qlaunch.values import Size

_STEPS = (LoadModule, TakeDevice, ResetDevices, HoldPower)  # what is done without, all or none
_CONTAINER = "/dev/vfio/vfio"


class Lack(NamedTuple):
    """What a run without root would need."""

    kind: str  # "node" and "memlock" are what `host setup --user` gives
    text: str
    hint: str


def without_root(
    draft: Draft, cards: Sequence[PlannedCard], steps: list[Step]
) -> list[Step]:
    """The steps of the takeover; none, and a note, where an ordinary user can do without."""
    invoker = draft.facts.invoker
    if draft.account is not None or invoker is None or not _are_vfios(draft.facts, steps):
        return steps
    if any(_lacks(draft.facts, cards, steps, memlock(draft))):
        return steps
    shown = any((d := draft.facts.device(a)) and is_display(d) for a in _addresses(steps))
    draft.problem(
        f"VFIO has {_names(steps)} already, for you to open, so nothing is done as root; VFIO does "
        "the resets, at opening and closing"
        + (", and nothing keeps a card out of D3cold" if shown else ""),
        f"{cards[0].key}.device", severity="note",
        hint="with sudo, qlaunch does this itself, and sees that the devices answer afterwards",
    )
    return []


def nearly(plan: Plan, facts: HostFacts) -> tuple[Problem, ...]:
    """What the plan of an ordinary user lacks that could be one without root.

    Of whom `host setup --user` was never run for is told nothing: neither nodes nor memory are
    theirs, and root is how they start their machines.
    """
    if plan.root_for or not _are_vfios(facts, plan.steps) or _needs_more(plan):
        return ()
    lacks = list(_lacks(facts, plan.cards, plan.steps, plan.memlock))
    if {"node", "memlock"} <= {lack.kind for lack in lacks}:
        return ()
    return tuple(
        Problem(f"VFIO has {_names(plan.steps)} already, and this would need no root, but "
                f"{lack.text}", f"{plan.cards[0].key}.device", hint=lack.hint, severity="note")
        for lack in lacks
    )


def _needs_more(plan: Plan) -> bool:
    """Whether root is needed for something else anyway."""
    others = [step for step in plan.steps if not isinstance(step, _STEPS)]
    return replace(plan, steps=tuple(others)).needs_root


def _are_vfios(facts: HostFacts, steps: Sequence[Step]) -> bool:
    """Whether there are devices to take, and each has been bound to VFIO by somebody else."""
    taken = [step for step in steps if isinstance(step, TakeDevice)]
    return bool(taken) and all(
        (device := facts.device(step.address)) is not None
        and device.driver in ("vfio-pci", step.driver)
        for step in taken
    )


def _lacks(
    facts: HostFacts, cards: Sequence[PlannedCard], steps: Sequence[Step], limit: int | None
) -> Iterator[Lack]:
    user = facts.invoker.name if facts.invoker else "NAME"
    setup = f"qlaunch host setup --user {user} --apply"
    if facts.kernel is None or "vfio_iommu_type1" not in facts.kernel.modules:
        yield Lack("module", "the kernel module vfio_iommu_type1 is not loaded",
                   "qlaunch host setup --apply, or for now: sudo modprobe vfio_iommu_type1")
    groups = sorted({card.iommu_group for card in cards if card.iommu_group is not None})
    for path in (_CONTAINER, *(f"/dev/vfio/{group}" for group in groups)):
        node = facts.file(path)
        if node is None or not (node.readable and node.writable):
            yield Lack("node", f"{user} may not open {path}", setup)
    most = facts.limits.memlock if facts.limits else 0
    if limit is not None and most is not None and most < limit:
        yield Lack("memlock", f"{user} may lock {Size(most)} of memory and this machine locks "
                   f"{Size(limit)}", f"{setup}, and then log in again")
    yield from _asked(steps)


def _asked(steps: Sequence[Step]) -> Iterator[Lack]:
    """What the profile says of its devices that only root can do."""
    for step in steps:
        if isinstance(step, ResetDevices) and step.method != "auto":
            yield Lack("key", f'reset = "{step.method}" is root\'s', 'reset = "auto" is VFIO\'s')
        if isinstance(step, TakeDevice) and step.rebar:
            yield Lack("key", "rebar is root's", "drop rebar")
        if isinstance(step, TakeDevice) and step.return_to not in ("auto", "vfio-pci", step.driver):
            yield Lack("key", f'return_to = "{step.return_to}" is root\'s', "drop return_to")


def _addresses(steps: Sequence[Step]) -> list[str]:
    return [step.address for step in steps if isinstance(step, TakeDevice)]


def _names(steps: Sequence[Step]) -> str:
    return ", ".join(_addresses(steps))
