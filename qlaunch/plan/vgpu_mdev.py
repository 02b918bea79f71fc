"""Choosing a mediated device's parent and type, and saying why there is none."""

from __future__ import annotations

from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts
from qlaunch.facts.vgpu_model import Mdev, MdevParent, MdevType, VgpuFacts
from qlaunch.plan.vgpu_gvt import find_other_driver, gvt_card, is_maker, make_gvt
from qlaunch.plan.vgpu_want import (
    AFTER_CRASH,
    LIST,
    ONE_OF_TWO,
    WHOLE,
    Choice,
    Taken,
    Want,
    is_far,
    is_named,
    left_by,
    near_name,
)

_SLICE = tuple[MdevParent, MdevType]


def find_mdev(want: Want, facts: HostFacts, info: VgpuFacts, taken: Taken) -> Choice | Problem:
    """The parent and type that fit best: on the vCPUs' node, of a card that this machine has no
    other type of, the smallest type, the most left."""
    found = _find(want, facts, info, taken)
    if isinstance(found, Choice) and _is_given(found.parent, facts, taken):
        return Problem(f"{found.parent} {WHOLE}", found=found.type, hint=ONE_OF_TWO)
    return found


def _find(want: Want, facts: HostFacts, info: VgpuFacts, taken: Taken) -> Choice | Problem:
    there = info.mdev(want.uuid)
    if there is not None:
        return _existing(want, facts, info, there)
    parents = parents_of(want, facts, info)
    fitting = [(p, t) for p in parents for t in p.types if fits(t, want)]
    if not fitting:
        return _no_type(want, facts, info, parents)
    stay = [(p, t) for p, t in fitting if not _is_given(p.name, facts, taken)]
    if not stay:
        parent, kind = fitting[0]
        return Problem(f"{parent.name} {WHOLE}", found=kind.id, hint=ONE_OF_TWO)
    fitting = stay
    free = [(p, t) for p, t in fitting if _left(p, t, facts, taken) > 0]
    if not free:
        return _no_instance(fitting, facts, info)

    def rank(item: _SLICE) -> tuple[bool, bool, int, int, str]:
        parent, kind = item
        far, left = is_far(facts.device(parent.name), want), _left(parent, kind, facts, taken)
        return far, _is_mixed(parent, kind, facts, taken), kind.memory or 0, -left, parent.name

    parent, kind = min(free, key=rank)
    left = "" if kind.available is None else (
        f"rule: of {kind.id}, {parent.name} can make {kind.available} more"
    )
    if _is_mixed(parent, kind, facts, taken):
        left = (f"rule: of {kind.id} beside this machine's other type, {parent.name} can make "
                f"about {_left(parent, kind, facts, taken)}")
    return Choice(kind="mdev", parent=parent.name, type=kind.id, free=left)


def fits(kind: MdevType, want: Want) -> bool:
    """A type's name, memory and resolution are as wanted; QEMU takes vfio-pci's kind only."""
    if kind.api not in ("", "vfio-pci"):
        return False
    if want.type is not None and not is_type(kind, want.type):
        return False
    if want.bytes and (kind.memory or 0) < want.bytes:
        return False
    return (kind.width or 0) >= want.pixels[0] and (kind.height or 0) >= want.pixels[1]


def is_type(kind: MdevType, name: str) -> bool:
    """By its directory's name, that without the driver's, or the name it shows."""
    return name in (kind.id, kind.name, kind.id.partition("-")[2])


def parents_of(want: Want, facts: HostFacts, info: VgpuFacts) -> list[MdevParent]:
    """Those that the want may mean."""
    return [p for p in info.parents if _is_parent(p, want, facts)]


def _is_parent(parent: MdevParent, want: Want, facts: HostFacts) -> bool:
    """By name; a PCI device by address or id; a virtual function by its physical one too."""
    if want.parent in (None, parent.name):
        return True
    device = facts.device(parent.name)
    if device is None:
        return False
    above = facts.device(device.physfn) if device.physfn else None
    return any(is_named(d, want.parent) for d in (device, above) if d is not None)


def _left(parent: MdevParent, kind: MdevType, facts: HostFacts, taken: Taken) -> int:
    """A hint only: types of one parent share what there is, and `create` alone tells.

    A virtual function makes one in all. Elsewhere what other tables have of another type counts
    as its share of the whole (i915's and mbochs's memory)."""
    available = 1 if kind.available is None else kind.available
    used = {t: n for (name, t), n in taken.instances.items() if name == parent.name}
    device = facts.device(parent.name)
    if device is not None and device.physfn:
        return min(available, 1) - sum(used.values())
    whole = {t.id: t.available or 1 for t in parent.types}
    others = sum(-(-n * available // whole.get(t, 1)) for t, n in used.items() if t != kind.id)
    return available - used.get(kind.id, 0) - others


def _is_mixed(parent: MdevParent, kind: MdevType, facts: HostFacts, taken: Taken) -> bool:
    """Whether this machine is to have another type of the same card. NVIDIA's older drivers make
    one type at a time on a card, on whichever of its functions."""
    card = _card(parent.name, facts)
    return any(t != kind.id and _card(name, facts) == card for name, t in taken.instances)


def _card(parent: str, facts: HostFacts) -> str:
    device = facts.device(parent)
    return device.physfn or parent if device is not None else parent


def _is_given(parent: str, facts: HostFacts, taken: Taken) -> bool:
    """Whether a parent, or the card that it is a function of, leaves the host as a whole."""
    return taken.has(parent) or _card(parent, facts) in taken.cards


def _told(item: _SLICE) -> str:
    parent, kind = item
    return f"{kind.id} of {parent.name}: {kind.available if kind.available is not None else '?'}"


def _no_instance(fitting: list[_SLICE], facts: HostFacts, info: VgpuFacts) -> Problem:
    cards = {_card(p.name, facts) for p, _ in fitting}
    left, remedy = left_by((m.uuid for m in info.mdevs if _card(m.parent, facts) in cards), info)
    return Problem(
        "no instance of this type is left",
        found=", ".join(_told(s) for s in fitting) + (f"; {left}" if left else ""),
        hint=remedy
        or f"end the machine that has it, or take a smaller type; {AFTER_CRASH}; {LIST}",
    )


def _existing(want: Want, facts: HostFacts, info: VgpuFacts, there: Mdev) -> Choice | Problem:
    """One of this UUID is used when it is what the want may mean, by whatever name it says it."""
    known = info.parent(there.parent) or MdevParent(name=there.parent)
    kind = next((t for t in known.types if t.id == there.type), MdevType(id=there.type))
    if fits(kind, want) and _is_parent(known, want, facts):
        return Choice(kind="mdev", parent=there.parent, type=there.type, existing=True)
    left, remedy = left_by([want.uuid], info)
    return Problem(
        "a mediated device of this UUID is there already, and is another one", allowed=str(want),
        found=f"{want.uuid}: {there.type} of {there.parent}" + (f"; {left}" if left else ""),
        hint=remedy or f"{AFTER_CRASH}; or qlaunch vgpu remove {want.uuid}, when nothing needs it",
    )


def _no_type(
    want: Want, facts: HostFacts, info: VgpuFacts, parents: list[MdevParent]
) -> Choice | Problem:
    types = [f"{t.id} of {p.name}" for p in parents for t in p.types]
    if types:
        return Problem(
            "no device of this host makes such a vGPU", found=", ".join(types),
            allowed=str(want),
            hint=near_name(want.type, [t.id for p in parents for t in p.types]) or LIST,
        )
    intel = gvt_card(want, facts, info)
    if intel is not None and (want.type or is_maker(intel)):
        return make_gvt(want, info, intel)
    elsewhere = find_other_driver(want, facts)
    if elsewhere is not None:
        return elsewhere
    off = [
        d for d in facts.pci or () if d.driver == "nvidia" and d.sriov_total and not d.sriov_count
        and is_named(d, want.parent)
    ]
    if off:
        return Problem(
            f"{off[0].address} makes its vGPUs on virtual functions, and none is switched on",
            found=f"0 of {off[0].sriov_total}",
            hint=f"NVIDIA's own tool does that: /usr/lib/nvidia/sriov-manage -e {off[0].address}",
        )
    if intel is not None:
        return make_gvt(want, info, intel)
    return _no_parent(want, info)


def _no_parent(want: Want, info: VgpuFacts) -> Problem:
    if not info.parents and "mdev" not in info.modules:
        return Problem(
            "no driver of this host offers mediated devices", found="the module mdev is not loaded",
            hint='this host makes its vGPUs on virtual functions: drop kind = "mdev"'
            if info.nvidia else "GVT-g: modprobe kvmgt; NVIDIA: install the vGPU host driver",
        )
    return Problem(
        "no such device of this host offers mediated devices",
        found=", ".join(p.name for p in info.parents), allowed=want.parent or "", hint=LIST,
    )
