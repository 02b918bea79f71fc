"""A USB device is followed also when QEMU was too busy to answer once."""

from __future__ import annotations

from typing import Any

from qlaunch.errors import HostError
from qlaunch.vm.loop import asyncio
from qlaunch.vm.replug import News, Pluggable, keep_attached
from tests.fake.loop import run


class Busy:
    """A monitor that does not answer the first question."""

    closed = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def execute(self, command: str, arguments: Any = None) -> Any:
        self.asked.append(command)
        if len(self.asked) == 1:
            raise HostError("QEMU did not answer qom-get within 30 s")
        return "" if command == "qom-get" else {}


class Often(News):
    """News each moment."""

    def __init__(self) -> None:
        super().__init__()

    async def wait(self) -> None:
        await asyncio.sleep(0.01)


def test_a_question_that_was_not_answered_is_asked_again() -> None:
    said: list[str] = []
    monitor: Any = Busy()
    stick = Pluggable("usb0", "the stick", lambda before: "/dev/bus/usb/001/002",
                      lambda node: {"hostdevice": node}, False)

    async def play() -> None:
        task = asyncio.ensure_future(keep_attached(monitor, [stick], said.append, Often()))
        for _ in range(200):
            if said:
                break
            await asyncio.sleep(0.01)
        monitor.closed = True
        await asyncio.wait_for(task, 5)

    run(play())
    assert said == ["the stick was plugged in; the guest has it"]
    assert monitor.asked == ["qom-get", "qom-get", "device_add"]
