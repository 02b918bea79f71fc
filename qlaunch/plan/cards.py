"""Passed-through devices: which functions, in which guest place, by which host steps.

The rules behind the refusals are the kernel's: a group is handed over whole
(iommu_group_claim_dma_owner), a bridge never (vfio_pci_core_register_device), a physical function
not while its virtual functions are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qlaunch.facts.model import DISPLAY_CLASS, PciDevice
from qlaunch.plan.draft import Draft
from qlaunch.plan.files import check_file
from qlaunch.plan.model import Place, PlannedCard, PlannedPort
from qlaunch.plan.slots import MAX_PORTS, PORT_SLOT
from qlaunch.values import GuestSlot, PciAddress

if TYPE_CHECKING:
    from qlaunch.profile.pci import Pci

VGA_CLASS = 0x0300
_LIST = "qlaunch devices lists what there is"


def plan_cards(draft: Draft) -> None:
    """Root ports and cards, in profile order; a card's other functions follow it."""
    chosen = _choose(draft)
    ports: dict[tuple[str, str], PlannedPort] = {}
    families: dict[str, list[Pci]] = {}
    lowest: dict[str, int] = {}
    for _, pci, address, _ in chosen:
        card = card_of(address)
        families.setdefault(card, []).append(pci)
        lowest[card] = min(lowest.get(card, 7), _function(address))
    cards: list[PlannedCard] = []
    straight = 0
    for key, pci, address, companion in chosen:
        family = families[card_of(address)]
        kind = _port_kind(draft, pci, family)
        if kind == "none":
            slot = draft.slots.take("pci", straight, key, pci.addr)
            straight += 1
            where = Place(draft.bus, slot)
            several = False
        else:
            port = _port(draft, ports, kind, address, key)
            slot = pci.addr or _slot(address, lowest[card_of(address)])
            where = Place(port.id, slot)
            several = len(family) > 1 and slot.function == 0
        cards.append(_card(draft, key, pci, address, companion, where, several))
    if cards:
        draft.need("vfio-pci", "pci[0].device")
    for pci_index, pci in enumerate(draft.profile.pci):
        if pci.rom:
            check_file(draft, draft.facts.file(pci.rom), f"pci[{pci_index}].rom", read_only=True,
                       handed=False)
    draft.ports += ports.values()
    draft.decided["cards"] = tuple(cards)


def card_of(address: PciAddress) -> str:
    """What the functions of one card share; of an id that no device here has, the id."""
    return address.slot_name if "." in address else str(address)


def _function(address: PciAddress) -> int:
    return address.function if "." in address else 0


def _slot(address: PciAddress, lowest: int) -> GuestSlot:
    """The function that it has on the host; but of those that go to the guest the lowest is 0,
    without which a guest does not look for the others (pci_scan_slot, drivers/pci/probe.c)."""
    number = _function(address)
    return GuestSlot(f"00.{0 if number == lowest else number}")


def _choose(draft: Draft) -> list[tuple[str, Pci, PciAddress, bool]]:
    """(key, table, address, companion) for every function that goes to the guest."""
    chosen: list[tuple[str, Pci, PciAddress, bool]] = []
    seen: set[str] = set()
    for index, pci in enumerate(draft.profile.pci):
        key = f"pci[{index}]"
        address = _address(draft, key, pci)
        if address in seen:
            draft.problem("this device is named twice", f"{key}.device", found=str(address),
                          hint="drop one of the two [[pci]] tables")
            continue
        seen.add(address)
        chosen.append((key, pci, address, False))
        if pci.functions == "all":
            chosen += [
                (key, pci, d.address, True)
                for d in draft.facts.pci or ()
                if d.address.slot_name == card_of(address)
                and d.address != address
                and not _named(draft, d)
            ]
    return chosen


def _named(draft: Draft, device: PciDevice) -> bool:
    return any(p.device.address == device.address or p.device.id == device.id
               for p in draft.profile.pci)


def _address(draft: Draft, key: str, pci: Pci) -> PciAddress:
    """The device's address; as written when this host does not have it."""
    written = pci.device.address
    if draft.facts.pci is None:
        return written or PciAddress(pci.device)
    if written is not None:
        found = draft.facts.device(written)
        if found is None:
            draft.problem(
                "this host has no such PCI device", f"{key}.device", found=str(written), hint=_LIST,
            )
        elif pci.id is not None and found.id != pci.id:
            moved = [d.address for d in draft.facts.pci if d.id == pci.id]
            draft.problem(
                f"another device stands at {written}", f"{key}.id",
                found=str(found.id), allowed=str(pci.id),
                hint=f"{pci.id} is now at {', '.join(moved)}" if moved else _LIST,
            )
        return written
    matches = [d.address for d in draft.facts.pci if d.id == pci.device.id]
    if len(matches) == 1:
        return matches[0]
    draft.problem(
        "this host has no such PCI device" if not matches else "several devices have this id",
        f"{key}.device",
        found=f"{pci.device} at {', '.join(matches)}" if matches else str(pci.device),
        hint=f'name one by its address: device = "{matches[0].short}"' if matches else _LIST,
    )
    return matches[0] if matches else PciAddress(pci.device)


def _port_kind(draft: Draft, pci: Pci, family: Sequence[Pci]) -> str:
    if draft.is_pc:
        if pci.port not in (None, "none"):
            draft.problem(
                "the pc machine has no PCI Express root ports", "machine.type",
                found=draft.profile.machine.type, hint='use type = "q35", or port = "none"',
            )
        return "none"
    if pci.port is not None:
        return pci.port
    explicit = next((p.port for p in family if p.port), None)
    if explicit:
        return explicit
    return draft.era.card_port if any(p.x_vga for p in family) else draft.era.other_port


def _port(
    draft: Draft, ports: dict[tuple[str, str], PlannedPort], kind: str, address: PciAddress,
    key: str,
) -> PlannedPort:
    """The port of this host card; functions of one card share it."""
    known = ports.get((kind, card_of(address)))
    if known is not None:
        return known
    number = len(ports)
    if number >= MAX_PORTS:
        draft.problem(
            f"there is room for {MAX_PORTS} root ports", key, hint='use port = "none" for some'
        )
    addr = draft.slots.reserve(GuestSlot(f"{PORT_SLOT:02x}.{number % MAX_PORTS}"), key)
    port = PlannedPort(
        id="root" if number == 0 else f"root{number + 1}",
        type=kind, addr=addr, chassis=number + 1, port=number + 1,
        multifunction=number == 0, why=f"{key}.port",
    )
    ports[kind, card_of(address)] = port
    return port


def _card(
    draft: Draft, key: str, pci: Pci, address: PciAddress, companion: bool, where: Place,
    several: bool,
) -> PlannedCard:
    device = draft.facts.device(address)
    index = key[4:-1]
    if pci.x_vga and not companion and device and device.class_code >> 8 != VGA_CLASS:
        draft.problem(
            "x_vga is for VGA cards", f"{key}.x_vga",
            found=f"{address} is of class {device.class_code >> 8:04x}", allowed="class 0300",
            hint="name the card's display function, or drop x_vga",
        )
    multifunction = several if pci.multifunction is None or companion else pci.multifunction
    return PlannedCard(
        # No dot: -set could not name it.
        id=f"hostdev{index}" + (f"-{_function(address)}" if companion else ""),
        key=key, address=address, place=where, multifunction=multifunction,
        x_vga=pci.x_vga and not companion,
        rom=None if companion else pci.rom, rombar=None if companion else pci.rombar,
        boot=None if companion else pci.boot,
        iommu_group=device.iommu_group if device else None, companion=companion,
    )


def is_display(device: PciDevice) -> bool:
    """Whether the device is a graphics card (any display class)."""
    return device.base_class == DISPLAY_CLASS
