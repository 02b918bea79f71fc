"""Host steps of passed-through devices, and every reason to refuse them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qlaunch.facts.model import Holder, PciDevice
from qlaunch.facts.vgpu_model import remove_by_hand
from qlaunch.plan.cards import card_of, is_display
from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PlannedCard
from qlaunch.plan.rootless import without_root
from qlaunch.plan.steps import HoldPower, LoadModule, OwnGroup, ResetDevices, Step, TakeDevice
from qlaunch.values import PciAddress

if TYPE_CHECKING:
    from qlaunch.profile.pci import Pci

# Drivers that may stay on a group member while VFIO owns the group (driver_managed_dma).
_VIABLE = ("pci-stub", "pcieport", "shpchp")
# Holder kinds that the host needs, and what the device does for it.
_VITAL = {
    "mount": "carries the host's file system", "swap": "carries the host's swap",
    "route": "carries", "seat": "is", "lvm": "carries a volume of the host,",
    "md": "carries an array of the host,", "zfs": "carries a ZFS pool of the host,",
    "claimed": "carries a drive that the host's kernel keeps for itself,",
    "mdev": "carries the mediated device", "namespace": "carries",
}


def plan_takeover(draft: Draft, cards: Sequence[PlannedCard]) -> list[Step]:
    """The steps in the order of a run: modules, power, all devices, reset, group nodes.

    A card idles on VFIO's driver before QEMU opens it and after QEMU has let go, and that is when
    the platform may send it into D3cold: so this is forbidden before it gets there, and allowed
    again once its own driver has it.
    """
    if not cards:
        return []
    check_iommu(draft)
    key_of = {c.address: c.key for c in cards}
    pci_of = {c.address: draft.profile.pci[int(c.key[4:-1])] for c in cards}
    for card in cards:
        device = draft.facts.device(card.address)
        if device is not None:
            check_device(draft, device, f"{card.key}.device")
    extra = _companions(draft, cards)
    for device, key in extra:
        key_of[device.address] = key
    taken = sorted(key_of)
    drivers = {
        a: (d.vfio_driver, d.vfio_module) if (d := draft.facts.device(a)) else ("vfio-pci", "")
        for a in taken
    }
    steps: list[Step] = [
        load_driver(*which, why="rule: passed-through devices need VFIO")
        for which in (("vfio_iommu_type1", ""), *sorted(set(drivers.values())))
    ]
    steps += [
        HoldPower(address=a, why=f"{key_of[a]}; rule: a display card may not wake from D3cold")
        for a in taken
        if (d := draft.facts.device(a)) is not None and is_display(d)
    ]
    for address in taken:
        draft.fd("claim", address)
        found = draft.facts.device(address)
        table = pci_of.get(address)
        steps.append(
            TakeDevice(
                address=address, driver=drivers[address][0], module=drivers[address][1],
                id=found.id if found else None, subsystem=found.subsystem if found else None,
                return_to=table.return_to if table else "auto", why=key_of[address],
                rebar=_rebar(table, address, cards), console=_shows_console(draft, found),
            )
        )
    steps += _resets(draft, cards)
    steps += _group_nodes(draft, cards)
    return without_root(draft, cards, steps)


def load_driver(driver: str, module: str, why: str = "") -> LoadModule:
    """The step that brings a VFIO driver, of this module where that is known."""
    return LoadModule(module=module or driver.replace("-", "_"), why=why)


def _shows_console(draft: Draft, device: PciDevice | None) -> bool:
    """On kernels before 6.0 the host's console does not leave a card by itself."""
    release = draft.facts.kernel.release if draft.facts.kernel else ""
    major = release.partition(".")[0]
    if device is None or not is_display(device) or not major.isdecimal() or int(major) >= 6:
        return False
    return bool(device.boot_vga) or any(node.startswith("fb") for node in device.nodes)


def _rebar(table: Pci | None, address: PciAddress, cards: Sequence[PlannedCard]) -> int:
    """Bytes; of the function that the profile names, not of those taken along."""
    named = any(c.address == address and not c.companion for c in cards)
    return int(table.rebar) if table is not None and table.rebar is not None and named else 0


def _resets(draft: Draft, cards: Sequence[PlannedCard]) -> list[Step]:
    by_card: dict[str, list[PlannedCard]] = {}
    for card in cards:
        by_card.setdefault(card_of(card.address), []).append(card)
    steps: list[Step] = []
    for family in by_card.values():
        table = draft.profile.pci[int(family[0].key[4:-1])]
        addresses = tuple(sorted(PciAddress(c.address) for c in family))
        check_reset(draft, addresses, table.reset, family[0].key)
        if table.reset != "none":
            steps.append(
                ResetDevices(
                    addresses=addresses, method=table.reset, why=f"{family[0].key}.reset",
                    return_to=table.return_to if table.reset == "rescan" else "",
                )
            )
    return steps


def _group_nodes(draft: Draft, cards: Sequence[PlannedCard]) -> list[Step]:
    if draft.account is None:
        return []
    steps: dict[int, Step] = {}
    for card in cards:
        if card.iommu_group is not None and card.iommu_group not in steps:
            steps[card.iommu_group] = OwnGroup(
                address=card.address, group=card.iommu_group, uid=draft.account.uid,
                gid=draft.account.gid, why="rule: QEMU runs without privileges",
            )
    return list(steps.values())


def check_iommu(draft: Draft, where: str = "pci[0].device") -> None:
    """No IOMMU, no passthrough; without interrupt remapping the kernel refuses (EPERM)."""
    iommu = draft.facts.iommu
    if iommu is None:
        return
    if not iommu.enabled:
        draft.problem(
            "this host's IOMMU is off, so no device can be handed to a guest", where,
            found=iommu.reason, hint=iommu.hint,
        )
    elif iommu.interrupt_remapping is False:
        draft.problem(
            "this host's IOMMU does not remap interrupts; the kernel refuses passthrough",
            where, found=iommu.reason,
            hint=iommu.hint
            or "enable interrupt remapping (x2APIC) in the firmware; only if you trust the guest: "
            "the module option vfio_iommu_type1 allow_unsafe_interrupts=1",
        )


def check_device(draft: Draft, device: PciDevice, where: str) -> None:
    """A device that cannot or must not leave the host."""
    if device.is_bridge:
        draft.problem(
            f"{device.address} is a bridge; VFIO hands over devices, not bridges", where,
            hint="name the device behind it: qlaunch devices",
        )
        return
    if device.sriov_count:
        draft.problem(
            f"{device.address} has {device.sriov_count} virtual functions switched on", where,
            hint="when none is used: "
            f"echo 0 | sudo tee /sys/bus/pci/devices/{device.address}/sriov_numvfs",
        )
    if device.iommu_group is None and draft.facts.iommu and draft.facts.iommu.enabled:
        draft.problem(
            f"{device.address} is in no IOMMU group, so the kernel cannot confine it", where,
            hint="qlaunch devices lists the groups; name a device that is in one",
        )
    check_holders(draft, device, where)
    if not any(holder.kind == "mdev" for holder in device.holders or ()):
        for uuid in device.mdevs:  # nobody looked who has it: no less somebody's
            _held(draft, device, Holder(kind="mdev", what=uuid, remedy=remove_by_hand(uuid)), where)
    if is_display(device):
        check_only_card(draft, device, where)


def check_holders(draft: Draft, device: PciDevice, where: str) -> None:
    """Whoever uses the device, by name, with the remedy."""
    for holder in device.holders or ():
        if holder.kind == "link":
            draft.problem(
                f"{device.address} carries {holder.what}", where,
                hint=holder.remedy, severity="warning",
            )
        else:
            _held(draft, device, holder, where)


def _held(draft: Draft, device: PciDevice, holder: Holder, where: str) -> None:
    use = _VITAL.get(holder.kind)
    text = f"is in use: {holder}" if use is None else f"{use} {holder.what}"
    if use is not None and holder.pid:
        text += f", which {holder.command} (pid {holder.pid}) has open"
    draft.problem(f"{device.address} {text}", where, hint=holder.remedy)


def check_only_card(draft: Draft, device: PciDevice, where: str) -> None:
    """The host's only graphics card may go, but not unnoticed.

    A warning, because a host with a single card that hands it to its guest is an ordinary one:
    nobody looks at its screen, or SSH leads in. A desktop or console that draws on the card is
    refused by `check_holders`, by its name.
    """
    others = [d for d in draft.facts.pci or () if is_display(d) and d.address != device.address]
    if not others:
        draft.problem(
            f"{device.address} is this host's only graphics card: its screen stays dark until the "
            "card is given back", where, severity="warning",
            hint="have another way in (SSH) before you start",
        )


def check_reset(
    draft: Draft, addresses: Sequence[PciAddress], method: str, key: str
) -> None:
    """A reset method that the kernel does not offer for the card."""
    if method in ("auto", "none"):
        return
    if method == "rescan":
        draft.problem(
            f"{', '.join(addresses)}: removed from the PCI bus and found again at the end, as the "
            "last resort", f"{key}.reset", severity="warning",
            hint='try reset = "auto" with qlaunch selftest first',
        )
        return
    if method == "default":
        draft.problem(
            f"the kernel looks again for the resets of {', '.join(addresses)}; what is stale in "
            "their reset_method is not put back", f"{key}.reset", severity="warning",
            hint='reset = "auto" leaves the lists alone; try that with qlaunch selftest first',
        )
        return
    for address in addresses:
        device = draft.facts.device(address)
        methods = device.reset_methods if device else None
        if methods is not None and method not in methods and len(addresses) == 1:
            draft.problem(
                f"the kernel cannot reset {address} this way", f"{key}.reset", found=method,
                allowed=", ".join(["auto", "none", *methods]),
            )


def _companions(draft: Draft, cards: Sequence[PlannedCard]) -> list[tuple[PciDevice, str]]:
    """Other members of the cards' groups that have to leave their host drivers too."""
    passed = {c.address for c in cards}
    extra: list[tuple[PciDevice, str]] = []
    done: set[int] = set()
    for card in cards:
        if card.iommu_group is None or card.iommu_group in done:
            continue
        done.add(card.iommu_group)
        others = [
            m for m in draft.facts.group(card.iommu_group)
            if not (m.is_bridge or m.address in passed or may_stay(m))
        ]
        if draft.profile.pci[int(card.key[4:-1])].group == "take":
            for member in others:
                check_device(draft, member, f"{card.key}.group")
                extra.append((member, f"{card.key}.group"))
        elif others:
            _not_viable(draft, card, others)
    return extra


def _not_viable(draft: Draft, card: PlannedCard, others: Sequence[PciDevice]) -> None:
    """The kernel hands a group over whole; the profile has to name all that is in it."""
    own = all(m.address.slot_name == card_of(card.address) for m in others)
    draft.problem(
        f"IOMMU group {card.iommu_group} of {card.address} also holds "
        f"{', '.join(m.address for m in others)}, which the profile does not name",
        f"{card.key}.device",
        found="; ".join(f"{m.address} [{m.id}] on {m.driver}" for m in others),
        hint='functions = "all" hands the whole card over' if own
        else 'add a [[pci]] for each, or take them from the host with group = "take"',
    )


def may_stay(member: PciDevice) -> bool:
    """Whether a group member's driver is no hindrance to VFIO."""
    driver = member.driver
    return driver is None or driver in _VIABLE or "vfio" in driver
