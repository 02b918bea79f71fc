"""Rules about devices among each other: what there is one of, cards, places in the guest."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from qlaunch.errors import Problem
from qlaunch.late import load
from qlaunch.profile.display import GL_CARDS, Display
from qlaunch.profile.keys import KeyPath, key_text
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import GuestSlot


def check_twice(profile: Profile) -> Iterator[Finding]:
    """What there is only one of is named once: MACs, taps, host devices, ids."""
    for kind, key, what in (
        ("net", "mac", "the same MAC address"),
        ("net", "tap", "the same tap"),
        ("pci", "device", "the same host device"),
        ("controller", "id", "the same id"),
    ):
        seen: dict[Hashable, int] = {}
        for number, device in enumerate(getattr(profile, kind, ())):
            value = getattr(device, key)
            if value is None:
                continue
            first = seen.setdefault(value, number)
            if first != number:
                problem = Problem(f"{kind}[{first}] has {what}", found=str(value),
                                  hint="change it in one of the two, or leave one table out")
                yield Finding((kind, number, key), problem, also=((kind, first, key),))


def check_cards(profile: Profile) -> Iterator[Finding]:
    """Legacy VGA goes to one card; a vendor:device given twice says the same."""
    primary = [number for number, card in enumerate(profile.pci) if card.x_vga]
    for number in primary[1:]:
        problem = Problem(f"pci[{primary[0]}] is the primary card already", found="x_vga = true",
                          hint="leave it out for this card")
        yield Finding(("pci", number, "x_vga"), problem, (("pci", primary[0], "x_vga"),))
    if primary and profile.display.vga != "none":
        problem = Problem(
            "two primary cards: the guest's firmware may choose the emulated one",
            found=f'x_vga = true, display.vga = "{profile.display.vga}"',
            hint='set display.vga = "none"',
            severity="warning",
        )
        yield Finding(("pci", primary[0], "x_vga"), problem, (("display", "vga"),))
    for number, card in enumerate(profile.pci):
        if card.id and card.device.id and card.id != card.device.id:
            problem = Problem("device says another vendor:device", found=card.id,
                              hint="leave id out")
            yield Finding(("pci", number, "id"), problem, (("pci", number, "device"),))
        if card.rebar is not None and (card.rebar < 1 << 20 or card.rebar & (card.rebar - 1)):
            problem = Problem("a BAR's size is a power of two from 1M on", found=str(card.rebar),
                              hint='for example rebar = "256M"')
            yield Finding(("pci", number, "rebar"), problem)


def check_slots(profile: Profile) -> Iterator[Finding]:
    """No two devices in one guest slot, and no function without the slot's function 0."""
    buses: dict[Hashable, dict[GuestSlot, KeyPath]] = {}
    for path, bus, slot in _slots(profile):
        taken = buses.setdefault(bus, {})
        first = taken.setdefault(slot, path)
        if first != path:
            problem = Problem(
                f"{key_text(first)} is in the same guest slot",
                found=f'addr = "{slot}"',
                hint="give each its own, or leave addr out",
            )
            yield Finding((*path, "addr"), problem, also=((*first, "addr"),))
    for slot, path in buses.get(None, {}).items():
        if slot.function and GuestSlot(f"{slot.slot:02x}.0") not in buses[None] and (
            slot.slot not in (0x00, 0x01, 0x1C, 0x1F)  # the chipset's, and the root ports'
        ):
            problem = Problem(
                f"nothing is at function 0 of guest slot {slot.slot:02x}, so the guest does "
                "not look for the others",
                found=f'addr = "{slot}"',
                hint=f'use addr = "{slot.slot:02x}.0"',
            )
            yield Finding((*path, "addr"), problem)


def _slots(profile: Profile) -> Iterator[tuple[KeyPath, Hashable, GuestSlot]]:
    """(device, bus, slot) of every `addr`. Bus None is the guest's bus 0; a card on a root port
    shares that port with the functions of the same host card only."""
    for kind in profile.__struct_fields__:
        value = getattr(profile, kind)
        entries: list[tuple[KeyPath, Any]] = [((kind,), value)]
        if isinstance(value, tuple):
            entries = [((kind, number), entry) for number, entry in enumerate(value)]
        for path, entry in entries:
            slot = getattr(entry, "addr", None)
            if not isinstance(slot, GuestSlot):
                continue
            if kind != "pci" or entry.port == "none":
                yield path, None, slot
            elif entry.device.address is not None:
                yield path, (entry.port, entry.device.address.slot_name), slot


def check_display(profile: Profile) -> Iterator[Finding]:
    """A screen that is more than a display type and a plain card has rules of its own."""
    display = profile.display
    plain = display.type != "looking-glass" and display.vga not in GL_CARDS
    if not plain or display != Display(type=display.type, vga=display.vga):
        for check in load("qlaunch.profile.check_display:DISPLAY_CHECKS"):
            yield from check(profile)


DEVICE_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_twice, check_cards, check_display, check_slots,
)
