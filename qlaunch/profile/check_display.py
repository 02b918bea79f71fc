"""Rules about the screen: keys that go together, and keys that one kind of viewing has only.

A key without effect is a warning, because a profile is looked at in several ways by
`--set display.type=…`; what cannot work, or would let strangers in, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.display import FORMS, Display
from qlaunch.profile.keys import quote
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile

_WINDOWS = ("auto", "gtk", "sdl")
_VIRTIO = ("virtio", "virtio-gl", "venus", "rutabaga")
_SPICE = ("spice", "looking-glass")
# key -> the display types that it means something for
TYPES_OF: dict[str, tuple[str, ...]] = {
    "gl": (*_WINDOWS, "spice", "vnc", "dbus", "egl-headless"),
    "render_node": ("spice", "vnc", "dbus", "egl-headless"),
    "full_screen": _WINDOWS, "zoom_to_fit": ("auto", "gtk"), "show_menubar": ("auto", "gtk"),
    "show_tabs": ("auto", "gtk"), "grab_on_hover": ("auto", "gtk"), "grab_mod": ("auto", "sdl"),
    "show_cursor": _WINDOWS, "window_close": _WINDOWS,
    "listen": ("vnc",), "password_file": ("vnc",), "bus": ("dbus",),
    "compression": _SPICE, "agent_mouse": _SPICE, "copy_paste": _SPICE, "file_transfer": _SPICE,
    "hdr": ("looking-glass",), "shared_file": ("looking-glass",), "kvmfr": ("looking-glass",),
}  # fmt: skip
# key -> the emulated cards that have it
CARDS_OF: dict[str, tuple[str, ...]] = {
    "vga_memory": ("std", "cirrus", "qxl", "bochs", *_VIRTIO),
    "hostmem": _VIRTIO, "blob": _VIRTIO, "cross_domain": ("rutabaga",),
    "gfxstream": ("rutabaga",),
    "heads": ("qxl", *_VIRTIO), "edid": ("std", "bochs", *_VIRTIO),
    "resolution": ("std", "qxl", "bochs", *_VIRTIO),
}  # fmt: skip
_GL_TYPES = ("auto", "gtk", "sdl", "spice", "vnc", "dbus", "egl-headless")
_VNC_PORTS = (5900, 65535)
_MAX_SIDE = 16384  # of a surface that Direct3D 11 and 12 can draw on
_WHOLE_MIB = {"std": (1, 512), "qxl": (8, 512), "cirrus": (4, 16), "bochs": (4, 256)}


def check_forms(profile: Profile) -> Iterator[Finding]:
    """Texts with a form have it."""
    for key, (pattern, form) in FORMS.items():
        text = getattr(profile.display, key)
        if text is not None and not re.match(pattern, text):
            yield Finding(("display", key), Problem(f"expected {form}", found=quote(text)))


def check_idle(profile: Profile) -> Iterator[Finding]:
    """A key that this way of viewing, or this card, does not have."""
    display, plain = profile.display, Display()
    for key, types in TYPES_OF.items():
        if getattr(display, key) != getattr(plain, key) and display.type not in types:
            yield _idle(key, "type", display.type, types)
    for key, cards in CARDS_OF.items():
        used = display.vga in cards or (key == "resolution" and display.type == "looking-glass")
        if getattr(display, key) != getattr(plain, key) and not used:
            yield _idle(key, "vga", display.vga, cards)


def _idle(key: str, other: str, found: str, allowed: tuple[str, ...]) -> Finding:
    problem = Problem(
        f'this has no effect with {other} = "{found}"',
        allowed=f"with {other} = " + ", ".join(f'"{name}"' for name in allowed),
        severity="warning",
    )
    return Finding(("display", key), problem, also=(("display", other),))


def check_gl(profile: Profile) -> Iterator[Finding]:
    """QEMU refuses a card that draws with OpenGL when its display does not."""
    display = profile.display
    if display.vga in ("virtio-gl", "venus"):
        said = f'type = "{display.type}"' + (", gl = false" if display.gl is False else "")
        if display.type not in _GL_TYPES or display.gl is False:
            yield Finding(
                ("display", "vga"),
                Problem(f"a {display.vga} card needs a display with OpenGL", found=said,
                        allowed=", ".join(f'"{name}"' for name in _GL_TYPES),
                        hint='for a machine that nobody looks at: type = "egl-headless"'),
                also=(("display", "type"), ("display", "gl")),
            )
    if display.type == "egl-headless" and display.gl is False:
        yield Finding(
            ("display", "gl"), Problem('egl-headless is nothing but OpenGL', found="gl = false",
                                       hint='use type = "none"'),
        )
    if display.type == "spice" and isinstance(display.gl, str):
        yield Finding(
            ("display", "gl"), Problem("SPICE takes the OpenGL there is", found=quote(display.gl),
                                       allowed="true, false"),
        )


def check_card(profile: Profile) -> Iterator[Finding]:
    """Sizes that the card can have."""
    display = profile.display
    memory, limits = display.vga_memory, _WHOLE_MIB.get(display.vga)
    if memory is not None and limits is not None:
        mib, rest = divmod(int(memory), 1 << 20)
        if rest or mib & (mib - 1) or not limits[0] <= mib <= limits[1]:
            yield Finding(
                ("display", "vga_memory"),
                Problem(f"a {display.vga} card cannot have this much", found=str(memory),
                        allowed=f"a power of two from {limits[0]}M to {limits[1]}M"),
                also=(("display", "vga"),),
            )
    width, _, height = (display.resolution or "").partition("x")
    if limits is not None and memory is None and width.isdecimal() and height.isdecimal():
        need = -(-int(width) * int(height) * 4 >> 20)
        if need > limits[1]:
            yield Finding(
                ("display", "resolution"),
                Problem(f"a {display.vga} card has no memory for this", found=f"{need} MiB",
                        allowed=f"{limits[1]} MiB"),
                also=(("display", "vga"),),
            )
    hostmem = display.hostmem
    if hostmem is not None and (hostmem & (hostmem - 1) or hostmem < 1 << 20):
        yield Finding(
            ("display", "hostmem"),
            Problem("a PCI window is a power of two", found=str(hostmem),
                    allowed='"256M", "1G", "8G" …'),
        )


def check_flavour(profile: Profile) -> Iterator[Finding]:
    """Parts of a virtio card that are nothing without another."""
    display = profile.display
    if display.hostmem is not None and display.vga in ("virtio", "virtio-gl") and not display.blob:
        problem = Problem("this has no effect without blob", hint="set blob = true",
                          severity="warning")
        yield Finding(("display", "hostmem"), problem, also=(("display", "blob"),))
    if display.vga == "rutabaga" and not (display.gfxstream or display.cross_domain):
        problem = Problem("a rutabaga card can do nothing then", found="gfxstream = false",
                          hint="set cross_domain = true, or leave gfxstream out")
        yield Finding(("display", "gfxstream"), problem, also=(("display", "cross_domain"),))


def check_listen(profile: Profile) -> Iterator[Finding]:
    """VNC on TCP lets in whoever reaches it: other machines only with a password."""
    display = profile.display
    match = re.match(FORMS["listen"][0], display.listen or "")
    if match is None or display.type != "vnc":
        return
    host, _, port = match[0].rpartition(":")
    if not _VNC_PORTS[0] <= int(port) <= _VNC_PORTS[1]:
        yield Finding(("display", "listen"), Problem(
            "VNC has no such port", found=port, allowed=f"{_VNC_PORTS[0]} to {_VNC_PORTS[1]}"))
    local = host in ("localhost", "[::1]") or host.startswith("127.")
    hint = 'password_file = "FILE"; or leave listen out: then it is a unix socket of yours'
    if not local and display.password_file is None:
        yield Finding(("display", "listen"), Problem(
            "VNC without a password for all who reach this address", found=quote(host or "all"),
            allowed='"127.0.0.1:5901", or a password_file', hint=hint))
    elif display.password_file is None:
        yield Finding(("display", "listen"), Problem(
            "every user of this host can look at the machine", found="no password_file",
            hint=hint, severity="warning"))
    elif not local:
        yield Finding(("display", "listen"), Problem(
            "a VNC password is at most 8 characters, and nothing is encrypted", found=quote(host),
            hint="listen on 127.0.0.1 and go through ssh -L", severity="warning"))


def check_looking_glass(profile: Profile) -> Iterator[Finding]:
    """Its memory has a size that follows from something."""
    display = profile.display
    if display.type != "looking-glass":
        return
    if display.resolution is None and display.kvmfr is None:
        yield Finding(("display", "type"), Problem(
            "Looking Glass's memory depends on the resolution", allowed="resolution, or kvmfr",
            hint='resolution = "1920x1080", the largest that the guest will use'))
    sides = re.findall("[0-9]+", display.resolution or "")
    if any(int(side) > _MAX_SIDE for side in sides):
        yield Finding(("display", "resolution"), Problem(
            "no graphics card draws so large a picture", found=quote(display.resolution or ""),
            allowed=f"up to {_MAX_SIDE} each way",
            hint="the largest resolution that the guest will use: two such pictures are kept"))
    if display.kvmfr is not None and not re.fullmatch(r"/dev/kvmfr[0-9]{1,3}", display.kvmfr):
        yield Finding(("display", "kvmfr"), Problem(
            "this is no kvmfr device", found=quote(display.kvmfr), allowed='"/dev/kvmfr0"'))


DISPLAY_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_forms, check_idle, check_gl, check_card, check_flavour, check_listen,
    check_looking_glass,
)
