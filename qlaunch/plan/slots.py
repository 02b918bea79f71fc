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
PC_SLOTS = {**SLOTS, "vga": (0x02, 1)}
# Kinds that came later live on root ports of their own, functions of two slots. A port of function
# 0 is there as soon as another function is.
EXTRA_PORTS: dict[str, tuple[str, ...]] = {
    "input": ("02.0", "02.1", "02.2", "02.3"),
    "shmem": ("02.4", "05.2"),
    "looking-glass": ("02.5",),
    "iommu": ("02.6",),
    "pvpanic": ("02.7",),
    "vsock": ("05.0",),
    "watchdog": ("05.1",),
    "serial": ("05.3",),
    "share": ("05.4", "05.5", "05.6", "05.7"),
}
FUNCTIONS = {"serial": 8}  # kinds whose devices are functions behind the kind's one port
# The pc machine has no root ports: there the same kinds have slots behind a bridge.
BRIDGE, BRIDGE_SLOT = "bridge", "05.0"
BRIDGED: dict[str, tuple[int, int]] = {
    "input": (0x01, 4),
    "shmem": (0x05, 2),
    "looking-glass": (0x07, 1),
    "pvpanic": (0x08, 1),
    "vsock": (0x09, 1),
    "watchdog": (0x0A, 1),
    "share": (0x0C, 4),
    "serial": (0x10, 8),
}
FIRST_EXTRA = 32  # chassis and port numbers of the extra ports, above those of cards
PORT_SLOT = 0x1C  # root ports: 1c.0 to 1c.7, one multifunction slot as on real chipsets
MAX_PORTS = 8
WITH_ADDR = frozenset((  # tables of the profile in which a place can be said
    "audio", "balloon", "controller", "disk", "input", "net", "pci", "rng", "share", "shmem",
    "vgpu", "vsock", "watchdog",
))  # fmt: skip


class SlotMap:
    """Hands out places on bus 0 and finds two devices on one place."""

    def __init__(self, *, pc: bool = False) -> None:
        self._pc = pc
        self._taken: dict[str, str] = {"00.0": "the host bridge"}
        self._taken["01.0" if pc else "1f.0"] = "the chipset"
        self.extras: dict[str, str] = {}  # slot of an extra port or the bridge -> who wants it
        self.problems: list[Problem] = []

    def take(self, kind: str, index: int, key: str, wanted: GuestSlot | None) -> GuestSlot:
        """The slot of the index-th device of a kind, or the profile's own; clashes are noted."""
        if wanted is None:
            first, count = (PC_SLOTS if self._pc else SLOTS)[kind]
            self._check_room(index, count, key)
            wanted = GuestSlot(f"{(first + index) & 0x1F:02x}.0")
        return self.reserve(wanted, key)

    def extra_place(self, kind: str, index: int, key: str) -> tuple[str, GuestSlot]:
        """Bus and place on it for the index-th device of an extra kind."""
        if self._pc:
            first, count = BRIDGED[kind]
            self._check_room(index, count, key)
            self.extras.setdefault(BRIDGE_SLOT, key)
            return BRIDGE, GuestSlot(f"{(first + index) & 0x1F:02x}.0")
        ports, functions = EXTRA_PORTS[kind], FUNCTIONS.get(kind, 1)
        self._check_room(index, len(ports) * functions, key)
        port = ports[index // functions % len(ports)]
        self.extras.setdefault(f"{port[:2]}.0", key)
        if index % functions:
            self.extras.setdefault(port, key)
        else:
            self.extras[port] = key
        return extra_port(port), GuestSlot(f"00.{index % functions}")

    def extra_function(self, kind: str, key: str) -> str:
        """The place of an extra kind that is no root port itself but stands where one would."""
        port = EXTRA_PORTS[kind][0]
        self.extras.setdefault(f"{port[:2]}.0", key)
        return self.reserve(GuestSlot(port), key)

    def _check_room(self, index: int, count: int, key: str) -> None:
        if index >= count:
            self.problems.append(Problem(
                f"the slot map has {count} place(s) for this kind of device", where=key,
                hint='give this one its own place, e.g. addr = "0b"' if _has_addr(key)
                else "leave this one out",
            ))

    def reserve(self, slot: GuestSlot, key: str) -> GuestSlot:
        """Note who is at a slot; two devices at one slot are a problem."""
        other = self._taken.get(slot)
        if slot.slot in ((0x00, 0x01) if self._pc else (0x00, 0x1F)):
            other = other or "the chipset"
        if other is not None:
            self._clash(slot, key, other)
        self._taken[slot] = key
        return slot

    def _clash(self, slot: GuestSlot, key: str, other: str) -> None:
        """Told of the one of the two that can go elsewhere."""
        if not _has_addr(key) and _has_addr(other):
            key, other = other, key
        where, hint = key, "leave one of the two out"
        if _has_addr(key):
            where = f"{_table(key)}.addr"
            hint = f"give {'one of the two' if _has_addr(other) else 'this one'} another addr"
        self.problems.append(Problem(
            f"guest slot {slot} is already taken by {other}", where=where, hint=hint,
        ))


def _table(key: str) -> str:
    """The table of a key: "disk[0]" of "disk[0].bus"."""
    return key.partition(".")[0]


def _has_addr(key: str) -> bool:
    return _table(key).partition("[")[0] in WITH_ADDR


def extra_port(slot: str) -> str:
    """The QEMU id of an extra root port: "port05-3" of "05.3"."""
    return f"port{slot.replace('.', '-')}"
