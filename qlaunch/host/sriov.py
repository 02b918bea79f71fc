"""Virtual functions: switched on by the first machine that wants one, off with the last.

Which count was there before is kept beside the machines' directories, because whoever ends last
puts it back, and that need not be whoever came first. A count that somebody else set is left
alone. Switching them off while one is in use hangs, and with it every reader of the count and the
whole bus's rescan, so each is proven free first.
"""

from __future__ import annotations

import errno
from pathlib import Path

from msgspec import Struct

from qlaunch.errors import HostError, Problem
from qlaunch.host import device, notes, sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.host.net import ask
from qlaunch.plan.steps import EnableVfs, SetVfNet
from qlaunch.values import PciAddress

_DRIVER = "see dmesg for the driver's reason"
_HINTS = {
    errno.ERANGE: "sriov_totalvfs of the device says how many it can have",
    errno.EBUSY: "its virtual functions are switched on already, by somebody else",
    errno.ENOENT: "no driver that can switch them on is bound to it",
    errno.ENOSYS: "its driver cannot switch virtual functions on",
    errno.ENOMEM: "the firmware gave the device no room for them: enable SR-IOV in its setup, or "
    "try pci=realloc on the kernel command line",
    errno.EPERM: "this needs root",
}


class _Before(Struct, frozen=True):
    """What the first machine found; `count` is what it switched on."""

    autoprobe: str | None
    count: int


class EnableVfsHandler:
    """sriov_drivers_autoprobe off, then sriov_numvfs."""

    def capture(self, host: Host, step: EnableVfs) -> Captured:
        """The count and the autoprobe switch."""
        device.check_present(host, step.address)
        path = device.pci_path(host, step.address)
        return {
            "count": _count(host, step.address),
            "autoprobe": sysfs.read_text(path / "sriov_drivers_autoprobe"),
        }

    def apply(self, host: Host, step: EnableVfs, captured: Captured) -> None:
        """Switch them on, without host drivers, when none is on. Raises HostError with the
        kernel's reason, or when a function is not where the plan expects it."""
        if captured["count"] == 0:
            # A note that a dead run left knows the switch as it was before that run.
            left = _read_note(host, step.address)
            before = left.autoprobe if left is not None else captured["autoprobe"]
            _write_note(host, step.address, _Before(before, step.count))
            if captured["autoprobe"] is not None:
                _write(host, step.address, "sriov_drivers_autoprobe", "0")
            _write(host, step.address, "sriov_numvfs", str(step.count))
            if _count(host, step.address) != step.count:
                raise HostError(Problem("the virtual functions were not switched on",
                                        where=step.address, hint=_DRIVER))
        for number, address in step.uses:
            _check_function(host, step, number, address, ours=captured["count"] == 0)

    def undo(self, host: Host, step: EnableVfs, captured: Captured) -> str | None:
        """Switch them off when qlaunch switched them on and none is in use by now."""
        note = _read_note(host, step.address)
        if note is None:
            return None
        device.check_present(host, step.address)
        count = _count(host, step.address)
        if count not in (0, note.count):
            _restore_switch(host, step.address, note)
            return f"{step.address} keeps its {count} virtual functions: somebody else set them"
        users = [a for a in _functions(host, step.address) if _is_used(host, a)]
        own = [a for _, a in step.uses if a in users]
        if own:
            raise HostError(Problem("the virtual function is still in use", where=own[0],
                                    hint=f"qlaunch devices {own[0]} tells what has it: end that"))
        if users:
            return f"the virtual functions of {step.address} stay on: {users[0]} is in use"
        if count:
            _write(host, step.address, "sriov_numvfs", "0")
        _restore_switch(host, step.address, note)
        return f"the virtual functions of {step.address} are off" if count else None


def _restore_switch(host: Host, address: PciAddress, note: _Before) -> None:
    """sriov_drivers_autoprobe as it was before the first machine; nothing is noted any more."""
    if note.autoprobe is not None:
        _write(host, address, "sriov_drivers_autoprobe", note.autoprobe)
    _forget_note(host, address)


def _write(host: Host, address: PciAddress, name: str, text: str) -> None:
    path = device.pci_path(host, address) / name
    if sysfs.read_text(path) == text:
        return
    try:
        sysfs.guarded_write(host, path, text, f"writing {name} of {address}")
    except OSError as error:
        raise HostError(
            Problem(f"{name} cannot be set to {text}", where=address, found=error.strerror or "",
                    hint=_HINTS.get(error.errno or 0, _DRIVER))
        ) from error


def _count(host: Host, address: PciAddress) -> int:
    """How many are on. The file takes the device's lock, so a hang elsewhere is waited for."""
    path = device.pci_path(host, address) / "sriov_numvfs"
    found = sysfs.guarded_read(host, lambda: sysfs.read_number(path), f"reading {address}")
    if found is None:
        raise HostError(Problem("the device has no virtual functions", where=address,
                                hint="qlaunch devices --vgpu lists the devices that have some"))
    return int(found)


def _functions(host: Host, address: PciAddress) -> list[PciAddress]:
    path = device.pci_path(host, address)
    return [PciAddress(link.readlink().name) for link in sorted(path.glob("virtfn*"))]


def _is_used(host: Host, address: PciAddress) -> bool:
    """By any driver: VFIO's means a guest or a hand, another the host."""
    return device.read_driver(host, address) is not None


def _check_function(
    host: Host, step: EnableVfs, number: int, address: PciAddress, *, ours: bool
) -> None:
    parent = step.address
    link = device.pci_path(host, parent) / f"virtfn{number}"
    there = sysfs.wait_until(
        host, lambda: sysfs.read_link_name(link) is not None, f"{address} to appear"
    )
    found = sysfs.read_link_name(link) if there else None
    if found != address:
        raise HostError(
            Problem(f"virtual function {number} is not where it was expected", where=parent,
                    found=found or "none", allowed=address,
                    hint=_by_hand(step) if ours else "start again, and the plan sees it")
        )
    group = device.read_group(host, address)
    if group is not None and group == device.read_group(host, parent):
        raise HostError(
            Problem(
                f"{address} shares IOMMU group {group} with {parent}, which the host keeps",
                where=address, hint="the port above them has no ACS; try another slot of the board",
            )
        )


def _by_hand(step: EnableVfs) -> str:
    """Ours are off again before anybody can plan with where they are."""
    path = f"/sys/bus/pci/devices/{step.address}"
    return (
        f"echo 0 | sudo tee {path}/sriov_drivers_autoprobe; "
        f"echo {step.count} | sudo tee {path}/sriov_numvfs; "
        "then start again, and the plan sees them"
    )


def _note_path(host: Host, address: PciAddress) -> Path:
    return host.path(f"run/qlaunch/.sriov/{address}")


def _read_note(host: Host, address: PciAddress) -> _Before | None:
    return notes.read(_note_path(host, address), _Before)


def _write_note(host: Host, address: PciAddress, note: _Before) -> None:
    notes.write(_note_path(host, address), note, mode=0o700)


def _forget_note(host: Host, address: PciAddress) -> None:
    _note_path(host, address).unlink(missing_ok=True)


class SetVfNetHandler:
    """MAC address and VLAN, set on the physical function's link."""

    def capture(self, host: Host, step: SetVfNet) -> Captured:
        """What the function has now, and the link. Raises HostError when there is no link."""
        link = _link(host, step.address)
        found = ask(host, "vf", ifname=link, number=step.number)
        return {"link": link, "mac": found["mac"], "vlan": found["vlan"]}

    def apply(self, host: Host, step: SetVfNet, captured: Captured) -> None:
        """Raises HostError with the driver's reason."""
        ask(
            host, "set_vf", ifname=captured["link"], number=step.number, mac=step.mac,
            vlan=step.vlan,
        )

    def undo(self, host: Host, step: SetVfNet, captured: Captured) -> str | None:
        """Set what was there; nothing when the card's link or the function is gone."""
        path = device.pci_path(host, step.address) / "net"
        links = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
        function = device.pci_path(host, step.address) / f"virtfn{step.number}"
        if not links or not function.is_symlink():
            return None
        ask(
            host, "set_vf", ifname=links[0], number=step.number,
            mac=captured["mac"] if step.mac else None,
            vlan=captured["vlan"] if step.vlan is not None else None,
        )
        return None


def _link(host: Host, address: PciAddress) -> str:
    path = device.pci_path(host, address) / "net"
    links = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    if not links:
        raise HostError(
            Problem("the device is no network card with a link", where=address,
                    hint="mac and vlan are for network cards' virtual functions")
        )
    return links[0]

