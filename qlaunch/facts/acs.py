"""Access Control Services of the ports in groups that strangers share, from configuration space.

Ports without ACS, or with it off, may let devices reach each other past the IOMMU, so the kernel
puts all that is below them into the port's own group (pci_device_group in drivers/iommu/iommu.c,
pci_acs_enabled in drivers/pci/pci.c). Offsets are those of linux/pci_regs.h: capabilities are a
list from 0x34 on, extended ones from 0x100 on. An ordinary user gets the first 64 bytes only, root
all 4096 (pci_read_config in drivers/pci/pci-sysfs.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from qlaunch.facts.health_model import AcsPort, PortKind
from qlaunch.facts.model import PciDevice
from qlaunch.facts.tree import base_of, read_whole

_SPACE = 4096
_EXPRESS = 0x10  # PCI_CAP_ID_EXP, whose flags tell the port's type
_ACS = 0x000D  # PCI_EXT_CAP_ID_ACS
_KINDS: dict[int, PortKind] = {
    4: "root port", 5: "upstream port", 6: "downstream port", 7: "bridge", 8: "bridge",
}


def read_acs(devices: Iterable[PciDevice], root: Path = Path("/")) -> tuple[AcsPort, ...]:
    """The bridges of every group that has devices of more than one slot."""
    members: dict[int, list[PciDevice]] = {}
    for device in devices:
        if device.iommu_group is not None:
            members.setdefault(device.iommu_group, []).append(device)
    base = base_of(root)
    return tuple(
        port_of(bridge, read_whole(f"{base}/sys/bus/pci/devices/{bridge.address}/config", _SPACE))
        for group in members.values()
        if len({d.address.slot_name for d in group if not d.is_bridge}) > 1
        for bridge in group if bridge.is_bridge
    )


def port_of(bridge: PciDevice, space: bytes | None) -> AcsPort:
    """What a bridge's configuration space says, as far as it could be read."""
    if not space or space[:4] == b"\xff" * 4:  # a port that has fallen off the bus
        return AcsPort(address=bridge.address)
    if len(space) <= 64:
        return AcsPort(address=bridge.address, read=len(space))
    at = next((at for ident, at in _capabilities(space) if ident == _EXPRESS), None)
    kind = _KINDS.get(_word(space, at + 2) >> 4 & 15, "other") if at is not None else "bridge"
    acs = next((at for ident, at in _extended(space) if ident == _ACS), None)
    return AcsPort(
        address=bridge.address, kind=kind, read=len(space), at=acs,
        capability=_word(space, acs + 4) if acs is not None else 0,
        control=_word(space, acs + 6) if acs is not None else 0,
    )


def _word(space: bytes, at: int) -> int:
    return int.from_bytes(space[at : at + 2], "little")


def _capabilities(space: bytes) -> Iterator[tuple[int, int]]:
    """(id, offset) each; a list that leads nowhere, or round in a circle, ends."""
    at, seen = space[0x34] & 0xFC, set[int]()
    while at >= 0x40 and at not in seen and at + 4 <= min(len(space), 256):
        seen.add(at)
        yield space[at], at
        at = space[at + 1] & 0xFC


def _extended(space: bytes) -> Iterator[tuple[int, int]]:
    """The same for extended ones: 16 bits of id, 4 of version, 12 of the next one's offset."""
    at, seen = 0x100, set[int]()
    while at >= 0x100 and at not in seen and at + 8 <= len(space):
        seen.add(at)
        head = int.from_bytes(space[at : at + 4], "little")
        if head in (0, 0xFFFFFFFF):
            return
        yield head & 0xFFFF, at
        at = head >> 20 & 0xFFC
