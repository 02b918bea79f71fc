"""PCI devices that leave a running guest and come back: device_del with the guest's consent.

QEMU only asks; the guest answers by letting go, by refusing (DEVICE_UNPLUG_GUEST_ERROR) or not at
all, when no system runs that listens. All functions behind one port leave together: the guest
ejects a slot, not a function (hw/acpi/pcihp.c, hw/pci/pcie.c).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qlaunch.errors import HostError, Problem
from qlaunch.vm.loop import asyncio
from qlaunch.vm.monitor import Events, Monitor, QmpError

PATIENCE = 30.0  # seconds that the guest has
UNDO_PATIENCE = 10.0
TOLD_EVERY = 5.0
LOOK_EVERY = 0.5
PERIPHERAL = "/machine/peripheral"
Say = Callable[[str], None]


async def plugged_in(monitor: Monitor) -> set[str]:
    """The ids of the devices that QEMU has."""
    found = await monitor.execute("qom-list", {"path": PERIPHERAL})
    return {str(one["name"]) for one in found if str(one["type"]).startswith("child<")}


async def unplug(
    monitor: Monitor, idents: Sequence[str], *, timeout: float = PATIENCE, say: Say
) -> None:
    """Have these devices out of the guest; those that are out already are no fault.

    Functions of one slot are named with function 0 first. Raises HostError when the guest does not
    run, refuses, or has not let go in time: then it keeps them, and may still let go later.
    """
    with monitor.listen() as events:
        left = [i for i in idents if i in await plugged_in(monitor)]
        if left:
            await _check_running(monitor)
        loop = asyncio.get_running_loop()
        start = told = loop.time()
        asked: set[str] = set()
        while left:
            if left[0] not in asked:
                asked.add(left[0])
                await _ask(monitor, left[0])
            await _news(events, left)
            left = [i for i in idents if i in await plugged_in(monitor)]
            now = loop.time()
            if left and now - start > timeout:
                raise _not_in_time(left, timeout)
            if left and now - told > TOLD_EVERY:
                told = now
                say(f"waiting for the guest to let go of {left[0]} ({now - start:.0f} s)")


async def plug(
    monitor: Monitor, devices: Sequence[Mapping[str, Any]], *, timeout: float
) -> None:
    """device_add each, function 0 of a slot last: that one shows the slot to the guest.

    Raises HostError with QEMU's reason; the guest is asked to let go of what was added before the
    refused one.
    """
    added: list[str] = []
    try:
        for device in devices:
            await monitor.execute("device_add", device, timeout=timeout)
            added.append(str(device["id"]))
    except HostError:
        if added:
            with contextlib.suppress(HostError):
                await unplug(monitor, added, timeout=UNDO_PATIENCE, say=lambda text: None)
        raise


async def _check_running(monitor: Monitor) -> None:
    status = (await monitor.execute("query-status"))["status"]
    if status != "running":
        raise HostError(
            Problem("the guest does not run, so it cannot let go of a device", found=status,
                    hint="let it run (QMP cont), then try again")
        )


async def _ask(monitor: Monitor, ident: str) -> None:
    try:
        await monitor.execute("device_del", {"id": ident})
    except QmpError as error:
        if error.error_class == "DeviceNotFound" or "already in the process" in error.desc:
            return
        if "does not support hotplugging" in error.desc:
            raise HostError(
                Problem(f"{ident} cannot leave a running guest: its place has no hot-plug",
                        found=error.desc, hint="a device on a root port can")
            ) from None
        raise


async def _news(events: Events, left: Sequence[str]) -> None:
    """Until QEMU tells something of these devices, or for a moment. Raises HostError for a no."""
    try:
        event = await asyncio.wait_for(events.get(), LOOK_EVERY)
    except asyncio.TimeoutError:
        return
    if event is None:
        raise HostError(Problem("QEMU ended while the guest was asked to let go",
                                hint="qlaunch logs NAME tells why"))
    named = (event.data.get("device"), str(event.data.get("path", "")).rpartition("/")[2])
    if event.name == "DEVICE_UNPLUG_GUEST_ERROR" and set(named) & set(left):
        raise HostError(
            Problem(f"the guest refuses to let go of {named[0] or named[1]}",
                    hint="end what uses it in the guest, then try again")
        )


def _not_in_time(left: Sequence[str], timeout: float) -> HostError:
    return HostError(
        Problem(
            f"the guest has not let go of {', '.join(left)} within {timeout:g} s",
            hint="no system in it may be listening yet, or a driver in it keeps the device; "
            "stop the guest, or try again",
        )
    )
