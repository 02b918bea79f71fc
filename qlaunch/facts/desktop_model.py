"""What a desktop has to draw with and be heard through, as part of HostFacts."""

from __future__ import annotations

from msgspec import Struct, field

from qlaunch.values import PciAddress


class RenderNode(Struct, frozen=True, kw_only=True):
    """A GPU's node for drawing without a screen (/dev/dri/renderD*)."""

    path: str
    pci: PciAddress | None = None
    driver: str = ""
    usable: bool = True  # by the user QEMU will run as
    group: str = ""  # whose members may use it


class Desktop(Struct, frozen=True, kw_only=True):
    """What the user that QEMU runs as can draw with and be heard through."""

    render: tuple[RenderNode, ...] = ()
    sockets: dict[str, str] = field(default_factory=dict)  # of pipewire, pulse, bus and wayland
    kvmfr: tuple[int, ...] | None = None  # bytes of /dev/kvmfr0, 1 …; None: no such module
