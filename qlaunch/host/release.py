"""A device to another driver by hand: the one that it had has it again when that fails."""

from __future__ import annotations

from qlaunch.errors import HostError, NotRestoredError, Problem, StuckError
from qlaunch.host import device
from qlaunch.host.handler import Captured, Host
from qlaunch.host.modules import bring_driver
from qlaunch.host.pci import TakeDeviceHandler, release_device
from qlaunch.plan.steps import TakeDevice
from qlaunch.values import PciAddress


def release(host: Host, address: PciAddress, driver: str | None) -> str:
    """As `release_device`, which says where the device is now.

    Raises HostError when the driver is not there or does not take it, with the host as it was;
    NotRestoredError when it then did not go back, or a write did not return.
    """
    step = TakeDevice(address=address)
    captured = TakeDeviceHandler().capture(host, step)
    if driver not in (None, captured["driver"]):
        bring_driver(host, driver)
    try:
        return release_device(host, address, driver)
    except StuckError as error:  # nothing is written beside what hangs
        raise NotRestoredError(error.problems) from error
    except HostError as error:
        try:
            told = _back(host, step, captured)
        except HostError as second:
            raise NotRestoredError([*error.problems, *second.problems]) from error
        if not told:
            raise
        raise HostError([*error.problems, Problem(told, severity="note")]) from error


def _back(host: Host, step: TakeDevice, captured: Captured) -> str | None:
    now = device.read_state(host, step.address)
    if all(now[name] == captured[name] for name in ("driver", "override")):
        return None
    return TakeDeviceHandler().undo(host, step, captured)
