"""Giving USB devices back: each interface to the driver it had.

QEMU (libusb) detaches the drivers and attaches them again when it ends well. When it is killed
the kernel leaves the interfaces alone, so what has no driver then is probed once more
(/sys/bus/usb/drivers_probe, drivers/base/bus.c). A device that was unplugged needs nothing.
"""

from __future__ import annotations

from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import LendUsb

_AGAIN = "unplug the device and plug it in again"


class LendUsbHandler:
    """The interfaces of one device."""

    def capture(self, host: Host, step: LendUsb) -> Captured:
        """Interface → driver (None: it had none), of every device that the step may mean."""
        return {
            "drivers": {
                interface.name: sysfs.read_link_name(interface / "driver")
                for device in _devices(host, step) for interface in _interfaces(device)
            }
        }

    def apply(self, host: Host, step: LendUsb, captured: Captured) -> None:
        """Nothing: QEMU takes the interfaces. Raises HostError when another device is there now."""
        if step.name and step.id and _directory(host, step.name).exists() and (
            not _devices(host, step)
        ):
            raise HostError(
                Problem("another USB device is plugged in there now", where=step.name,
                        found=_identity(_directory(host, step.name)), allowed=step.id)
            )

    def undo(self, host: Host, step: LendUsb, captured: Captured) -> str | None:
        """Probe interfaces that are left without a driver. Raises HostError when one stays so."""
        before: dict[str, str | None] = captured["drivers"]
        back: list[str] = []
        for device in _devices(host, step):
            for interface in _interfaces(device):
                if before.get(interface.name, "") is None:
                    continue  # it had none
                if sysfs.read_link_name(interface / "driver") is None:
                    self._probe(host, interface, before.get(interface.name))
                driver = sysfs.read_link_name(interface / "driver")
                if driver and interface.name in before:
                    back.append(driver)
        where = f"the USB device {step.name or step.id or step.serial}"
        return f"{where} is back on {', '.join(dict.fromkeys(back))}" if back else None

    def _probe(self, host: Host, interface: Path, before: str | None) -> None:
        path = host.path("sys/bus/usb/drivers_probe")
        name = interface.name
        try:
            sysfs.guarded_write(host, path, name, f"probing the USB interface {name}")
        except OSError as error:
            if not interface.exists():
                return  # unplugged meanwhile
            raise HostError(
                Problem("the USB interface cannot be given back", name, found=str(error),
                        hint=_AGAIN)
            ) from error
        if before and interface.exists() and (
            sysfs.read_link_name(interface / "driver") is None
        ):
            raise HostError(
                Problem("the USB interface stays without a driver", name, allowed=before,
                        hint=_AGAIN)
            )


def _directory(host: Host, name: str) -> Path:
    return host.path(f"sys/bus/usb/devices/{name}")


def _devices(host: Host, step: LendUsb) -> list[Path]:
    """The devices that are plugged in now and that the step means."""
    bus = host.path("sys/bus/usb/devices")
    if step.name:
        names = [step.name]
    else:
        names = sorted(p.name for p in bus.iterdir()) if bus.is_dir() else []
    return [
        bus / name for name in names
        if ":" not in name and (bus / name).exists()
        and step.id in ("", _identity(bus / name))
        and step.serial in ("", sysfs.read_text(bus / name / "serial"))
    ]


def _identity(device: Path) -> str:
    parts = [sysfs.read_text(device / name) or "" for name in ("idVendor", "idProduct")]
    return ":".join(parts)


def _interfaces(device: Path) -> list[Path]:
    return sorted(device.glob(f"{device.name}:*"))
