"""USB devices and input devices of a host, as parts of HostFacts (facts/model.py)."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

HUB_CLASS = 0x09


class UsbDevice(Struct, frozen=True, kw_only=True):
    """One device on a port (/sys/bus/usb/devices/BUS-PORT); root hubs are left out."""

    name: str  # "1-4.2": bus, then the ports on the way; stays the same when it is replugged
    id: str  # vendor:product, lower-case hexadecimal
    bus: int
    address: int  # devnum: another each time it is plugged in
    serial: str = ""
    text: str = ""  # manufacturer and product, as it says itself
    device_class: int = 0
    drivers: tuple[str, ...] = ()  # of its interfaces
    blocks: tuple[str, ...] = ()  # block devices it carries: sdb
    mounted: tuple[str, ...] = ()  # mount points on them
    in_use: str = ""  # swap, lvm, md, zfs: why they are not free otherwise
    links: tuple[str, ...] = ()  # network interfaces it carries
    usable: bool = True  # QEMU's account may open its node

    @property
    def node(self) -> str:
        """Its device node, which a replug renames."""
        return f"/dev/bus/usb/{self.bus:03}/{self.address:03}"

    @property
    def is_hub(self) -> bool:
        """Hubs stay with the host: what is plugged into one can be handed over."""
        return self.device_class == HUB_CLASS

    def __str__(self) -> str:
        return f"{self.name} [{self.id}]" + (f" {self.text}" if self.text else "")


class HostInput(Struct, frozen=True, kw_only=True):
    """One input device (/proc/bus/input/devices)."""

    node: str  # /dev/input/event3
    name: str = ""
    kind: Literal["keyboard", "mouse", "other"] = "other"
    sysfs: str = ""  # /devices/pci0000:00/…/1-4:1.0/…/input5
    paths: tuple[str, ...] = ()  # those of the profile that lead to it
    usable: bool = True  # QEMU's account may open it

    @property
    def is_virtual(self) -> bool:
        """Made by a program (uinput), not by hardware."""
        return self.sysfs.startswith("/devices/virtual/")
