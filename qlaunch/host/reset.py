"""Resetting a card before the host gets it back, and which method the kernel uses for it.

A reset through sysfs succeeds under a running guest (pci-sysfs.c reset_store asks nobody), so it
is written only after the IOMMU group was proven free. `reset_method` of function 0 can be stale:
it was probed before its siblings existed and still lists `bus`, which only a device alone on its
bus has (drivers/pci/pci.c pci_parent_bus_reset). Writing `default` would probe again, and could
not be taken back: the kernel refuses the old text. So "auto" leaves the list alone, and a reset
that says ENOTTY is no fault: VFIO resets the whole bus at the last close. "default" does write it,
and what then cannot be put back is told.
"""

from __future__ import annotations

import errno

from qlaunch.errors import HostError, Problem, StuckError
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import ResetDevices
from qlaunch.values import PciAddress

NO_METHOD = "no reset method: the kernel resets the bus at last close"


class ResetDevicesHandler:
    """Planned after TakeDevice, so that its undo runs while the devices are still VFIO's."""

    def capture(self, host: Host, step: ResetDevices) -> Captured:
        """Each function's reset_method text; None where there is no such file."""
        for address in step.addresses:
            device.check_present(host, address)
        state: Captured = {
            "methods": {str(a): _read_methods(host, a) for a in step.addresses},
            "physfn": {str(a): device.read_physfn(host, a) for a in step.addresses},
        }
        if step.method == "rescan":
            from qlaunch.host import rescan

            state["rescan"] = rescan.capture(host, step)
        return state

    def apply(self, host: Host, step: ResetDevices, captured: Captured) -> None:
        """Set the named method; "auto", "none" and "rescan" write nothing.

        Raises HostError with what the kernel allows when it refuses the method.
        """
        if step.method in ("auto", "none", "rescan"):
            return
        for address in step.addresses:
            before = captured["methods"][address]
            if step.method != "default" or before is not None:  # before 5.15 there is no list
                _set_method(host, address, step.method, before)

    def undo(self, host: Host, step: ResetDevices, captured: Captured) -> str | None:
        """Reset every function that has a method, then restore the methods' text.

        Raises HostError when a group is in use (nothing was written) or when a function did not
        reset or does not answer; the others were reset all the same and all lists restored.
        """
        told: list[str] = []
        physfn = captured.get("physfn", {})
        there = [a for a in step.addresses if not device.is_switched_off(host, a, physfn.get(a))]
        if step.method == "rescan":
            from qlaunch.host import rescan

            told += filter(None, [rescan.rescan(host, step, captured["rescan"])])
        resets = [] if step.method in ("none", "rescan") else [
            a for a in there if _is_ours(host, a)
        ]
        groups = {device.read_group(host, a) for a in resets}
        for group in sorted(g for g in groups if g is not None):
            device.check_group_free(host, group)
        problems: list[Problem] = []
        for address in there:
            try:
                if address in resets:
                    told.append(_reset(host, address))
                told += _restore(host, address, captured["methods"][address])
            except StuckError:
                raise
            except HostError as error:
                problems += error.problems
        if problems:
            raise HostError(problems)
        return "; ".join(told) or None


def _reset(host: Host, address: PciAddress) -> str:
    """One function's reset, and the proof that it answers afterwards."""
    path = device.pci_path(host, address) / "reset"
    methods = _read_methods(host, address)
    outcome = NO_METHOD
    if path.exists() and methods != "":  # None: a kernel before 5.15, which has no list
        try:
            sysfs.guarded_write(host, path, "1", f"resetting {address}")
            outcome = f"was reset ({methods.split()[0]})" if methods else "was reset"
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise HostError(
                    Problem("the device could not be reset", where=address, found=str(error),
                            hint=sysfs.way_on(error))
                ) from error
    if not device.is_alive(host, address):
        raise HostError(
            Problem(
                "the device does not answer after its reset", where=address,
                found="config space reads all ones",
                hint=device.REVIVED,
            )
        )
    return f"{address}: {outcome}" if outcome == NO_METHOD else f"{address} {outcome}"


def _is_ours(host: Host, address: PciAddress) -> bool:
    """Whether no host driver has the device: resetting it under one would pull its rug."""
    device.check_present(host, address)
    driver = device.read_driver(host, address)
    return driver is None or "vfio" in driver


def _read_methods(host: Host, address: PciAddress) -> str | None:
    return sysfs.read_text(device.pci_path(host, address) / "reset_method")


def _write_method(host: Host, address: PciAddress, text: str) -> None:
    path = device.pci_path(host, address) / "reset_method"
    sysfs.guarded_write(host, path, text, f"writing reset_method of {address}")


def _set_method(host: Host, address: PciAddress, method: str, before: str | None) -> None:
    error: OSError | None = None
    try:
        _write_method(host, address, method)
    except OSError as caught:
        error = caught
    if error is not None or method not in ("default", _read_methods(host, address)):
        raise HostError(
            Problem(
                f"the kernel does not reset this device by {method}", where=address,
                found=(error.strerror or "") if error else "", allowed=before or "no method at all",
                hint='reset = "auto" leaves the choice to the kernel',
            )
        ) from error


def _restore(host: Host, address: PciAddress, before: str | None) -> list[str]:
    """Write the list back. What the kernel no longer accepts of a stale list is left out; told."""
    if before is None or _read_methods(host, address) == before:
        return []
    try:
        try:
            _write_method(host, address, before)
            return []
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        _write_method(host, address, "default")
        allowed = (_read_methods(host, address) or "").split()
        kept = " ".join(m for m in before.split() if m in allowed)
        _write_method(host, address, kept)
    except OSError as error:
        raise HostError(
            Problem(f"reset_method cannot be put back to {before!r}", address, found=str(error),
                    hint=sysfs.way_on(error))
        ) from error
    return [f"{address}: reset_method was {before!r}, of which the kernel takes {kept!r}"]
