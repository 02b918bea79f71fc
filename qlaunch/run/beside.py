"""What a running machine needs beside being watched: USB devices attached again, ports told.

It is told to the watch as one coroutine a monitor (vm/watch.py), and loaded only for machines that
have such parts.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from qlaunch.argv.usb import host_device
from qlaunch.facts.usb import plugged
from qlaunch.plan.plugs import PlannedUsb
from qlaunch.plan.usb import matching
from qlaunch.run.cleanup import UNPLUGGED
from qlaunch.run.info import Info
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.replug import Pluggable, keep_attached

Say = Callable[[str], None]
Beside = Callable[[Monitor, Say], Coroutine[Any, Any, None]]


def beside(info: Info, tell: Say = lambda text: None) -> Beside:
    """Of a machine's info; pseudo-terminals are told by `tell`."""
    devices = [
        pluggable(device) for device in planned_usbs(info)
        if not (device.redirect or device.sought)
    ]

    async def run(monitor: Monitor, log: Say) -> None:
        for text in await terminals(monitor):
            tell(text)
        if devices:
            await keep_attached(
                monitor, devices, log, left_out=lambda: read_unplugged(info.runtime_dir))

    return run


def planned_usbs(info: Info) -> list[PlannedUsb]:
    """The machine's USB devices."""
    return msgspec.convert(list(info.usbs), list[PlannedUsb])


def read_unplugged(runtime_dir: str) -> set[str]:
    """The ids of those that `detach` took from the guest."""
    try:
        with open(f"{runtime_dir}/{UNPLUGGED}", encoding="utf-8") as file:  # noqa: PTH123
            return set(file.read().split())
    except (OSError, UnicodeDecodeError):
        return set()


async def terminals(monitor: Monitor) -> list[str]:
    """A line for each pseudo-terminal that QEMU has made."""
    return [
        f"{device['label']} is on {device['filename'].removeprefix('pty:')}"
        for device in await monitor.execute("query-chardev")
        if device["filename"].startswith("pty:")
    ]


def pluggable(usb: PlannedUsb, root: Path = Path("/")) -> Pluggable:
    """How one device of a plan is found and attached."""

    def find(before: str) -> str:
        found = [
            d for d in matching(plugged(root), name=usb.name, ident=usb.ident, serial=usb.serial)
            if not d.is_hub
        ]
        nodes = [d.node for d in found]
        if before in nodes:
            return before
        return nodes[0] if len(nodes) == 1 else ""  # of twins none: which is meant is not known

    def device(node: str) -> dict[str, Any]:
        return {"driver": "usb-host", **host_device(usb, node)}

    words = (usb.name, usb.ident and f"[{usb.ident}]", usb.serial)
    label = f"the USB device {' '.join(word for word in words if word)}"
    return Pluggable(usb.id, label, find, device, usb.lent)
