"""A slice of a host's device: a mediated device (GVT-g, older NVIDIA, the kernel's samples), an
SR-IOV virtual function, or an NVIDIA vGPU on a virtual function (kernel 6.8 and newer).

One table for all of them, and an ordered list of wishes, so that one profile serves machines with
different hardware. The forms of the texts are held by check_vgpu.py, which is loaded for profiles
with such a table only.
"""

from __future__ import annotations

import re
from typing import Literal

from qlaunch.profile.fields import BootIndex, Slot
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import MacAddress, PciSelector

FORMS = {
    "type": (r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}$", "a type's name like i915-GVTg_V5_4"),
    "parent": (
        r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$",
        "an address like 00:02.0, a vendor:device, or a name of /sys/class/mdev_bus",
    ),
    "memory": (r"^>=\s*0*[1-9][0-9]{0,5}[KMGT](i?B)?$", 'the least that will do, like ">=512M"'),
    "resolution": (
        r"^>=\s*[1-9][0-9]{2,4}x[1-9][0-9]{2,4}$", 'the least that will do, like ">=1920x1080"',
    ),
    "uuid": (
        r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
        "a UUID like fff6f017-3417-4ad3-b05e-17ae3e1a4615",
    ),
}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# The patterns are for editors; check_vgpu.py holds them.
_TYPE_TEXT = Meta(
    description='The type to make, e.g. "i915-GVTg_V5_4" or "NVIDIA RTX6000-Ada-8Q" '
    "(qlaunch devices --vgpu lists them).", extra_json_schema={"pattern": FORMS["type"][0]},
)
_MEMORY_TEXT = Meta(
    description='Any type with at least this much memory, e.g. ">=512M"; the smallest is taken.',
    extra_json_schema={"pattern": FORMS["memory"][0]},
)
_SIZE_TEXT = Meta(
    description='Any type that shows at least this resolution, e.g. ">=1920x1080".',
    extra_json_schema={"pattern": FORMS["resolution"][0]},
)


class Wish(Table, frozen=True):
    """One of a list of wishes: whole device, type, virtual function, or virtio card."""

    pci: Annotated[
        PciSelector | None,
        Meta(description='A whole device, with its other functions: "10de:2684" or "03:00.0".'),
    ] = None
    type: Annotated[str | None, _TYPE_TEXT] = None
    memory: Annotated[str | None, _MEMORY_TEXT] = None
    resolution: Annotated[str | None, _SIZE_TEXT] = None
    vf: Annotated[
        PciSelector | None,
        Meta(description='A virtual function of this physical one, e.g. "8086:56c0".'),
    ] = None
    virtio: Annotated[
        Literal["virtio-gl", "venus", "rutabaga"] | None,
        Meta(description="A virtio card instead, as display.vga says it."),
    ] = None


class Vgpu(Table, frozen=True):
    """A slice of a host's device for the guest. It is made at start and taken away at exit."""

    kind: Annotated[
        Literal["auto", "mdev", "vf", "nvidia-vf"],
        Meta(
            description='"mdev" is a mediated device (GVT-g), "vf" an SR-IOV virtual function, '
            '"nvidia-vf" a vGPU type on one; "auto" takes what the host has.'
        ),
    ] = "auto"
    parent: Annotated[
        str | None,
        Meta(
            description='The device it is a slice of: "00:02.0", "8086:56c0", or a name below '
            "/sys/class/mdev_bus; the least used that fits when absent."
        ),
    ] = None
    type: Annotated[str | None, _TYPE_TEXT] = None
    memory: Annotated[str | None, _MEMORY_TEXT] = None
    resolution: Annotated[str | None, _SIZE_TEXT] = None
    any: Annotated[
        tuple[Wish, ...],
        Meta(
            description="Wishes in order; the first that this host can give is taken, e.g. "
            '[{type = "i915-GVTg_V5_4"}, {vf = "8086:56c0"}, {virtio = "venus"}].'
        ),
    ] = ()
    uuid: Annotated[
        str | None,
        Meta(
            description="UUID of the mediated device; derived from the machine's and the table's "
            "number when absent. One that is there already is used, and stays."
        ),
    ] = None
    vfs: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        Meta(
            description="How many virtual functions to switch on when none is; when absent as many "
            "as the machine needs of a network card, all of another. The most that a table of the "
            "machine says counts, and stays while one is used. A graphics card divides its memory "
            "among those that are on. They are switched off again with the last machine that uses "
            "one."
        ),
    ] = None
    mac: Annotated[
        MacAddress | None, Meta(description="MAC address of a network card's virtual function.")
    ] = None
    vlan: Annotated[
        Annotated[int, Meta(ge=0, le=4094)] | None,
        Meta(description="VLAN of a network card's virtual function."),
    ] = None
    display: Annotated[
        bool,
        Meta(description="Show the vGPU's screen where the machine is looked at. Of a list of "
             "wishes, those that cannot take a key of the screen go without it."),
    ] = False
    ramfb: Annotated[
        bool, Meta(description="Show the firmware's text before the guest's driver is loaded.")
    ] = False
    igd_opregion: Annotated[
        bool | None,
        Meta(description="Show Intel's OpRegion to the guest, which its driver needs for display."),
    ] = None
    rom: Annotated[
        bool | None, Meta(description="false hides the device's ROM from the guest.")
    ] = None
    xres: Annotated[
        Annotated[int, Meta(ge=320, le=16384)] | None,
        Meta(description="Width that the vGPU's screen offers to the guest."),
    ] = None
    yres: Annotated[
        Annotated[int, Meta(ge=200, le=16384)] | None,
        Meta(description="Height that the vGPU's screen offers to the guest."),
    ] = None
    boot: BootIndex = None
    addr: Slot = None


def fits_form(key: str, text: str) -> bool:
    """Whether a text has its key's form."""
    return re.fullmatch(FORMS[key][0], text) is not None


def least_bytes(text: str) -> int:
    """">=512M" → bytes. The text must fit its form."""
    number = re.findall("[0-9]+", text)[0]
    unit = next(letter for letter in text if letter in _UNITS)
    return int(number) * _UNITS[unit]


def least_pixels(text: str) -> tuple[int, int]:
    """">=1920x1080" → (1920, 1080). The text must fit its form."""
    width, height = re.findall("[0-9]+", text)
    return int(width), int(height)
