"""Choosing a virtual function, as it is.

A physical function's virtual ones are numbered by offset and stride (PCI Express, 9.2.1.2), so
those that are not switched on yet can be planned with. Their count cannot be changed while it is
not zero (sriov_numvfs_store, EBUSY), so a physical function whose are on is taken as it is. Of a
network card no more are switched on than the machine needs: each takes queues and filters from the
host's own link. Of others all are, so that the next machine finds one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.facts.vgpu_model import Sriov, VgpuFacts
from qlaunch.plan.vgpu_want import (
    LIST,
    ONE_OF_TWO,
    WHOLE,
    Choice,
    Taken,
    Want,
    is_far,
    is_named,
    user_of,
)
from qlaunch.values import PciAddress

_NETWORK = 0x02  # PCI base class


class _Function(Struct, frozen=True):
    """A virtual function that is there, or will be."""

    physical: PciDevice
    number: int
    address: PciAddress
    device: PciDevice | None
    load: float  # how much of its physical function is in use, 0 to 1


def vf_address(physical: PciAddress, sriov: Sriov, number: int) -> PciAddress:
    """Where the number-th virtual function is: routing id + offset + stride * number."""
    domain, bus, rest = physical.split(":")
    slot, function = rest.split(".")
    routing = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
    routing += sriov.offset + sriov.stride * number
    bus_number, slot_number = routing >> 8, routing >> 3 & 0x1F
    return PciAddress(f"{domain}:{bus_number:02x}:{slot_number:02x}.{routing & 7}")


def find_vf(want: Want, facts: HostFacts, info: VgpuFacts, taken: Taken) -> Choice | Problem:
    """The best free one: on the vCPUs' node, of the least used card, one that VFIO has not yet."""
    parents = [
        (d, s) for s in info.sriov
        if (d := facts.device(s.address)) is not None and _means(d, s, want, facts)
    ]
    if not parents:
        return Problem(
            "this host has no such device with virtual functions",
            found=", ".join(f"{s.address}" for s in info.sriov) or "none at all",
            allowed=want.parent or "", hint=LIST,
        )
    refused: list[tuple[str, str]] = []
    usable: list[_Function] = []
    for physical, sriov in parents:
        obstacle = WHOLE if physical.address in taken.cards else ""
        obstacle = obstacle or _obstacle(physical, sriov, _least(physical, want, taken))
        obstacle = obstacle or _owner(physical.address, taken)
        if obstacle:
            refused.append((physical.address, obstacle))
            continue
        for one in _functions(physical, sriov, want, facts, taken):
            reason = _use(one, info, taken, named=want.parent == one.address)
            if reason:
                refused.append((one.address, reason))
            elif want.parent != one.address and _is_other(want, one, facts):
                continue
            else:
                usable.append(one)
    if not usable:
        return Problem("no virtual function is free", found=_shortened(refused),
                       hint=_way_on(refused, [d for d, _ in parents]))

    def rank(one: _Function) -> tuple[bool, int, float, PciAddress, int]:
        """One that nobody has bound, then one of the host's, then one that somebody prepared."""
        driver = (one.device.driver if one.device else None) or ""
        bound = 2 if "vfio" in driver else int(bool(driver))
        return (is_far(one.physical, want), bound, one.load, one.physical.address, one.number)

    best = min(usable, key=rank)
    physical = best.physical
    total = _count(physical, want, taken)
    free = sum(one.physical.address == physical.address for one in usable)
    few = not physical.sriov_count and want.vfs is None and is_network(physical)
    there = "they are on already, " if physical.sriov_count else ""
    there = "as many as this machine needs, " if few else there
    left = "and this one is named" if want.parent == best.address else f"{free} of {total} are free"
    return Choice(
        kind="vf", parent=physical.address, address=best.address, number=best.number,
        enable=best.number + 1 if few else total, said=want.vfs is not None,
        on=bool(physical.sriov_count), free=f"rule: {there}{left}",
    )


def count_of(choices: Iterable[Choice], physical: str) -> int:
    """How many virtual functions a physical one is to have for all tables of the machine: the most
    that one says, and enough for all; where none says it, the most that one would have."""
    own = [c for c in choices if c.kind == "vf" and c.parent == physical]
    said = [c.enable for c in own if c.said]
    return max(*said, *(c.number + 1 for c in own)) if said else max(c.enable for c in own)


def is_network(device: PciDevice) -> bool:
    """Whether it is a network card."""
    return device.base_class == _NETWORK


def _shortened(refused: list[tuple[str, str]]) -> str:
    """One sentence a reason, with the first address and how many more there are."""
    reasons: dict[str, list[str]] = {}
    for address, reason in refused:
        reasons.setdefault(reason, []).append(address)
    return "; ".join(
        f"{who[0]}{f' (and {len(who) - 1} more)' if who[1:] else ''} {reason}"
        for reason, who in reasons.items()
    )


def _means(device: PciDevice, sriov: Sriov, want: Want, facts: HostFacts) -> bool:
    """The physical function itself, one of its virtual ones, or the id that these have."""
    if is_named(device, want.parent) or want.parent == sriov.vf_id:
        return True
    named = facts.device(want.parent or "")
    return named is not None and named.physfn == device.address


def _is_other(want: Want, one: _Function, facts: HostFacts) -> bool:
    """Whether the profile names one virtual function, and this is not it."""
    named = facts.device(want.parent or "")
    return named is not None and named.physfn == one.physical.address


def _owner(address: PciAddress, taken: Taken) -> str:
    owner = taken.claims.get(address)
    return f"is in use by the machine {owner}" if owner else ""


def _count(physical: PciDevice, want: Want, taken: Taken) -> int:
    """How many virtual functions it has, or could be given: as many as another table of the machine
    says, and one for each that leaves it open."""
    if physical.sriov_count:
        return physical.sriov_count
    total = physical.sriov_total or 0
    if want.vfs is None:
        return total
    own = _own(physical, taken)
    left_open = any(not c.said for c in own)
    said = [want.vfs, *(c.enable for c in own if c.said)]
    return min(total, max(*said, len(own) + 1 if left_open else 0))


def _least(physical: PciDevice, want: Want, taken: Taken) -> int:
    """How many it is to be given for this."""
    if want.vfs is None and is_network(physical):
        return len(_own(physical, taken)) + 1
    return _count(physical, want, taken)


def _own(physical: PciDevice, taken: Taken) -> tuple[Choice, ...]:
    return taken.of_card.get(physical.address, ())


def _way_on(refused: list[tuple[str, str]], parents: list[PciDevice]) -> str:
    if any(reason == WHOLE for _, reason in refused):
        return ONE_OF_TWO
    few = next((d for d in parents if 0 < (d.sriov_count or 0) < (d.sriov_total or 0)), None)
    if few is None:
        return LIST
    return (f"{few.address} has {few.sriov_count} of {few.sriov_total} on, which can change when "
            "none is used: vfs says how many, in the profile of the machine that starts first")


def _obstacle(physical: PciDevice, sriov: Sriov, count: int) -> str:
    """Why a physical function's virtual ones cannot be had; "" when they can.

    Offset and stride are what the card says for the number that is on, and it need not say any for
    none (PCI Express, 9.3.3.9; pci_iov_set_numvfs in drivers/pci/iov.c).
    """
    unknown = not sriov.offset or (count > 1 and not sriov.stride)
    if physical.sriov_count:
        return "does not say where its virtual functions are" if unknown else ""
    if physical.driver is None:
        return "has no driver, which is what switches virtual functions on"
    if physical.driver == "nvidia":
        return (f"has none switched on; NVIDIA's own tool does that: "
                f"/usr/lib/nvidia/sriov-manage -e {physical.address}")
    if "vfio" in physical.driver:
        return f"is on {physical.driver}"
    if unknown:
        return ("says where its virtual functions are only once they are on: "
                f"echo {count} | sudo tee /sys/bus/pci/devices/{physical.address}/sriov_numvfs, "
                "then start")
    return ""


def _functions(
    physical: PciDevice, sriov: Sriov, want: Want, facts: HostFacts, taken: Taken
) -> Iterator[_Function]:
    count = _count(physical, want, taken) if sriov.stride else 1
    addresses = [vf_address(physical.address, sriov, n) for n in range(count)]
    gone = {*taken.functions, *taken.cards, *taken.claims}
    used = sum(a in gone or bool(user_of(facts.device(a))) for a in addresses)
    for number, address in enumerate(addresses):
        yield _Function(physical, number, address, facts.device(address), used / count)


def _use(one: _Function, info: VgpuFacts, taken: Taken, *, named: bool) -> str:
    if taken.has(one.address):
        return "is another table's"
    owner = _owner(one.address, taken)
    if owner:
        return owner
    if one.physical.sriov_count and one.device is None:
        return "did not appear on the bus"
    if any(v.address == one.address for v in info.nvidia):
        return "is NVIDIA's: name a type"
    user = user_of(one.device, named=named)
    return f"is in use: {user}" if user else ""
