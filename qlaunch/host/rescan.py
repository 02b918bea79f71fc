"""The last resort for a card that no reset brings back: off the bus, and found again.

What the kernel knew of the device goes with it (drivers/pci/remove.c): the override, the power
setting and the list of reset methods are put back as they were, and a host driver has taken it by
then. The proof that nobody has it comes first, because a removal goes ahead under a running guest.
"""

from __future__ import annotations

from qlaunch.errors import HostError, Problem
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.host.pci import bind_to, set_override
from qlaunch.plan.steps import ResetDevices
from qlaunch.values import PciAddress


def capture(host: Host, step: ResetDevices) -> Captured:
    """Of each device, what is lost with it; while VFIO has it."""
    return {
        str(a): device.read_state(host, a)
        | {"d3cold_allowed": sysfs.read_text(device.pci_path(host, a) / "d3cold_allowed")}
        for a in step.addresses
    }


def rescan(host: Host, step: ResetDevices, captured: Captured) -> str:
    """Remove those that are VFIO's, look for all, and put back what was lost.

    May be called again after it was cut short: what is gone is looked for. Raises HostError when
    one is in use (nothing was written), does not come back, or is another device.
    """
    there = [a for a in step.addresses if device.pci_path(host, a).exists()]
    ours = [a for a in there if "vfio" in (device.read_driver(host, a) or "")]
    missing = [a for a in step.addresses if a not in there]
    for group in sorted({g for a in ours if (g := device.read_group(host, a)) is not None}):
        device.check_group_free(host, group)
    for address in reversed(ours):
        _write(host, f"sys/bus/pci/devices/{address}/remove", f"removing {address}")
    if ours or missing:
        _write(host, "sys/bus/pci/rescan", "looking for devices on the PCI bus")
        sysfs.wait_until(
            host, lambda: all(device.pci_path(host, a).exists() for a in step.addresses),
            "devices to appear on the PCI bus",
        )
    for address in (*ours, *missing):
        _check(host, address, captured[address])
        _restore_power(host, address, captured[address]["d3cold_allowed"])  # before VFIO has it
        _restore(host, address, captured[address], step)
    for address in step.addresses:  # also of one whose rescan was cut short
        _restore_power(host, address, captured[address]["d3cold_allowed"])
    if not ours and not missing:
        return ""
    return f"{', '.join((*ours, *missing))}: removed from the bus and found again"


def _write(host: Host, relative: str, what: str) -> None:
    try:
        sysfs.guarded_write(host, host.path(relative), "1", what)
    except OSError as error:
        raise HostError(
            Problem(f"{what} failed", where=f"/{relative}", found=error.strerror or str(error),
                    hint=sysfs.way_on(error))
        ) from error


def _check(host: Host, address: PciAddress, before: Captured) -> None:
    """It is there, it is the same, and it answers."""
    if not device.pci_path(host, address).exists():
        raise HostError(
            Problem(
                "the device did not come back on the PCI bus", where=address,
                hint="a cold restart of the host brings such a card back",
            )
        )
    found = device.read_id(host, address)
    if found != (before["id"], before["subsystem"]):
        raise HostError(
            Problem("another device answers at this address", where=address,
                    found=f"{found[0]} (subsystem {found[1]})",
                    allowed=f"{before['id']} (subsystem {before['subsystem']})")
        )
    if not device.is_alive(host, address):
        raise HostError(
            Problem(
                "the device does not answer after it was found again", where=address,
                found="config space reads all ones",
                hint=device.REVIVED,
            )
        )


def _restore(host: Host, address: PciAddress, before: Captured, step: ResetDevices) -> None:
    """Its override and power setting; its VFIO driver only where the profile leaves it there,
    since another has it in the end."""
    set_override(host, address, before["override"])
    if step.return_to == "vfio-pci":
        bind_to(host, address, before["driver"])


def _restore_power(host: Host, address: PciAddress, before: str | None) -> None:
    path = device.pci_path(host, address) / "d3cold_allowed"
    if before is None or sysfs.read_text(path) == before:
        return
    try:
        sysfs.guarded_write(host, path, before, f"writing d3cold_allowed of {address}")
    except OSError as error:
        raise HostError(
            Problem("d3cold_allowed cannot be put back", address, found=str(error),
                    hint=sysfs.way_on(error))
        ) from error
