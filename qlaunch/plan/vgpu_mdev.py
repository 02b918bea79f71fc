"""Choosing a mediated device's parent and type, and saying why there is none."""

from __future__ import annotations

from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.facts.vgpu_model import MdevParent, MdevType, VgpuFacts
from qlaunch.plan.vgpu_want import LIST, Choice, Taken, Want, is_far, is_named, near_name

_SLICE = tuple[MdevParent, MdevType]
_NEW_START = "(qlaunch host setup --gvt --apply) and start the host anew"


def find_mdev(want: Want, facts: HostFacts, info: VgpuFacts, taken: Taken) -> Choice | Problem:
    """The parent and type that fit best: on the vCPUs' node, the smallest type, the most left."""
    there = info.mdev(want.uuid)
    if there is not None:
        return _existing(want, info, there.parent, there.type)
    parents = parents_of(want, facts, info)
    fitting = [(p, t) for p in parents for t in p.types if fits(t, want)]
    if not fitting:
        return _no_type(want, facts, info, parents)
    free = [(p, t) for p, t in fitting if _left(p, t, taken) > 0]
    if not free:
        return Problem(
            "no instance of this type is left", found=", ".join(_told(s) for s in fitting),
            hint="end the machine that has it, or take a smaller type; " + LIST,
        )

    def rank(item: _SLICE) -> tuple[bool, int, int, str]:
        parent, kind = item
        far = is_far(facts.device(parent.name), want)
        return far, kind.memory or 0, -_left(parent, kind, taken), parent.name

    parent, kind = min(free, key=rank)
    taken.instances[parent.name, kind.id] = taken.instances.get((parent.name, kind.id), 0) + 1
    left = "" if kind.available is None else (
        f"rule: of {kind.id}, {parent.name} can make {kind.available} more"
    )
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


def _left(parent: MdevParent, kind: MdevType, taken: Taken) -> int:
    """A hint only: types of one parent share what there is, and `create` alone tells."""
    available = 1 if kind.available is None else kind.available
    return available - taken.instances.get((parent.name, kind.id), 0)


def _told(item: _SLICE) -> str:
    parent, kind = item
    return f"{kind.id} of {parent.name}: {kind.available if kind.available is not None else '?'}"


def _existing(want: Want, info: VgpuFacts, parent: str, type_id: str) -> Choice | Problem:
    known = info.parent(parent)
    kind = next((t for t in known.types if t.id == type_id), None) if known else None
    same = fits(kind or MdevType(id=type_id), want)
    if same and want.parent in (None, parent):
        return Choice(kind="mdev", parent=parent, type=type_id, existing=True)
    return Problem(
        "a mediated device of this UUID is there already, and is another one",
        found=f"{want.uuid}: {type_id} of {parent}", allowed=str(want),
        hint=f"qlaunch vgpu remove {want.uuid}, when nothing needs it",
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
    intel = [
        d for d in facts.pci or ()
        if d.driver == "i915" and is_named(d, want.parent) and d.address not in _names(info)
    ]
    if intel and ("i915-" in (want.type or "i915-") or "GVTg" in (want.type or "")):
        return _no_gvt(want, info, intel[0])
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
    if not info.parents and "mdev" not in info.modules:
        return Problem(
            "no driver of this host offers mediated devices", found="the module mdev is not loaded",
            hint='this host makes its vGPUs on virtual functions: drop kind = "mdev"'
            if info.nvidia else "GVT-g: modprobe kvmgt; NVIDIA: install the vGPU host driver",
        )
    return Problem(
        "no such device of this host offers mediated devices", found=", ".join(_names(info)),
        allowed=want.parent or "", hint=LIST,
    )


def _names(info: VgpuFacts) -> list[str]:
    return [p.name for p in info.parents]


def _no_gvt(want: Want, info: VgpuFacts, card: PciDevice) -> Choice | Problem:
    """An Intel card without types: which switch is missing (i915's intel_gvt.c, i915_params.c)."""
    guc = info.parameters.get("i915.enable_guc", "")
    if guc.isdigit() and int(guc) & 1:
        return Problem(
            "GVT-g does not work with GuC submission: i915 gives up on it at start",
            found=f"i915.enable_guc={guc}",
            hint=f"put i915.enable_guc=0 on the kernel command line {_NEW_START}",
        )
    switch = info.parameters.get("i915.enable_gvt")
    if switch in ("N", "0"):
        return Problem(
            f"GVT-g is switched off for {card.address}", found="i915.enable_gvt=0",
            hint=f"put i915.enable_gvt=1 on the kernel command line {_NEW_START}",
        )
    if switch is None:
        return Problem(
            "this kernel's i915 has no GVT-g", found="no parameter i915.enable_gvt",
            hint="use a kernel with CONFIG_DRM_I915_GVT; GVT-g is for Intel's 5th to 10th "
            "generation, newer ones have virtual functions instead",
        )
    if "kvmgt" in info.modules:
        return Problem(
            f"{card.address} makes no vGPU although GVT-g is on",
            found="/sys/class/mdev_bus has no entry of it",
            hint="GVT-g is for Intel's 5th to 10th generation; see dmesg | grep -i gvt",
        )
    if want.type is None:
        return Problem(
            f"which types {card.address} has is known once kvmgt is loaded",
            found="the module kvmgt is not loaded", hint="modprobe kvmgt",
        )
    prefix = "" if want.type.startswith("i915-") else "i915-"
    return Choice(
        kind="mdev", parent=card.address, type=prefix + want.type, load="kvmgt",
        free="rule: how many it can make is known once kvmgt is loaded",
    )
