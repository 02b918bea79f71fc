"""Which package brings a part of QEMU that distributions split off, by what the part is.

Debian 12 has OpenGL, D-Bus and SPICE in qemu-system-common, which is always installed; since
Debian 13 (and its backports) they are packages of their own. Fedora and Arch have one package a
module. Sources: the packages' file lists (dpkg -L, qemu.spec, Arch's qemu PKGBUILD).
"""

from __future__ import annotations

from typing import NamedTuple


class Package(NamedTuple):
    """What to install; "" where the distribution does not build the part at all."""

    debian: str
    fedora: str
    arch: str
    since: str = ""  # the QEMU that first had it, where that is not long ago


_GUI = "qemu-system-gui"
_GL = "qemu-system-modules-opengl"
_SPICE = "qemu-system-modules-spice"


def _ui(name: str, debian: str) -> Package:
    return Package(debian, f"qemu-ui-{name}", f"qemu-ui-{name}")


def _audio(name: str, debian: str, since: str = "") -> Package:
    return Package(debian, f"qemu-audio-{name}", f"qemu-audio-{name}", since)


def _card(name: str, debian: str, since: str = "") -> Package:
    return Package(debian, f"qemu-device-display-{name}", f"qemu-hw-display-{name}", since)


# "display TYPE", "audiodev DRIVER", or a device type (with the property that a choice needs)
PACKAGES: dict[str, Package] = {
    "display gtk": _ui("gtk", _GUI),
    "display sdl": _ui("sdl", _GUI),
    "display dbus": _ui("dbus", _GL),
    "display egl-headless": _ui("egl-headless", _GL),
    "display spice": _ui("spice-core", _SPICE),
    "audiodev pipewire": _audio("pipewire", _GUI, "8.1"),
    "audiodev pa": _audio("pa", _GUI),
    "audiodev jack": _audio("jack", _GUI),
    "audiodev sdl": _audio("sdl", _GUI),
    "audiodev alsa": _audio("alsa", "qemu-system-common"),
    "audiodev oss": _audio("oss", "qemu-system-common"),
    "audiodev dbus": _audio("dbus", _GL),
    "audiodev spice": _audio("spice", _SPICE),
    "qxl-vga": _card("qxl", _SPICE),
    "virtio-vga": _card("virtio-vga", "qemu-system-common"),
    "virtio-vga-gl": _card("virtio-vga-gl", _GL),
    "virtio-vga-gl.venus": _card("virtio-vga-gl", f"{_GL} of Debian 13", "9.2"),
    "virtio-vga-rutabaga": _card("virtio-vga-rutabaga", "", "8.2"),
    "virtio-sound-pci": Package("qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86",
                                "8.2"),
}


def install_hint(part: str, version: tuple[int, ...] = ()) -> str:
    """What to install for a key of PACKAGES; "" for a part that is in none of its own."""
    package = PACKAGES.get(part)
    if package is None:
        return ""
    names = [
        f"{name} ({distribution})"
        for name, distribution in ((package.debian, "Debian"), (package.fedora, "Fedora"),
                                   (package.arch, "Arch"))
        if name
    ]
    hint = f"install {', '.join(names)}" + ("" if package.debian else "; Debian does not build it")
    if package.since and version and version < tuple(int(n) for n in package.since.split(".")):
        return f"it came with QEMU {package.since}; with that, {hint}"
    return hint
