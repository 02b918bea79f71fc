"""The guest's memory: whether the host has it, what may be locked, the balloon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PinPlan

if TYPE_CHECKING:
    from qlaunch.plan.ram import MemoryPlan

HUGE = {"2M": 2 << 20, "1G": 1 << 30}
GIB = 1 << 30


def plan_balloon(draft: Draft) -> None:
    """The balloon's place."""
    balloon = draft.profile.balloon
    if balloon is not None:
        draft.place("balloon", "balloon0", "balloon", addr=balloon.addr)


def plan_memory(draft: Draft, pins: PinPlan | None) -> MemoryPlan | None:
    """What memory is made of, or None when it is QEMU's ordinary one. After all families."""
    profile = draft.profile
    _check_amount(draft)
    if profile.machine.hugepages is False and not (
        profile.memory or profile.numa or draft.share_memory
    ):
        return None
    from qlaunch.plan.ram import plan_ram

    return plan_ram(draft, pins)


def _check_amount(draft: Draft) -> None:
    """More than the host has is a fault, more than is free now a warning."""
    memory, ram = draft.profile.machine.memory, draft.facts.ram
    if ram is None:
        return
    found = f"{ram.total >> 20}M, of which {ram.available >> 20}M are free"
    if memory >= ram.total:
        draft.problem(
            f"the guest's {memory} are more than this host has", "machine.memory", found=found,
            hint="lower machine.memory",
        )
    elif memory > ram.available and draft.profile.machine.hugepages is False:
        draft.problem(
            f"the guest's {memory} are more than is free: this host will swap, or kill processes",
            "machine.memory", found=found, severity="warning",
            hint="end what uses the memory, or lower machine.memory",
        )


def page_size(hugepages: bool | str) -> int | None:
    """Bytes of one page, or None for ordinary memory."""
    if hugepages is False:
        return None
    return HUGE["2M" if hugepages is True else str(hugepages)]


def memlock(draft: Draft) -> int | None:
    """RAM + 1 GiB + shared regions, as libvirt allows (qemuDomainGetMemLockLimitBytes).

    None when nothing is locked. What an ordinary user may not lock is left to root.
    """
    locked = draft.profile.memory is not None and draft.profile.memory.lock
    if not (draft.profile.pci or draft.profile.vgpu) and not locked:
        return None
    limit = int(draft.profile.machine.memory) + GIB + draft.locked
    limits = draft.facts.limits
    if locked and limits is not None and limits.memlock is not None and limits.memlock < limit:
        draft.decided.setdefault("root_for", "memory.lock")
    return limit
