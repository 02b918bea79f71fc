"""The shutdown ladder: ask the guest, ask QEMU, tell QEMU, end QEMU; each rung with its reason.

A rung is left early when QEMU ends or the user asks again. What cannot work is not tried: a paused
guest does not see its power button, a stopped QEMU hears nothing but SIGKILL.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine
from typing import Any, Literal, NamedTuple

from qlaunch.errors import HostError
from qlaunch.vm.loop import asyncio, exited, first
from qlaunch.vm.monitor import Events, Monitor
from qlaunch.vm.process import QemuProcess

Rung = Literal["powerdown", "quit", "term", "kill"]
Log = Callable[[str], None]
ANSWERS_WHILE = ("running", "suspended")  # run states in which a guest sees ACPI
A_DEVICE = 2.0  # seconds more that the kernel may need to take back one passed-through device
STOPPED = ("T", "t")


class Patience(NamedTuple):
    """Seconds each rung is given, and QEMU to answer a command."""

    quit: float = 10.0
    term: float = 10.0
    kill: float = 30.0
    answer: float = 5.0


class Stopped(NamedTuple):
    """`by` is the rung that ended QEMU, None when it still exists or had ended before."""

    by: Rung | None
    tried: tuple[Rung, ...]
    stuck: str = ""  # what it hangs in, when even SIGKILL did not end it

    def __str__(self) -> str:
        if self.stuck:
            return f"QEMU could not be ended: {self.stuck}"
        return f"QEMU ended by {self.by}" if self.by else "QEMU had ended already"


async def stop_machine(
    monitor: Monitor | None,
    process: QemuProcess,
    *,
    timeout: float | None,
    log: Log = lambda text: None,
    escalate: asyncio.Event | None = None,
    devices: int = 0,
    patience: Patience | None = None,
) -> Stopped:
    """End the machine, giving the guest `timeout` to shut down (None: the guest is not asked).

    Never raises for what QEMU does.
    Each setting of `escalate` ends the waiting on the present rung; it is cleared. When this
    returns with `stuck`, QEMU still exists, has SIGKILL pending, and holds its devices.
    """
    if process.poll() is not None:
        return Stopped(None, ())
    ladder = _Ladder(monitor, process, log, escalate or asyncio.Event(), devices)
    patience = patience or Patience()
    if timeout is not None and await ladder.powerdown(timeout, patience):
        return ladder.done("powerdown")
    if await ladder.quit(patience):
        return ladder.done("quit")
    if await ladder.term(patience):
        return ladder.done("term")
    if await ladder.kill(patience):
        return ladder.done("kill")
    return Stopped(None, tuple(ladder.tried), ladder.stuck())


class _Ladder:
    def __init__(
        self,
        monitor: Monitor | None,
        process: QemuProcess,
        log: Log,
        escalate: asyncio.Event,
        devices: int,
    ) -> None:
        self.monitor = monitor
        self.process = process
        self.log = log
        self.escalate = escalate
        self.devices = devices
        self.tried: list[Rung] = []

    def done(self, by: Rung) -> Stopped:
        self.log(f"QEMU has ended ({self.process.exit_text()})")
        return Stopped(by, tuple(self.tried))

    async def powerdown(self, timeout: float, patience: Patience) -> bool:
        monitor = self._usable_monitor("power button")
        if monitor is None:
            return False
        with monitor.listen() as events:
            state = await self._run_state(monitor, patience)
            if state not in ANSWERS_WHILE:
                self.log(f"power button skipped: the machine is {state}, its guest cannot see it")
                return False
            self._climb("powerdown", f"pressing the power button, waiting {timeout:g} s")
            if state == "suspended":
                await self._ask(monitor, "system_wakeup", patience.answer)
            ask = self._ask(monitor, "system_powerdown", timeout)
            end = await self._wait(timeout, ask, _shutdown(events))
        if end == "heard":
            self.log("the guest has shut down")
            end = await self._wait(self._grace(patience.quit))
        return end == "ended"

    async def quit(self, patience: Patience) -> bool:
        monitor = self._usable_monitor("quit")
        if monitor is None or self._is_stopped("quit"):
            return False
        seconds = self._grace(patience.quit)
        self._climb("quit", f"telling QEMU to quit, waiting {seconds:g} s")
        return await self._wait(seconds, self._ask(monitor, "quit", patience.answer)) == "ended"

    async def term(self, patience: Patience) -> bool:
        if self._is_stopped("SIGTERM"):
            return False
        seconds = self._grace(patience.term)
        self._climb("term", f"sending SIGTERM, waiting {seconds:g} s")
        self.process.send(signal.SIGTERM)
        return await self._wait(seconds) == "ended"

    async def kill(self, patience: Patience) -> bool:
        seconds = self._grace(patience.kill)
        self._climb("kill", f"sending SIGKILL, waiting {seconds:g} s")
        self.process.send(signal.SIGKILL)
        # Asking again cannot hurry the kernel, so it does not end this wait.
        return await first(seconds, exited(self.process)) is not None

    def stuck(self) -> str:
        where = self.process.held_by()
        text = f"process {self.process.pid} is in state {self.process.state()}"
        text += f", in the kernel's {where}" if where else ""
        self.log(text)
        return text

    def _climb(self, rung: Rung, text: str) -> None:
        self.tried.append(rung)
        self.log(text)

    def _grace(self, seconds: float) -> float:
        return seconds + self.devices * A_DEVICE

    def _usable_monitor(self, what: str) -> Monitor | None:
        if self.monitor is not None and not self.monitor.closed:
            return self.monitor
        reason = self.monitor.lost if self.monitor is not None else "there is no QMP connection"
        self.log(f"{what} skipped: {reason}")
        return None

    def _is_stopped(self, what: str) -> bool:
        if self.process.state() not in STOPPED:
            return False
        self.log(f"{what} skipped: QEMU itself is stopped (SIGSTOP), only SIGKILL reaches it")
        return True

    async def _run_state(self, monitor: Monitor, patience: Patience) -> str:
        """QEMU's word for it; "running" when it does not say, because trying costs only time."""
        try:
            status = await monitor.execute("query-status", timeout=patience.answer)
        except HostError as error:
            self.log(str(error.problems[0].message))
            return "running"
        return str(status["status"])

    async def _ask(self, monitor: Monitor, command: str, timeout: float) -> bool:
        try:
            await monitor.execute(command, timeout=timeout)
        except HostError as error:
            if self.process.poll() is None and not monitor.closed:
                self.log(error.problems[0].message)
                return False
        return True

    async def _wait(
        self,
        seconds: float,
        ask: Coroutine[Any, Any, bool] | None = None,
        heard: Coroutine[Any, Any, object] | None = None,
    ) -> Literal["ended", "heard", "refused", "asked", "passed"]:
        """Wait for the exit, or for what makes further waiting on this rung pointless."""
        index = await first(
            seconds, exited(self.process), heard or _never(), _refused(ask), self.escalate.wait()
        )
        if index is None:
            self.log(f"QEMU is still there after {seconds:g} s")
            return "passed"
        if index == 3:
            self.escalate.clear()
            self.log("asked again: not waiting any longer")
        return ("ended", "heard", "refused", "asked")[index]


async def _never() -> None:
    await asyncio.Event().wait()


async def _refused(ask: Coroutine[Any, Any, bool] | None) -> None:
    """Returns only when the command was not accepted."""
    if ask is None or await ask:
        await _never()


async def _shutdown(events: Events) -> None:
    """Until the guest has shut down, or there is nobody left to tell of it."""
    async for event in events:
        if event.name == "SHUTDOWN":
            return
