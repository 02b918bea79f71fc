"""What the plan decides about a machine's picture and sound."""

from __future__ import annotations

from msgspec import Struct


class PlannedScreen(Struct, frozen=True, kw_only=True):
    """What showing the machine takes beside the display type."""

    gl: str = ""  # QEMU's word: on, off, core, es; "" leaves it out
    gl_why: str = ""
    render_node: str = ""  # of the GPU that draws where there is no window
    render_why: str = ""
    memory: int | None = None  # bytes of the emulated card
    memory_why: str = ""
    secret: int | None = None  # fd whose content is the VNC password
    bus: str = ""  # D-Bus address
    wayland: str = ""  # socket for the windows of a rutabaga guest


class PlannedAudio(Struct, frozen=True, kw_only=True):
    """The sound card's backend."""

    driver: str  # QEMU's word: pa, pipewire, alsa …
    why: str
    server: str = ""
    server_why: str = ""
