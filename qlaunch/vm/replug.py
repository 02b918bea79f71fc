"""USB devices that come and go while their guest runs: detached and attached again over QMP.

QEMU holds one open node, and a replug makes another, so the old device is deleted and a new one
made over the new node. What is attached is asked of QEMU itself (its fd sets carry the node's
path), so that a launcher that takes a running machine over goes on where another stopped.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from qlaunch.errors import HostError
from qlaunch.vm.loop import asyncio
from qlaunch.vm.monitor import Monitor, QmpError

_UEVENTS = 15  # NETLINK_KOBJECT_UEVENT, linux/netlink.h
_FROM_KERNEL = 1  # its multicast group; 2 is udev's
LOOK_EVERY = 5.0  # seconds, when nobody tells: uevents stay out of containers
SETTLE = 0.3  # for udev to set a node's rights, and for a hub's devices to be there
TRIES = 3
_PERIPHERAL = "/machine/peripheral"
Say = Callable[[str], None]


class Pluggable(NamedTuple):
    """One device of the guest that may be plugged out and in."""

    ident: str  # QEMU id
    label: str  # for the log
    find: Callable[[str], str]  # the node it has now, told the one it had; "": not plugged in
    device: Callable[[str], Mapping[str, Any]]  # arguments of device_add over a node or fd set
    handed: bool  # its node is opened here, because QEMU may not


class Attached(NamedTuple):
    """What QEMU has of a device."""

    node: str
    fdset: int | None = None


class News(contextlib.AbstractContextManager["News"]):
    """Waits for the kernel to tell of a USB device, or for `LOOK_EVERY`."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._socket = sock or _listen()

    def __exit__(self, *exc: object) -> None:
        if self._socket is not None:
            self._socket.close()

    async def wait(self) -> None:
        """Return when there may be something to see."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._told(), LOOK_EVERY)
            await asyncio.sleep(SETTLE)

    async def _told(self) -> None:
        if self._socket is None:
            await asyncio.sleep(LOOK_EVERY)
            return
        while True:
            try:
                text = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
            except OSError:  # ENOBUFS: more came than fitted
                return
            if not text or b"DEVTYPE=usb_device\0" in text:
                return


def _listen() -> socket.socket | None:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _UEVENTS)
    except OSError:
        return None
    try:
        sock.setblocking(False)
        sock.bind((0, _FROM_KERNEL))
    except OSError:
        sock.close()
        return None
    return sock


async def keep_attached(
    monitor: Monitor,
    devices: Sequence[Pluggable],
    log: Say,
    news: News | None = None,
    left_out: Callable[[], set[str]] = set,
) -> None:
    """Until it is cancelled or the monitor is lost: have in the guest what is plugged in.

    A device that QEMU refuses is told, and tried again when it is plugged in anew; a QEMU that does
    not answer in time is asked again. The ids that `left_out` names are left alone, and asked after
    when it no longer does.
    """
    with news or News() as told:
        attached: dict[str, Attached] = {}
        while not monitor.closed:
            out = left_out()
            with contextlib.suppress(HostError):
                for device in devices:
                    if device.ident in out:
                        attached.pop(device.ident, None)
                        continue
                    now = attached.get(device.ident) or await read_attached(monitor, device)
                    attached[device.ident] = await _follow(monitor, device, now, log)
            await told.wait()


async def read_attached(monitor: Monitor, device: Pluggable) -> Attached:
    """What QEMU has of it; no node when it has no such device."""
    path = f"{_PERIPHERAL}/{device.ident}"
    try:
        node = await monitor.execute("qom-get", {"path": path, "property": "hostdevice"})
    except QmpError:
        return Attached("")
    if not str(node).startswith("/dev/fdset/"):
        return Attached(str(node or ""))
    number = int(str(node).rpartition("/")[2])
    for fdset in await monitor.execute("query-fdsets"):
        if fdset["fdset-id"] == number:
            return Attached(next((fd.get("opaque", "") for fd in fdset["fds"]), ""), number)
    return Attached("", number)


async def _follow(monitor: Monitor, device: Pluggable, now: Attached, log: Say) -> Attached:
    """One device; what is attached afterwards (the node also when QEMU refused it)."""
    node = device.find(now.node)
    if node == now.node:
        return now
    if now.node:
        await detach(monitor, device, now)
        log(f"{device.label} was unplugged")
    if not node:
        return Attached("")
    for attempt in range(TRIES):
        try:
            fdset = await attach(monitor, device, node)
        except (QmpError, OSError) as error:
            if attempt == TRIES - 1:
                log(f"{device.label} could not be attached: {_text(error)}")
            else:
                await asyncio.sleep(SETTLE)
        else:
            log(f"{device.label} was plugged in; the guest has it")
            return Attached(node, fdset)
    return Attached(node)


def _text(error: Exception) -> str:
    return error.desc if isinstance(error, QmpError) else str(error)


async def detach(monitor: Monitor, device: Pluggable, now: Attached) -> None:
    """device_del, and QEMU's copy of the node closed. The guest is not asked, as at a real port."""
    with contextlib.suppress(QmpError):  # refused before, or deleted by another
        await monitor.execute("device_del", {"id": device.ident})
    if now.fdset is not None:
        with contextlib.suppress(QmpError):
            await monitor.execute("remove-fd", {"fdset-id": now.fdset})


async def attach(monitor: Monitor, device: Pluggable, node: str) -> int | None:
    """device_add over the node. Raises QmpError, or OSError for a node that is gone again."""
    if not device.handed:
        await monitor.execute("device_add", device.device(node))
        return None
    fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        fdset = int((await monitor.add_fd(fd, node))["fdset-id"])
    finally:
        os.close(fd)
    try:
        await monitor.execute("device_add", device.device(f"/dev/fdset/{fdset}"))
    except QmpError:
        with contextlib.suppress(QmpError):
            await monitor.execute("remove-fd", {"fdset-id": fdset})
        raise
    return fdset
