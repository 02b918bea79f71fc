"""Choosing a virtual function, as it is or with an NVIDIA vGPU made on it.

A physical function's virtual ones are numbered by offset and stride (PCI Express, 9.2.1.2), so
those that are not switched on yet can be planned with. Their count cannot be changed while it is
not zero (sriov_numvfs_store, EBUSY), so a physical function whose are on is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.facts.vgpu_model import NvidiaType, NvidiaVf, Sriov, VgpuFacts
from qlaunch.plan.vgpu_want import (
    LIST,
    Choice,
    Taken,
    Want,
    is_far,
    is_named,
    near_name,
    user_of,
)
from qlaunch.values import PciAddress


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
        obstacle = _obstacle(physical, sriov, _count(physical, want))
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
        return Problem("no virtual function is free", found=_shortened(refused), hint=LIST)

    def rank(one: _Function) -> tuple[bool, int, float, PciAddress, int]:
        """One that nobody has bound, then one of the host's, then one that somebody prepared."""
        driver = (one.device.driver if one.device else None) or ""
        bound = 2 if "vfio" in driver else int(bool(driver))
        return (is_far(one.physical, want), bound, one.load, one.physical.address, one.number)

    best = min(usable, key=rank)
    total = _count(best.physical, want)
    free = sum(one.physical.address == best.physical.address for one in usable)
    there = "they are on already, " if best.physical.sriov_count else ""
    left = "and this one is named" if want.parent == best.address else f"{free} of {total} are free"
    return Choice(
        kind="vf", parent=best.physical.address, address=best.address, number=best.number,
        enable=total, free=f"rule: {there}{left}",
    )


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


def _count(physical: PciDevice, want: Want) -> int:
    """How many virtual functions it has, or is to be given."""
    return physical.sriov_count or min(want.vfs or 1 << 16, physical.sriov_total or 0)


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
    count = _count(physical, want)
    addresses = [vf_address(physical.address, sriov, n) for n in range(count)]
    gone = {*taken.functions, *taken.claims}
    used = sum(a in gone or bool(user_of(facts.device(a))) for a in addresses)
    for number, address in enumerate(addresses):
        yield _Function(physical, number, address, facts.device(address), used / count)


def _use(one: _Function, info: VgpuFacts, taken: Taken, *, named: bool) -> str:
    if one.address in taken.functions:
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


def find_nvidia(want: Want, facts: HostFacts, info: VgpuFacts, taken: Taken) -> Choice | Problem:
    """A virtual function on which the type can be made. One that has a vGPU is somebody's, also
    when nobody has it open: it is taken only when the profile names it, and holders were looked
    for."""
    known = [v for v in info.nvidia if _is_nvidia(v, want, facts)]
    if not known:
        return Problem(
            "this host has no such virtual function with NVIDIA's vGPU files",
            hint="NVIDIA's vGPU host driver on kernel 6.8 or newer makes them, once "
            "/usr/lib/nvidia/sriov-manage -e ALL has switched the functions on",
        )
    names = {t.number: t for v in info.nvidia for t in v.creatable}
    if any(want.pixels):
        return Problem(
            "NVIDIA's files do not say what resolution a type has", allowed=str(want),
            found=", ".join(sorted({t.name for v in known for t in v.creatable})),
            hint='leave resolution out: name the type, or wish for memory = ">=4G"',
        )
    has = {v.address: names.get(v.current) or NvidiaType(v.current, f"type {v.current}")
           for v in known if v.current}
    fitting = [(v, t) for v in known for t in v.creatable if _fits(t, want)]
    named = [v for v in known if v.current and v.address == want.parent]  # made by hand
    fitting += [(v, has[v.address]) for v in named if _fits(has[v.address], want)]
    free = [(v, t) for v, t in fitting if _is_free(v, want, facts, taken)]
    if not free:
        makes = sorted({t.name for v in known for t in v.creatable})
        busy = [f"{v.address} has {has[v.address].name}" for v in known if v.current]
        return Problem(
            "no virtual function can be given this type now", allowed=str(want),
            found="; ".join([f"what can be made: {', '.join(makes) or 'nothing'}", *busy]),
            hint=near_name(want.type, makes) or "end a machine with a vGPU of this card; its other "
            "vGPUs decide what it can make",
        )

    def rank(item: tuple[NvidiaVf, NvidiaType]) -> tuple[bool, int, float, str]:
        function, kind = item
        device = facts.device(function.address)
        return (is_far(device, want), kind.memory or 0, _load(function, facts, info),
                function.address)

    function, kind = min(free, key=rank)
    device = facts.device(function.address)
    return Choice(
        kind="nvidia-vf", parent=device.physfn or "" if device else "", type=kind.name,
        address=function.address, number=kind.number,
        free=f"rule: {len({v.address for v, _ in free})} functions can be given it",
    )


def _is_nvidia(function: NvidiaVf, want: Want, facts: HostFacts) -> bool:
    device = facts.device(function.address)
    above = facts.device(device.physfn) if device and device.physfn else None
    named = (d for d in (device, above) if d is not None)
    return want.parent is None or any(is_named(d, want.parent) for d in named)


def _fits(kind: NvidiaType, want: Want) -> bool:
    if want.type is not None and want.type not in (str(kind.number), kind.name):
        return kind.name.endswith(f" {want.type}")
    return (kind.memory or 0) >= want.bytes


def _is_free(function: NvidiaVf, want: Want, facts: HostFacts, taken: Taken) -> bool:
    device = facts.device(function.address)
    if function.address in (*taken.functions, *taken.claims) or user_of(device):
        return False
    looked = device is not None and device.holders is not None
    return function.current == 0 or (looked and function.address == want.parent)


def _load(function: NvidiaVf, facts: HostFacts, info: VgpuFacts) -> float:
    """How much of the physical function's virtual ones have a vGPU."""
    own = facts.device(function.address)
    mates = [
        v for v in info.nvidia
        if own is not None and (d := facts.device(v.address)) is not None
        and d.physfn == own.physfn
    ]
    return sum(v.current != 0 for v in mates) / len(mates) if mates else 0.0
