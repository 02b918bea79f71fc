"""Which package brings a part of QEMU that distributions split off, by what the part is.

Debian 12 has OpenGL, D-Bus and SPICE in qemu-system-common, which is always installed; since
Debian 13 (and its backports) they are packages of their own. Fedora and Arch have one package a
module; what is no module is in the package with QEMU itself, which a build for something else (Xen,
cloud guests, RHEL's) may lack. Sources: the packages' file lists (dpkg -L, qemu.spec, Arch's qemu
PKGBUILD).
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


def _usb(name: str) -> Package:
    return Package("qemu-system-common", f"qemu-device-usb-{name}", f"qemu-hw-usb-{name}")


def _card(name: str, debian: str, since: str = "") -> Package:
    return Package(debian, f"qemu-device-display-{name}", f"qemu-hw-display-{name}", since)


# "display TYPE", "audiodev DRIVER", or a device type (with the property that a choice needs)
PACKAGES: dict[str, Package] = {
    "display gtk": _ui("gtk", _GUI),
    "display sdl": _ui("sdl", _GUI),
    "display dbus": _ui("dbus", _GL),
    "display egl-headless": _ui("egl-headless", _GL),
    # A display of SPICE and the channels to its viewer (spicevmc) are two modules.
    "display spice": Package(_SPICE, "qemu-ui-spice-core and qemu-char-spice",
                             "qemu-ui-spice-core and qemu-chardev-spice"),
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
    "usb-host": _usb("host"),
    "usb-redir": _usb("redirect"),
}
CORE = Package("qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86")
PACKAGES |= dict.fromkeys((
    "AC97", "VGA", "ahci", "amd-iommu", "bochs-display", "cirrus-vga", "e1000", "e1000e",
    "hda-duplex", "hda-micro", "hda-output", "i6300esb", "ich9-intel-hda", "ich9-usb-ehci1",
    "ich9-usb-uhci1", "ide-cd", "ide-hd", "intel-hda", "intel-iommu", "isa-debugcon",
    "isa-parallel", "isa-serial", "ivshmem-plain", "lsi53c895a", "megasas", "nvme", "pci-bridge",
    "pci-serial", "piix3-usb-uhci", "pvpanic", "pvpanic-pci", "pvscsi", "qemu-xhci", "ramfb",
    "rtl8139", "scsi-cd", "scsi-hd", "tpm-crb", "tpm-tis", "usb-audio", "usb-bot", "usb-hub",
    "usb-kbd", "usb-mouse", "usb-serial", "usb-storage", "usb-tablet", "vfio-pci",
    "vfio-pci-nohotplug", "vhost-user-fs-pci", "vhost-vsock-pci", "virtconsole", "virtio-9p-pci",
    "virtio-blk-pci", "virtio-iommu-pci", "virtio-keyboard-pci", "virtio-mouse-pci",
    "virtio-net-pci", "virtio-rng-pci", "virtio-scsi-pci", "virtio-serial-pci",
    "virtio-tablet-pci", "virtserialport", "vmcoreinfo", "vmxnet3",
), CORE)  # fmt: skip
PACKAGES |= {
    "virtio-multitouch-pci": CORE._replace(since="8.1"),
    "virtio-sound-pci": CORE._replace(since="8.2"),
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
    if package[:3] == CORE[:3]:
        hint += "; another QEMU can be named with [qemu] binary"
    if package.since and version and version < tuple(int(n) for n in package.since.split(".")):
        return f"it came with QEMU {package.since}; with that, {hint}"
    return hint
