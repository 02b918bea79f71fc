"""What the plan decides about a slice of a device."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from qlaunch.plan.model import Place


class PlannedVgpu(Struct, frozen=True, kw_only=True):
    """One slice of a device; its keys that go to QEMU as they are stay in the profile's table."""

    id: str
    key: str  # "vgpu[0]"
    kind: Literal["mdev", "vf", "nvidia-vf"]
    name: str  # UUID of a mediated device, address of a virtual function
    parent: str
    type: str = ""
    place: Place
    display: Literal["", "on", "auto"] = ""
    ramfb: bool = False
    sized: bool = False  # the table's xres and yres are said to QEMU
    opregion: bool | None = None

    @property
    def device(self) -> str:
        """Its directory in sysfs."""
        bus = "mdev" if self.kind == "mdev" else "pci"
        return f"/sys/bus/{bus}/devices/{self.name}"
