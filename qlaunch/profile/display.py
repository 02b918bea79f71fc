"""How the machine is looked at: the emulated card, and what shows it on the host.

One flat table: a key that belongs to some kinds of viewing only is refused with the others by
`check_display.py`, which is loaded for profiles that say more than `type` and `vga`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import HostPath, Size

GL_CARDS = ("virtio-gl", "venus", "rutabaga")
# Texts with a form: told to editors here, and held by check_display.py.
FORMS = {
    "resolution": (r"^[1-9][0-9]{2,4}x[1-9][0-9]{2,4}$", 'a width and a height like "1920x1080"'),
    "listen": (
        r"^(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]*):[0-9]{4,5}$",
        'an address and a port like "127.0.0.1:5901"',
    ),
    "bus": (
        r"^(session|p2p|unix:[!-+\--~]+)$",
        '"session", "p2p", or a bus address like "unix:path=/run/bus"',
    ),
    "shared_file": (
        r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        "a file's name (letters, digits, . _ -, at most 64)",
    ),
}
Choice: TypeAlias = bool | None  # None: as QEMU does


class Display(Table, frozen=True):
    """How the machine is looked at from the host."""

    type: Annotated[
        Literal[
            "none", "auto", "gtk", "sdl", "vnc", "spice", "dbus", "egl-headless", "looking-glass"
        ],
        Meta(description='"auto" opens a window where there is a display; vnc and spice listen '
             'on a unix socket in the runtime directory, as a window without a display does, for '
             'qlaunch view; dbus is for viewers on the session bus; '
             '"looking-glass" shares memory with the Looking Glass client.'),
    ] = "none"
    vga: Annotated[
        Literal[
            "none", "std", "cirrus", "qxl", "virtio", "virtio-gl", "venus", "rutabaga", "ramfb",
            "bochs",
        ],
        Meta(description='Emulated card. "virtio-gl" gives the guest OpenGL, "venus" and '
             '"rutabaga" Vulkan, all by a GPU of the host.'),
    ] = "none"
    vga_memory: Annotated[
        Size | None,
        Meta(description='The emulated card\'s memory, e.g. "32M"; of a virtio card, how much '
             "memory of the host its pictures may take."),
    ] = None
    blob: Annotated[
        bool, Meta(description="Share a virtio or virtio-gl guest's pictures with the host instead "
                   "of copying them; venus and rutabaga always do.")
    ] = False
    hostmem: Annotated[
        Size | None,
        Meta(description='The window through which the guest sees GPU memory, a power of two such '
             'as "4G". When absent it is 8G of a venus or rutabaga card; the other virtio cards '
             "have one only when it is said, and use it with blob."),
    ] = None
    heads: Annotated[
        Annotated[int, Meta(ge=1, le=16)] | None,
        Meta(description="How many screens a qxl or virtio card has."),
    ] = None
    resolution: Annotated[
        str | None,
        Meta(extra_json_schema={"pattern": FORMS["resolution"][0]},
             description="The picture's size that the card asks the guest for, like "
             '"1920x1080"; of Looking Glass, the largest that has room.'),
    ] = None
    edid: Annotated[
        Choice, Meta(description="Whether the emulated card has a monitor's data (EDID).")
    ] = None
    cross_domain: Annotated[
        bool, Meta(description="Let programs in a rutabaga guest show their windows on the host's "
                   "Wayland desktop.")
    ] = False
    gfxstream: Annotated[
        bool, Meta(description="Give a rutabaga guest Vulkan by gfxstream; false leaves it "
                   "cross_domain alone.")
    ] = True
    gl: Annotated[
        bool | Literal["core", "es"] | None,
        Meta(description='Draw with OpenGL ("es": OpenGL ES, "core": without old functions); '
             "when absent, only for a card that needs it."),
    ] = None
    render_node: Annotated[
        HostPath | None,
        Meta(description="The GPU to draw with where there is no window, e.g. "
             '"/dev/dri/renderD128"; the first that is not handed to a guest when absent.'),
    ] = None
    full_screen: Annotated[bool, Meta(description="Open the window full screen.")] = False
    zoom_to_fit: Annotated[
        Choice, Meta(description="Scale the picture with the GTK window.")
    ] = None
    show_menubar: Annotated[
        Choice, Meta(description="Show the GTK window's menu.")
    ] = None
    show_tabs: Annotated[
        Choice, Meta(description="Show a tab for each screen in the GTK window.")
    ] = None
    show_cursor: Annotated[
        Choice, Meta(description="Show the host's pointer over the window too.")
    ] = None
    window_close: Annotated[
        Choice,
        Meta(description="Whether closing the window turns the machine off, as it does when "
             "absent."),
    ] = None
    grab_on_hover: Annotated[
        Choice, Meta(description="Take the keyboard when the pointer enters the GTK window.")
    ] = None
    grab_mod: Annotated[
        Literal["lctrl-lalt", "lshift-lctrl-lalt", "rctrl"] | None,
        Meta(description="The keys that free the pointer from an SDL window; left Ctrl and Alt "
             "when absent."),
    ] = None
    listen: Annotated[
        str | None,
        Meta(extra_json_schema={"pattern": FORMS["listen"][0]},
             description='Where VNC listens instead of its unix socket, e.g. "127.0.0.1:5901".'),
    ] = None
    password_file: Annotated[
        HostPath | None,
        Meta(description="A file with the VNC password in its first line, of at most 8 "
             "characters."),
    ] = None
    compression: Annotated[
        bool, Meta(description="Let SPICE compress pictures, sound and video; over a unix socket "
                   "that only costs time.")
    ] = False
    agent_mouse: Annotated[
        Choice, Meta(description="Whether SPICE's agent in the guest moves the pointer.")
    ] = None
    copy_paste: Annotated[
        bool, Meta(description="Share the clipboard with a SPICE viewer.")
    ] = True
    file_transfer: Annotated[
        bool, Meta(description="Let a SPICE viewer drop files into the guest.")
    ] = True
    bus: Annotated[
        str,
        Meta(extra_json_schema={"pattern": FORMS["bus"][0]},
             description='The bus that a dbus display is on: the user\'s "session" bus, the '
             'address of another, or "p2p" for viewers that are let in through QMP.'),
    ] = "session"
    hdr: Annotated[
        bool, Meta(description="Make room for HDR pictures in Looking Glass's memory.")
    ] = False
    shared_file: Annotated[
        str,
        Meta(extra_json_schema={"pattern": FORMS["shared_file"][0]},
             description="The name below /dev/shm of the memory shared with Looking Glass."),
    ] = "looking-glass"
    kvmfr: Annotated[
        HostPath | None,
        Meta(description="The kvmfr module's device for Looking Glass instead of a file in "
             '/dev/shm, e.g. "/dev/kvmfr0".'),
    ] = None
