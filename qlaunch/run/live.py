"""The part of a run in which QEMU lives: wait until it is ready, pin, let go, watch (stages 8-9).

Imported only after QEMU has been started, because asyncio and qemu.qmp take as long to import as
QEMU takes to build its machine.
"""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import PinPlan
from qlaunch.vm.loop import asyncio, first
from qlaunch.vm.monitor import MISREAD, Monitor, not_understood
from qlaunch.vm.pin import Pinned, pin_threads, read_threads, verify
from qlaunch.vm.process import QemuProcess
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.stop import stop_machine
from qlaunch.vm.watch import Beside, End, StopRequests, watch

if TYPE_CHECKING:
    from qlaunch.vm.helpers import Helpers

Say = Callable[[str], None]
PINS_AGAIN = 1.0  # seconds after which the pins are read again
GRACE = 5.0  # seconds that a monitor gets to answer once a stop is asked for


def _silent(text: str) -> None:
    """Where nobody looks."""


class Life(NamedTuple):
    """What supervising a QEMU needs to know."""

    control: str  # path of our QMP socket
    pins: PinPlan | None
    memory: int  # bytes, for the progress text
    ready_timeout: float
    stop_timeout: float
    devices: int
    last_words: Callable[[], str]
    before_cont: Callable[[], None]  # what has to be done before the guest runs (taps on bridges)
    stage: Callable[[int, str], None]
    tell: Say = _silent  # progress, and how a stop goes on, for the user's eyes
    terminal: socket.socket | None = None  # the serial port on stdio
    sink: int = 1  # where its output goes
    asked: Callable[[], str] = str  # a stop that was asked for before the loop took the signals
    helpers: Helpers | None = None
    beside: Beside | None = None  # what else is done while it runs


def live(process: QemuProcess, life: Life, say: Say) -> End:
    """From a started QEMU to its end. Raises HostError when it never ran; it has ended then."""
    _collect_from_here()
    return asyncio.run(_live(process, life, say))


def adopt(process: QemuProcess, life: Life, say: Say) -> End:
    """Watch a QEMU whose launcher is gone. One that never ran is ended: nobody saw it start."""
    _collect_from_here()
    return asyncio.run(_adopt(process, life, say))


def _collect_from_here() -> None:
    """Watching may take weeks; starting did without. What was imported stays, and is not looked
    through: that would take 10 ms now. Not again in a selftest's next round, whose predecessor's
    garbage would stay, too."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


async def _live(process: QemuProcess, life: Life, say: Say) -> End:
    with StopRequests() as requests, _console(life):
        monitor: Monitor | None = None

        def log(text: str) -> None:
            (life.tell if requests.count else say)(text)

        try:
            if life.asked():
                requests.request(life.asked())
            life.stage(8, "waiting for QEMU")
            monitor = await _ready_or_stopped(process, life, requests)
            pinned = await _pin(monitor, process, life)
            life.before_cont()
            if requests.event.is_set():
                raise HostError("stopped before the guest ran")
            await monitor.execute("cont")
            life.stage(9, _running_text(pinned))
            later = asyncio.ensure_future(_look_after(process, life, pinned, say))
            try:
                return await watch(
                    monitor, process, requests, timeout=life.stop_timeout, log=log,
                    devices=life.devices, control=life.control, beside=life.beside,
                )
            finally:
                later.cancel()
        except BaseException as error:
            await stop_machine(monitor, process, timeout=None, log=say, devices=life.devices)
            if isinstance(error, MISREAD):
                raise not_understood(error) from error
            raise
        finally:
            if monitor is not None:
                await monitor.close()


async def _ready_or_stopped(
    process: QemuProcess, life: Life, requests: StopRequests
) -> Monitor:
    """The connected monitor. Raises HostError when QEMU fails, or a stop is asked for first."""
    found: list[Monitor] = []

    async def ready() -> None:
        try:
            found.append(
                await wait_ready(
                    life.control, process, timeout=life.ready_timeout, memory=life.memory,
                    on_progress=life.tell, last_words=life.last_words,
                )
            )
        except HostError as error:
            fault = life.helpers and life.helpers.fault(failed=True)
            raise HostError([*error.problems, fault]) if fault else error from None

    waits = [ready(), requests.event.wait()] + ([life.helpers.ended()] if life.helpers else [])
    if await first(None, *waits) == 1:
        raise HostError(Problem("stopped before the guest ran", found=requests.last))
    if life.helpers and (fault := life.helpers.fault()):
        for monitor in found:
            await monitor.close()
        raise HostError(fault)
    return found[0]


def _console(life: Life) -> contextlib.AbstractContextManager[object]:
    if life.terminal is None:
        return contextlib.nullcontext()
    from qlaunch.vm.console import Console

    return Console(life.terminal, sink=life.sink)


async def _pin(monitor: Monitor, process: QemuProcess, life: Life) -> list[Pinned]:
    if life.pins is None:
        return []
    threads = await read_threads(monitor, process.pid)
    pinned = pin_threads(threads, life.pins)
    if life.pins.sched is not None or life.pins.nice is not None:
        from qlaunch.vm.sched import schedule

        schedule(threads.vcpus, life.pins)
    return pinned


async def _verify(pinned: list[Pinned], say: Say) -> None:
    """A vhost worker of root's, or somebody who moves threads, is told once."""
    await asyncio.sleep(PINS_AGAIN)
    for problem in verify(pinned):
        say(str(problem))


async def _look_after(
    process: QemuProcess, life: Life, pinned: list[Pinned], say: Say
) -> None:
    """What is looked at while the guest runs, besides QEMU."""
    if life.helpers is None:
        await _verify(pinned, say)
    else:
        await asyncio.gather(_verify(pinned, say), life.helpers.watch(process, life.tell))


def _running_text(pinned: list[Pinned]) -> str:
    vcpus = [p for p in pinned if p.name.startswith("vcpu")]
    if not vcpus:
        return "the guest runs"
    where = ", ".join(f"{p.name.removeprefix('vcpu ')}→{p.actual}" for p in vcpus)
    return f"the guest runs, vCPUs on CPUs {where}"


async def _adopt(process: QemuProcess, life: Life, say: Say) -> End:
    with StopRequests() as requests:
        monitor: Monitor | None = None
        if life.asked():
            requests.request(life.asked())
        try:
            monitor = await _reached(process, life, requests, say)
            life.stage(9, "watched again")
            return await watch(
                monitor, process, requests, timeout=life.stop_timeout, log=say,
                devices=life.devices, control=life.control, beside=life.beside,
            )
        finally:
            if monitor is not None:
                await monitor.close()


async def _reached(
    process: QemuProcess, life: Life, requests: StopRequests, say: Say
) -> Monitor | None:
    """The monitor of an adopted QEMU, which may still be building its machine.

    None when it cannot be had, by its end or because somebody blocks it: signals still work.
    """
    task = asyncio.ensure_future(
        wait_ready(
            life.control, process, timeout=life.ready_timeout, memory=life.memory,
            on_progress=life.tell,
        )
    )
    try:
        await first(None, asyncio.wait((task,)), requests.event.wait())
        await asyncio.wait((task,), timeout=GRACE)
        if not task.done():
            return None
        monitor = task.result()
    except HostError as error:
        say(f"no monitor: {error.problems[0].message}")
        return None
    finally:
        task.cancel()
        await asyncio.wait((task,))
    with contextlib.suppress(HostError):
        status = await monitor.execute("query-status")
        if status["status"] in ("prelaunch", "inmigrate"):
            say("its guest never ran; ending it")
            requests.request("recover")
    return monitor
