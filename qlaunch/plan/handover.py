"""Whether a whole IOMMU group could be handed to a guest: the plan's own rules, asked per group."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.plan.draft import Draft
from qlaunch.plan.takeover import check_device, check_holders, check_iommu
from qlaunch.profile.profile import Profile
from qlaunch.values import VmName

_FORCED = ("process", "namespace")


class Group(Struct, frozen=True, kw_only=True):
    """A group's members and what stands against handing them over (empty: nothing)."""

    number: int | None  # None: devices in no group
    devices: tuple[PciDevice, ...]
    obstacles: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def groups(facts: HostFacts) -> list[Group]:
    """Every IOMMU group by number, then the devices that are in none."""
    numbers = sorted({d.iommu_group for d in facts.pci or () if d.iommu_group is not None})
    found = [_group(facts, n, facts.group(n)) for n in numbers]
    alone = [d for d in facts.pci or () if d.iommu_group is None]
    if alone:
        found.append(_group(facts, None, alone))
    return found


def _group(facts: HostFacts, number: int | None, devices: Iterable[PciDevice]) -> Group:
    members = tuple(devices)
    draft = Draft(Profile(name=VmName("devices")), facts, None)
    check_iommu(draft, "")
    candidates = [d for d in members if not d.is_bridge]
    for device in candidates:
        check_device(draft, device, "")
    if not candidates:
        draft.problem("only bridges, which stay with the host", "")
    return Group(
        number=number, devices=members,
        obstacles=tuple(p for p in draft.problems if p.severity == "error"),
        warnings=tuple(p for p in draft.problems if p.severity == "warning"),
    )


def obstacles(
    facts: HostFacts, devices: Iterable[PciDevice], *, force: bool = False
) -> list[Problem]:
    """What stands against taking devices by hand; `force` lets processes, and links of other
    network namespaces, be warned of only.

    Never a mounted file system, swap, volume or array, the default route, the SSH connection, a
    seat, or another VFIO user.
    """
    draft = Draft(Profile(name=VmName("devices")), facts, None)
    check_iommu(draft, "")
    forced: list[Problem] = []
    for device in devices:
        users = tuple(h for h in device.holders or () if force and h.kind in _FORCED)
        rest = tuple(h for h in device.holders or () if h not in users)
        check_device(draft, replace(device, holders=rest), "")
        apart = Draft(draft.profile, facts, None)
        check_holders(apart, replace(device, holders=users), "")
        forced += [problem._replace(severity="warning") for problem in apart.problems]
    return [*draft.problems, *forced]


def hindrances(
    facts: HostFacts, devices: Iterable[PciDevice], driver: str, *, force: bool = False
) -> list[Problem]:
    """What stands against giving devices that a host driver has to another one: as `obstacles`, but
    for the IOMMU, which that does not need. What VFIO has is the guest's, and asked at its group.
    """
    taken = [d for d in devices if d.driver not in (None, driver) and "vfio" not in d.driver]
    return obstacles(replace(facts, iommu=None), taken, force=force)
