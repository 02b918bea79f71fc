"""Taking the host's console off a card, for kernels before 6.0.

Newer ones do it when VFIO gets a display (drivers/vfio/pci/vfio_pci_core.c vfio_pci_vga_init, by
aperture_remove_conflicting_pci_devices). On older ones fbcon stays bound to the card's framebuffer,
and the firmware's own (efifb and others, platform devices) keeps the boot card's memory, so that
QEMU cannot map it ("BAR: can't reserve"). Files: fb/fbcon.rst of the kernel's Documentation.
"""

from __future__ import annotations

import os
from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.values import PciAddress

_FIRMWARE = ("efi-framebuffer", "vesa-framebuffer", "simple-framebuffer")  # platform drivers
_FBCON = "frame buffer device"  # in the name of the console that draws on /dev/fbN


def capture(host: Host, address: PciAddress) -> Captured:
    """{"consoles": {"vtcon1": "1"}, "firmware": [["efi-framebuffer", "efi-framebuffer.0"]]} of
    what this card shows; both empty when it shows nothing."""
    firmware = _firmware(host) if _is_boot_card(host, address) else []
    consoles = _consoles(host) if firmware or _has_framebuffer(host, address) else {}
    return {"consoles": consoles, "firmware": firmware}


def release(host: Host, address: PciAddress, captured: Captured) -> None:
    """Unbind them. Raises HostError with the kernel's reason, StuckError."""
    for name in captured["consoles"]:
        _set_console(host, address, name, "0")
    for driver, name in captured["firmware"]:
        _write(host, address, _driver(host, driver) / "unbind", name, f"taking {name} off")
        if _is_bound(host, driver, name):
            raise _refused(address, f"{name} stays on the card", "")


def restore(host: Host, address: PciAddress, captured: Captured) -> None:
    """Bind what was bound, the console last. Raises as `release` does."""
    for driver, name in captured["firmware"]:
        if not _is_bound(host, driver, name):
            _write(host, address, _driver(host, driver) / "bind", name, f"giving {name} back")
    for name, bound in captured["consoles"].items():
        _set_console(host, address, name, bound)


def _set_console(host: Host, address: PciAddress, name: str, wanted: str) -> None:
    path = host.path(f"sys/class/vtconsole/{name}/bind")
    if sysfs.read_text(path) == wanted:
        return
    what = "taking the console off" if wanted == "0" else "giving the console back"
    _write(host, address, path, wanted, f"{what} ({name})")
    now = sysfs.read_text(path)
    if now != wanted:
        raise _refused(address, f"{what} ({name}) failed", f"bind reads {now}")


def _write(host: Host, address: PciAddress, path: Path, text: str, what: str) -> None:
    try:
        sysfs.guarded_write(host, path, text, what)
    except OSError as error:
        raise _refused(address, f"{what} failed", error.strerror or str(error)) from error


def _refused(address: PciAddress, message: str, found: str) -> HostError:
    return HostError(Problem(message, where=address, found=found,
                             hint="sudo dmesg | tail; a text console is bound again by: "
                             "echo 1 | sudo tee /sys/class/vtconsole/vtcon1/bind"))


def _is_boot_card(host: Host, address: PciAddress) -> bool:
    return sysfs.read_text(device.pci_path(host, address) / "boot_vga") == "1"


def _has_framebuffer(host: Host, address: PciAddress) -> bool:
    """A driver's own: /dev/fbN of the card."""
    return any((device.pci_path(host, address) / "graphics").glob("fb*"))


def _consoles(host: Host) -> dict[str, str]:
    """Those that are bound and draw on framebuffers."""
    found = {}
    for path in sorted(host.path("sys/class/vtconsole").glob("vtcon*")):
        bound = sysfs.read_text(path / "bind")
        if bound == "1" and _FBCON in (sysfs.read_text(path / "name") or ""):
            found[path.name] = bound
    return found


def _firmware(host: Host) -> list[list[str]]:
    return [
        [driver, path.name] for driver in _FIRMWARE
        for path in sorted(_driver(host, driver).glob("*.*")) if os.path.islink(path)  # noqa: PTH114
    ]


def _driver(host: Host, driver: str) -> Path:
    return host.path(f"sys/bus/platform/drivers/{driver}")


def _is_bound(host: Host, driver: str, name: str) -> bool:
    return os.path.islink(_driver(host, driver) / name)  # noqa: PTH114
