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
    "vgpu": (0x14, 3),
    "cirrus": (0x17, 1),  # a vGPU behind it crashes the guest
    "pci": (0x18, 3),
    "audio": (0x1B, 1),
    "channel": (0x1D, 1),
    "rng": (0x1E, 1),
}
# Kinds that came later live on root ports of their own, functions of two slots: kind -> (slot,
# first function, how many). A port of function 0 is there as soon as another function is.
EXTRA_PORTS: dict[str, tuple[int, int, int]] = {
    "input": (0x02, 0, 4),
    "shmem": (0x02, 4, 2),
    "iommu": (0x02, 6, 1),
    "pvpanic": (0x02, 7, 1),
    "vsock": (0x05, 0, 1),
    "watchdog": (0x05, 1, 1),
    "usb-extra": (0x05, 2, 1),
    "serial": (0x05, 3, 1),
    "share": (0x05, 4, 4),
}
# The pc machine has no root ports: what is left over there.
PC_EXTRA = {
    "vsock": 0x05, "watchdog": 0x1C, "shmem": 0x1F, "share": 0x17, "input": 0x1A, "iommu": 0x07,
    "pvpanic": 0x16, "usb-extra": 0x15, "serial": 0x14,
}
FIRST_EXTRA = 32  # chassis and port numbers of the extra ports, above those of cards
PORT_SLOT = 0x1C  # root ports: 1c.0 to 1c.7, one multifunction slot as on real chipsets
MAX_PORTS = 8


class SlotMap:
    """Hands out places on bus 0 and finds two devices on one place."""

    def __init__(self, *, pc: bool = False) -> None:
        self._pc = pc
        self._taken: dict[str, str] = {"00.0": "the host bridge"}
        self._taken["01.0" if pc else "1f.0"] = "the chipset"
        self.extras: dict[str, str] = {}  # slot of an extra root port -> the key that wants it
        self.problems: list[Problem] = []

    def take(self, kind: str, index: int, key: str, wanted: GuestSlot | None) -> GuestSlot:
        """The slot of the index-th device of a kind, or the profile's own; clashes are noted."""
        if wanted is None:
            first, count = self._range(kind)
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

    def _range(self, kind: str) -> tuple[int, int]:
        if self._pc and kind in ("vga", "cirrus"):
            return 0x02, 1
        return (PC_EXTRA[kind], 1) if kind in PC_EXTRA else SLOTS[kind]

    def extra_port(self, kind: str, index: int, key: str) -> str:
        """The id of the root port for the index-th device of an extra kind."""
        slot, first, count = EXTRA_PORTS[kind]
        if index >= count:
            self.problems.append(
                Problem(
                    f"the slot map has {count} place(s) for this kind of device", where=key,
                    hint='give this one its own place, e.g. addr = "0b"',
                )
            )
        self.extras.setdefault(f"{slot:02x}.0", key)
        self.extras[f"{slot:02x}.{(first + index) % 8}"] = key
        return extra_port(slot, (first + index) % 8)

    def extra_function(self, kind: str, key: str) -> str:
        """The place of an extra kind that is no root port itself but stands where one would."""
        slot, function, _ = EXTRA_PORTS[kind]
        self.extras.setdefault(f"{slot:02x}.0", key)
        return self.reserve(GuestSlot(f"{slot:02x}.{function}"), key)

    def reserve(self, slot: GuestSlot, key: str) -> GuestSlot:
        """Note who is at a slot; two devices at one slot are a problem."""
        other = self._taken.get(slot)
        if slot.slot in ((0x00, 0x01) if self._pc else (0x00, 0x1F)):
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


def extra_port(slot: int, function: int) -> str:
    """The QEMU id of an extra root port."""
    return f"port{slot:02x}-{function}"
