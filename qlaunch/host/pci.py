"""Taking a PCI function to VFIO and giving it back.

The success of a sysfs write proves nothing (`drivers_probe` says 0 when nothing was bound), so the
`driver` link is read back every time. `bind` is written rather than `drivers_probe` because it
returns the real errno (drivers/base/bus.c bind_store).
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from qlaunch.errors import KERNEL_LOG, HostError, Problem, StuckError
from qlaunch.host import console, device, rebar, sysfs
from qlaunch.host.carried import check_carried, read_kinds
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import TakeDevice
from qlaunch.values import PciAddress

_BIND_HINTS = {
    errno.EBUSY: "another driver took it meanwhile, it has virtual functions switched on, "
    "or its IOMMU group is in use by VFIO",
    errno.ENODEV: "the driver does not accept this device, or the device is gone",
    errno.EINVAL: "vfio-pci refuses bridges and devices without an IOMMU group",
    errno.ENOENT: "the driver is not loaded",
}


class TakeDeviceHandler:
    """driver_override, unbind, bind; back again by what was there."""

    def capture(self, host: Host, step: TakeDevice) -> Captured:
        """Identity, driver, override, runtime power control, group, and the kinds of nodes that
        the device carries; a variant driver's own name. HostError when it is gone."""
        kinds = read_kinds(host, step.address)
        state = {**device.read_state(host, step.address), "kinds": kinds}
        if step.module:
            state["vfio"] = _named_by_module(host, step)
        if step.console:
            state["console"] = console.capture(host, step.address)
        return {**state, **rebar.capture(host, step)} if step.rebar else state

    def apply(self, host: Host, step: TakeDevice, captured: Captured) -> None:
        """Bind the device to its VFIO driver; a device that sits there already is kept.

        Raises HostError when another device answers at the address, when the driver is not
        loaded (nothing was changed in both cases), or with the kernel's reason; StuckError when
        a write did not return.
        """
        _check_identity(host, step.address, step.id, step.subsystem)
        driver = captured.get("vfio", step.driver)
        if captured["driver"] == driver:
            if not step.rebar:
                return
            _check_returnable(host, step.address, captured["group"])
        if not _driver_file(host, driver, "bind").exists():
            raise HostError(
                Problem(f"the driver {driver} is not loaded", where=step.address,
                        hint=f"modprobe {step.module or driver}")
            )
        device.check_no_functions(host, step.address)
        device.check_no_mdevs(host, step.address)  # they may have come since the plan
        if step.console:
            console.release(host, step.address, captured["console"])
        set_override(host, step.address, driver)
        _unbind(host, step.address)
        rebar.apply(host, step, captured)
        _bind(host, step.address, driver)

    def undo(self, host: Host, step: TakeDevice, captured: Captured) -> str | None:
        """Give the device to the driver it had, or to `step.return_to`.

        Raises HostError when it is gone, another one, in use, dead (then it is left where it is),
        when its driver does not take it or does not bring its nodes back; StuckError when a write
        did not return. A device that somebody else gave to a third driver is left there.
        """
        address, before = step.address, captured["driver"]
        driver = captured.get("vfio", step.driver)
        if device.is_switched_off(host, address, captured.get("physfn")):
            return f"{address} is gone: somebody switched the virtual functions off"
        _check_identity(host, address, captured["id"], captured["subsystem"])
        now = device.read_state(host, address)
        if now["driver"] == driver:
            told = step.return_to in (driver, "vfio-pci") and ", as the profile says"
            told = told or (before == driver and step.return_to == "auto" and ", as before")
            if not told or rebar.is_changed(host, address, captured):
                _check_returnable(host, address, now["group"])
            if told:
                _resize_back(host, address, driver, captured)
                return f"{address} stays on {driver}{told}"
        named = step.return_to not in ("auto", driver, "vfio-pci")
        target = step.return_to if named else before
        if now["driver"] in (None, driver, target):
            _give_back(host, address, target, captured)
            end = "without a driver, as before" if target is None else f"back on {target}"
        else:
            end = f"on {now['driver']}: somebody else bound it there"
        _restore_override(host, address, captured["override"])
        _restore_control(host, address, captured["control"])
        if step.console:
            console.restore(host, address, captured["console"])
        if before is not None and device.read_driver(host, address) == before:
            check_carried(host, address, captured.get("kinds", []))
        return f"{address} is {end}"


def _named_by_module(host: Host, step: TakeDevice) -> str:
    """A variant driver's name, now that its module is loaded; the plan may have known only that
    (struct pci_driver's name is "xe-vfio-pci" in xe_vfio_pci)."""
    folder = host.path(f"sys/module/{step.module}/drivers")
    names = sorted(p.name.removeprefix("pci:") for p in folder.glob("pci:*"))
    return step.driver if step.driver in names or not names else names[0]


def _check_identity(
    host: Host, address: PciAddress, wanted: str | None, subsystem: str | None
) -> None:
    device.check_present(host, address)
    found = device.read_id(host, address)
    if wanted in (None, found[0]) and subsystem in (None, found[1]):
        return
    raise HostError(
        Problem(
            "another device answers at this address", where=address,
            found=f"{found[0]} (subsystem {found[1]})",
            allowed=f"{wanted}" + (f" (subsystem {subsystem})" if subsystem else ""),
            hint="addresses move with firmware and slots; look again with: qlaunch devices",
        )
    )


def _check_returnable(host: Host, address: PciAddress, group: int | None) -> None:
    # vfio_unregister_group_dev asks a running QEMU to unplug the device, and waits for it.
    if group is not None:
        device.check_group_free(host, group)
    if not device.is_alive(host, address):
        raise HostError(
            Problem(
                "the device does not answer (config space reads all ones); left where it is",
                where=address,
                hint=device.REVIVED,
            )
        )


def _resize_back(host: Host, address: PciAddress, driver: str, captured: Captured) -> None:
    if rebar.is_changed(host, address, captured):
        _unbind(host, address)
        rebar.restore(host, address, captured)
        _bind(host, address, driver)


def _give_back(host: Host, address: PciAddress, target: str | None, captured: Captured) -> None:
    override = captured["override"]
    if device.read_driver(host, address) == target and not rebar.is_changed(
        host, address, captured
    ):
        return
    # With an override that names another driver the wanted one would refuse (ENODEV), and one
    # that binds by override only would refuse without.
    set_override(host, address, override if override == target else None)
    _unbind(host, address)
    try:
        rebar.restore(host, address, captured)
        if target is not None:
            _bind_or_probe(host, address, target)
    except StuckError:
        raise
    except HostError:
        with suppress(HostError):
            _restore_override(host, address, override)
        raise
    if not device.is_alive(host, address):
        raise HostError(Problem("the device does not answer after its return", where=address,
                                hint=device.REVIVED))


def _bind_or_probe(host: Host, address: PciAddress, target: str) -> None:
    try:
        _bind(host, address, target)
    except HostError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.ENODEV, errno.ENOENT):
            raise
        # drivers_probe says success when nothing was bound: only the link counts.
        with suppress(OSError):
            path = host.path("sys/bus/pci/drivers_probe")
            sysfs.guarded_write(host, path, address, f"probing drivers for {address}")
        if device.read_driver(host, address) != target:
            raise


def set_override(host: Host, address: PciAddress, driver: str | None) -> None:
    """Write driver_override; None clears it. Raises HostError, StuckError."""
    path = device.pci_path(host, address) / "driver_override"
    try:  # driver_set_override takes the device lock: as patient as an unbind that hangs
        sysfs.guarded_write(host, path, driver or "", f"writing driver_override of {address}")
    except OSError as error:
        raise HostError(
            Problem(f"driver_override cannot be set to {driver}", address, found=str(error),
                    hint=sysfs.way_on(error))
        ) from error


def _unbind(host: Host, address: PciAddress) -> None:
    driver = device.read_driver(host, address)
    if driver is None:
        return
    device.check_no_mdevs(host, address)
    path = _driver_file(host, driver, "unbind")
    try:
        sysfs.guarded_write(host, path, address, f"unbinding {address} from {driver}")
    except OSError as error:
        if error.errno != errno.ENODEV:  # ENODEV: not bound to it any more
            raise HostError(
                Problem(f"the device cannot be unbound from {driver}", address,
                        found=str(error), hint=sysfs.way_on(error))
            ) from error
    left = device.read_driver(host, address)
    if left is not None:
        raise HostError(Problem(f"the device is still bound to {left}", where=address,
                                hint=KERNEL_LOG))


def _bind(host: Host, address: PciAddress, driver: str) -> None:
    path = _driver_file(host, driver, "bind")
    try:
        sysfs.guarded_write(host, path, address, f"binding {address} to {driver}")
    except OSError as error:
        raise HostError(_not_bound(host, address, driver, error)) from error
    if device.read_driver(host, address) != driver:
        raise HostError(_not_bound(host, address, driver, None))


def _not_bound(host: Host, address: PciAddress, driver: str, error: OSError | None) -> Problem:
    now = device.read_driver(host, address)
    reason = error.strerror if error else "the kernel reported success"
    hint = _BIND_HINTS.get(error.errno or 0, "") if error else ""
    if error and error.errno == errno.ENOENT:
        hint = f"modprobe {driver}"
    return Problem(
        f"the device was not bound to {driver}", where=address,
        found=f"{reason}; it is {'without a driver' if now is None else f'on {now}'}",
        hint=hint or "see dmesg for the driver's reason",
    )


def bind_to(host: Host, address: PciAddress, driver: str) -> None:
    """From whatever driver it is on to this one. Raises HostError, StuckError."""
    if device.read_driver(host, address) != driver:
        _unbind(host, address)
        _bind(host, address, driver)


def _restore_override(host: Host, address: PciAddress, before: str | None) -> None:
    now = device.read_state(host, address)["override"]
    if now != before:
        set_override(host, address, before)


def _restore_control(host: Host, address: PciAddress, before: str | None) -> None:
    # vfio-pci calls pm_runtime_allow at bind and pm_runtime_forbid at unbind.
    path = device.pci_path(host, address) / "power/control"
    if before is not None and sysfs.read_text(path) != before:
        sysfs.guarded_write(host, path, before, f"writing power/control of {address}")


def _driver_file(host: Host, driver: str, name: str) -> Path:
    return host.path(f"sys/bus/pci/drivers/{driver}/{name}")


def release_device(host: Host, address: PciAddress, driver: str | None) -> str:
    """Take a device from VFIO without a record of what it had: to `driver`, or to whichever
    driver the kernel finds. Returns a sentence; raises HostError when no driver took it."""
    now = device.read_state(host, address)
    if now["driver"] is not None and "vfio" in now["driver"]:
        _check_returnable(host, address, now["group"])
    elif now["driver"] is not None and driver in (None, now["driver"]):
        return f"{address} is on {now['driver']} already"
    device.check_no_mdevs(host, address)
    set_override(host, address, None)
    _unbind(host, address)
    if driver is not None:
        _bind(host, address, driver)
        return f"{address} is on {driver}"
    with suppress(OSError):
        path = host.path("sys/bus/pci/drivers_probe")
        sysfs.guarded_write(host, path, address, f"probing drivers for {address}")
    found = device.read_driver(host, address)
    if found is None:
        raise HostError(
            Problem("no driver of this host took the device", where=address,
                    hint="modprobe its driver, then name it with --driver")
        )
    return f"{address} is on {found}"
