"""The slot map: every kind of device has its own slots on the guest's bus 0.

A map, not a counter: adding a disk never moves the network card, because guests rename NICs and
Windows asks for activation again when a slot moves. q35 itself uses 00 and 1f (and QEMU puts
its own VGA at 01); on pc 00 and 01 are the chipset and VGA is at 02.
"""

from __future__ import annotations

from qlaunch.errors import Problem
from qlaunch.values import GuestSlot

# kind -> (first slot, how many)
SLOTS: dict[str, tuple[int, int]] = {
    "vga": (0x01, 1),
    "balloon": (0x03, 1),
    "usb": (0x04, 1),
    "scsi": (0x06, 1),
    "controller": (0x07, 1),
    "disk": (0x08, 8),
    "net": (0x10, 4),
    "vgpu": (0x14, 4),
    "pci": (0x18, 3),
    "audio": (0x1B, 1),
    "channel": (0x1D, 1),
    "rng": (0x1E, 1),
}
PORT_SLOT = 0x1C  # root ports: 1c.0 to 1c.7, one multifunction slot as on real chipsets
MAX_PORTS = 8


class SlotMap:
    """Hands out places on bus 0 and finds two devices on one place."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {"00.0": "the host bridge", "1f.0": "the chipset"}
        self.problems: list[Problem] = []

    def take(self, kind: str, index: int, key: str, wanted: GuestSlot | None) -> GuestSlot:
        """The slot of the index-th device of a kind, or the profile's own; clashes are noted."""
        if wanted is None:
            first, count = SLOTS[kind]
            if index >= count:
                self.problems.append(
                    Problem(
                        f"the slot map has {count} place(s) for this kind of device",
                        where=key,
                        hint='give this one its own place, e.g. addr = "0b"',
                    )
                )
            slot = GuestSlot(f"{(first + index) & 0x1F:02x}.0")
        else:
            slot = wanted
        return self.reserve(slot, key)

    def reserve(self, slot: GuestSlot, key: str) -> GuestSlot:
        """Note who is at a slot; two devices at one slot are a problem."""
        other = self._taken.get(slot)
        if slot.slot in (0x00, 0x1F):
            other = other or "the chipset"
        if other is not None:
            self.problems.append(
                Problem(
                    f"guest slot {slot} is already taken by {other}",
                    where=f"{key}.addr",
                    hint="give one of the two another addr",
                )
            )
        self._taken[slot] = key
        return slot
