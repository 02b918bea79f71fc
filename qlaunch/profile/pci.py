"""Host PCI devices handed to the guest."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.fields import BootIndex, Slot
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import HostPath, PciId, PciSelector, Size

ResetMethod = Literal[
    "auto", "default", "flr", "pm", "bus", "device_specific", "acpi", "rescan", "none"
]


class Pci(Table, frozen=True):
    """A host PCI device handed to the guest."""

    device: Annotated[
        PciSelector,
        Meta(description='Address ("03:00.0") or vendor:device that matches exactly one device.'),
    ]
    id: Annotated[
        PciId | None,
        Meta(description="Refuse to start when another device stands at that address."),
    ] = None
    functions: Annotated[
        Literal["one", "all"],
        Meta(description='"all" takes the card\'s other functions (its audio) along.'),
    ] = "one"
    group: Annotated[
        Literal["refuse", "take"],
        Meta(
            description="What to do with devices of the same IOMMU group that the profile does "
            'not name: refuse to start, or take them from the host as well ("take").'
        ),
    ] = "refuse"
    x_vga: Annotated[bool, Meta(description="Route legacy VGA to it (primary card, BIOS).")] = False
    rom: Annotated[HostPath | None, Meta(description="ROM image file shown as the card's.")] = None
    rombar: Annotated[
        bool | None, Meta(description="false hides the card's ROM from the guest.")
    ] = None
    port: Annotated[
        Literal["ioh3420", "pcie-root-port", "none"] | None,
        Meta(description='The root port it is plugged into; "none" is straight on pcie.0.'),
    ] = None
    reset: Annotated[
        ResetMethod,
        Meta(
            description='How it is reset before its return. "default" has the kernel look again '
            "for the ways that it has, where its list (reset_method) is stale: what is stale does "
            'not come back into that list. "rescan" is for a card that no reset brings back: it '
            "is removed from the PCI bus and found again."
        ),
    ] = "auto"
    rebar: Annotated[
        Size | None,
        Meta(
            description="The size of the card's resizable BAR while the guest has it, a power of "
            'two such as "256M": some guests do not start with all of a card\'s memory in it.'
        ),
    ] = None
    return_to: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}$",
            extra={"form": 'a kernel driver\'s name, or "auto"'},
            description='"auto": the driver it had; or a driver\'s name; "vfio-pci" leaves it '
            "there.",
        ),
    ] = "auto"
    multifunction: Annotated[
        bool | None, Meta(description="Set QEMU's multifunction flag; automatic when absent.")
    ] = None
    boot: BootIndex = None
    addr: Slot = None
