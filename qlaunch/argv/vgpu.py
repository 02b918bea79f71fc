"""Slices of devices: mediated ones by their directory in sysfs, virtual functions by address."""

from __future__ import annotations

from qlaunch.argv.option import Option, device, place
from qlaunch.plan.model import Plan, PlannedVgpu
from qlaunch.profile.vgpu import Vgpu


def vgpu_options(plan: Plan) -> list[Option]:
    """One device each. `display`, `ramfb` and the sizes are vfio-pci's own properties."""
    return [_option(v, plan.profile.vgpu[int(v.key[5:-1])]) for v in plan.vgpus]


def _option(slice_: PlannedVgpu, table: Vgpu) -> Option:
    keys = ("display", "ramfb", "igd_opregion", "rom")
    said = [k for k in keys[0 if slice_.shown else 2:] if getattr(table, k)]
    if table.rom is False:
        said.append("rom")
    mdev, shown = slice_.kind == "mdev", slice_.shown
    return device(
        # ramfb is a device of the machine's start, so its owner cannot be plugged in later.
        "vfio-pci-nohotplug" if shown and table.ramfb else "vfio-pci",
        "; ".join([slice_.key, *(f"{slice_.key}.{key}" for key in said)]),
        sysfsdev=slice_.device if mdev else None, host=None if mdev else slice_.name,
        id=slice_.id, **place(slice_.place.bus, slice_.place.addr),
        display="on" if shown else None, ramfb=True if shown and table.ramfb else None,
        x_igd_opregion=slice_.opregion, xres=table.xres if shown else None,
        yres=table.yres if shown else None,
        rombar=None if table.rom is None else int(table.rom), bootindex=table.boot,
    )
