"""A device that is plugged out and in while QEMU runs. No host here has USB, so the guest's device
is a tablet; the node, its fd set, deletion and the second device are real."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from qlaunch.run.beside import terminals
from qlaunch.vm.loop import asyncio
from qlaunch.vm.monitor import Monitor, QmpError
from qlaunch.vm.replug import News, Pluggable, _listen, keep_attached, read_attached
from tests.fake.loop import run
from tests.qemu.conftest import Start

pytestmark = pytest.mark.qemu
PLUGGED = b"add@/devices/x/usb1/1-4\0ACTION=add\0SUBSYSTEM=usb\0DEVTYPE=usb_device\0"
OTHER = b"add@/devices/x\0ACTION=add\0SUBSYSTEM=net\0"


async def until(said: list[str], text: str, after: int = 0) -> None:
    for _ in range(400):
        if any(text in line for line in said[after:]):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{text!r} was not said: {said}")


async def state(monitor: Monitor) -> tuple[bool, list[str]]:
    """Whether the device is there, and which nodes QEMU has open (its disk's set 1 left out).

    A set that is removed goes when the machine runs (monitor_fdset_cleanup).
    """
    names = {d["name"] for d in await monitor.execute(
        "qom-list", {"path": "/machine/peripheral"})}
    sets = await monitor.execute("query-fdsets")
    return "usbdev0" in names, [fd["opaque"] for s in sets if s["fdset-id"] != 1 for fd in s["fds"]]


@pytest.mark.parametrize("handed", [True, False])
def test_it_is_detached_and_attached_again(start: Start, tmp_path: Path, handed: bool) -> None:
    nodes = [tmp_path / "001", tmp_path / "002"]
    for path in nodes:
        path.touch()
    now = [str(nodes[0])]
    said: list[str] = []
    given: list[str] = []

    def device(node: str) -> dict[str, Any]:
        given.append(node)
        return {"driver": "usb-tablet", "id": "usbdev0", "bus": "usb.0"}

    machine = start("-device", "qemu-xhci,id=usb", paused=False)

    async def play() -> None:
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        theirs.setblocking(False)
        async with await Monitor.connect(machine.control) as monitor:
            one = Pluggable("usbdev0", "the stick", lambda before: now[0], device, handed)
            task = asyncio.ensure_future(keep_attached(monitor, [one], said.append, News(theirs)))
            await until(said, "plugged in; the guest has it")
            opened = [str(nodes[0])] if handed else []
            assert await state(monitor) == (True, opened)
            now[0] = ""
            ours.send(OTHER)
            ours.send(PLUGGED)
            await until(said, "unplugged")
            assert await state(monitor) == (False, [])
            now[0] = str(nodes[1])
            ours.send(PLUGGED)
            await until(said, "plugged in", 2)
            assert await state(monitor) == (True, [str(nodes[1])] if handed else [])
            now[0] = str(nodes[0])  # out and in between two looks
            ours.send(PLUGGED)
            await until(said, "plugged in", 4)
            assert await state(monitor) == (True, opened)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        ours.close()

    run(play())
    assert [line.partition("stick ")[2] for line in said] == [
        "was plugged in; the guest has it", "was unplugged", "was plugged in; the guest has it",
        "was unplugged", "was plugged in; the guest has it",
    ]
    assert given[0].startswith("/dev/fdset/") if handed else given[0] == str(nodes[0])


def test_what_qemu_refuses_is_told_and_the_machine_runs_on(start: Start, tmp_path: Path) -> None:
    node = tmp_path / "001"
    node.touch()
    said: list[str] = []
    machine = start("-device", "qemu-xhci,id=usb", "-chardev", "pty,id=serial0",
                    "-device", "isa-serial,chardev=serial0", paused=False)

    def device(over: str) -> dict[str, Any]:
        return {"driver": "usb-host", "id": "usbdev0", "bus": "usb.0", "hostdevice": over}

    async def play() -> None:
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        theirs.setblocking(False)
        async with await Monitor.connect(machine.control) as monitor:
            one = Pluggable("usbdev0", "the stick", lambda before: str(node), device, True)
            task = asyncio.ensure_future(keep_attached(monitor, [one], said.append, News(theirs)))
            await until(said, "could not be attached: failed to open host usb device")
            assert await state(monitor) == (False, [])
            ours.send(PLUGGED)
            await asyncio.sleep(1)
            assert len(said) == 1
            assert [line.partition("/dev/pts/")[0] for line in await terminals(monitor)] == [
                "serial0 is on "]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        ours.close()

    run(play())


def test_it_ends_with_the_monitor(start: Start) -> None:
    machine = start()

    async def play() -> None:
        async with await Monitor.connect(machine.control) as monitor:
            one = Pluggable("usbdev0", "the stick", lambda before: "", lambda node: {}, True)
            task = asyncio.ensure_future(keep_attached(monitor, [one], print))
            await asyncio.sleep(0.2)
            machine.process.send(9)
            await monitor.wait_closed()
            await asyncio.wait_for(task, 10)

    run(play())


class Scripted:
    """A monitor that knows two answers."""

    def __init__(self, hostdevice: str | None) -> None:
        self.hostdevice = hostdevice

    async def execute(self, command: str, arguments: Any = None) -> Any:
        if command == "query-fdsets":
            return [{"fdset-id": 105, "fds": [{"fd": 9, "opaque": "/dev/bus/usb/001/007"}]}]
        if self.hostdevice is None:
            raise QmpError(command, "DeviceNotFound", "no such device")
        return self.hostdevice


@pytest.mark.parametrize(
    ("hostdevice", "node", "fdset"),
    [
        ("/dev/fdset/105", "/dev/bus/usb/001/007", 105), ("/dev/fdset/9", "", 9),
        ("/dev/bus/usb/001/003", "/dev/bus/usb/001/003", None), (None, "", None),
    ],
)
def test_what_is_attached_is_asked_of_qemu(
    hostdevice: str | None, node: str, fdset: int | None
) -> None:
    one = Pluggable("usbdev0", "the stick", lambda before: "", lambda node: {}, True)
    found = run(read_attached(Scripted(hostdevice), one))  # type: ignore[arg-type]
    assert (found.node, found.fdset) == (node, fdset)


def test_the_kernel_can_be_listened_to() -> None:
    sock = _listen()
    assert sock is not None
    sock.close()
