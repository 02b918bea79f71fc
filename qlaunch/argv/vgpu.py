"""Slices of devices: mediated ones by their directory in sysfs, virtual functions by address."""

from __future__ import annotations

from qlaunch.argv.option import Option, device, place
from qlaunch.plan.model import Plan
from qlaunch.plan.vgpu_model import PlannedVgpu
from qlaunch.profile.vgpu import Vgpu


def vgpu_options(plan: Plan) -> list[Option]:
    """One device each. `display`, `ramfb` and the sizes are vfio-pci's own properties."""
    return [_option(v, plan.profile.vgpu[int(v.key[5:-1])]) for v in plan.vgpus]


def _option(slice_: PlannedVgpu, table: Vgpu) -> Option:
    said = {
        "display": slice_.display, "ramfb": slice_.ramfb,
        "igd_opregion": slice_.opregion and table.igd_opregion, "rom": table.rom is not None,
    }
    mdev = slice_.kind == "mdev"
    return device(
        # ramfb is a device of the machine's start, so its owner cannot be plugged in later.
        "vfio-pci-nohotplug" if slice_.ramfb else "vfio-pci",
        "; ".join([slice_.key, *(f"{slice_.key}.{key}" for key, there in said.items() if there)]),
        sysfsdev=slice_.device if mdev else None, host=None if mdev else slice_.name,
        id=slice_.id, **place(slice_.place.bus, slice_.place.addr),
        display=slice_.display or None, ramfb=slice_.ramfb or None,
        x_igd_opregion=slice_.opregion, xres=table.xres if slice_.sized else None,
        yres=table.yres if slice_.sized else None,
        rombar=None if table.rom is None else int(table.rom), bootindex=table.boot,
    )
