"""Watch a running machine until its QEMU is gone, and say how it ended.

Signals are taken by `StopRequests`, which the session enters before it changes anything and leaves
after everything is put back: a signal that comes between two waits is kept, never fatal.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from types import FrameType, TracebackType
from typing import Any, Literal, NamedTuple

from qlaunch.children import ENDING
from qlaunch.errors import HostError
from qlaunch.vm.loop import asyncio, exited, first
from qlaunch.vm.monitor import Event, Monitor
from qlaunch.vm.process import Exit, QemuProcess
from qlaunch.vm.stop import Log, Patience, Rung, Stopped, stop_machine

NOW = ("SIGUSR1", "qlaunch stop --now")  # requests by which the guest is not asked
ECHO = 0.3  # seconds; a closing terminal and systemd send two signals for one request
LAST_EVENTS = 2.0  # seconds for QMP to reach its end after QEMU's
REDIAL = 1.0  # seconds between two attempts to reach a QEMU whose monitor was lost

Reason = Literal["guest", "host", "stopped", "panic", "died", "gone", "stuck"]
Beside = Callable[[Monitor, Log], Coroutine[Any, Any, None]]
_Handler = Callable[[int, FrameType | None], Any] | int | None


class End(NamedTuple):
    """How a machine ended: "guest" powered off, "host" was told to by another than us, "stopped"
    by our ladder, "panic", "died" of itself, "gone" when it was another's child and told nothing,
    or "stuck" and still there."""

    reason: Reason
    guest_initiated: bool
    exit: Exit
    rungs: tuple[Rung, ...] = ()
    detail: str = ""

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong on the way."""
        return self.reason in ("guest", "host", "stopped", "gone") and self.exit.signal is None


class StopRequests:
    """Requests to stop, from signals or by `request()`; enter it inside the running loop.

    On leaving, the handlers that were there before are back.
    """

    def __init__(self, numbers: Iterable[signal.Signals] = ENDING, *, echo: float = ECHO) -> None:
        self.event = asyncio.Event()
        self.count = 0
        self.last = ""  # who asked
        self.now = False  # not by way of the guest
        self._numbers = tuple(numbers)
        self._echo = echo
        self._when = float("-inf")
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> StopRequests:
        self._loop = asyncio.get_running_loop()
        for number in self._numbers:
            self._before[number] = signal.getsignal(number)
            self._loop.add_signal_handler(number, self.request, number.name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, handler)
        self._before.clear()

    def request(self, who: str) -> None:
        """Ask once more. The first starts the ladder, each later one skips a rung.

        One of `NOW` leaves the first rung, the power button, out.
        """
        now = self._loop.time()
        news = who in NOW and not self.now
        echoes = now - self._when < self._echo and not news
        self._when = now
        self.now = self.now or news
        if not echoes:
            self.count += 1
            self.last = who
            self.event.set()


async def watch(
    monitor: Monitor | None,
    process: QemuProcess,
    requests: StopRequests,
    *,
    timeout: float,
    log: Log = lambda text: None,
    devices: int = 0,
    patience: Patience | None = None,
    control: str = "",
    beside: Beside | None = None,
) -> End:
    """Until QEMU is gone: log its events, and climb the ladder once a stop is requested.

    `timeout` is the guest's, to shut down. When this returns QEMU has been reaped, except with
    reason "stuck". The monitor is left to be closed by the caller; when there is none, or it is
    lost while QEMU lives, the path `control` is dialled until QEMU answers again. `beside` runs
    along with each of these monitors, and is cancelled at its end.
    """
    seen: dict[str, Event] = {}
    line = _Line(monitor, process, control, log, beside)
    follower = asyncio.ensure_future(line.follow(seen))
    stopped: Stopped | None = None
    try:
        if await first(None, exited(process), requests.event.wait()) == 1:
            requests.event.clear()
            log(f"stopping: {requests.last}")
            stopped = await stop_machine(
                line.monitor, process, timeout=None if requests.now else timeout, log=log,
                escalate=requests.event,
                devices=devices, patience=patience,
            )  # fmt: skip
        if process.poll() is not None:
            await asyncio.wait((follower,), timeout=LAST_EVENTS)
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        await line.close()
    return judge(process.poll(), seen, stopped)


class _Line:
    """The monitor that is talked to at present: the caller's, and ours once that was lost."""

    def __init__(
        self, monitor: Monitor | None, process: QemuProcess, control: str, log: Log,
        beside: Beside | None = None,
    ) -> None:
        self.monitor = monitor
        self._process = process
        self._control = control
        self._log = log
        self._ours: Monitor | None = None
        self._beside = beside

    async def follow(self, seen: dict[str, Event]) -> None:
        """Note and tell all events, until QEMU has ended (or nothing can be dialled)."""
        while True:
            if self.monitor is not None:
                async with self._along(self.monitor):
                    async for event in self.monitor.events:
                        seen[event.name] = event
                        if text := describe(event):
                            self._log(text)
                self._log(f"QMP has ended: {self.monitor.lost}")
            if not self._control or not await self._redial():
                return
            self._log("QMP answers again")

    @contextlib.asynccontextmanager
    async def _along(self, monitor: Monitor) -> AsyncIterator[None]:
        if self._beside is None:
            yield
            return
        task = asyncio.ensure_future(self._beside(monitor, self._log))
        try:
            yield
        finally:
            task.cancel()
            (fault,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(fault, Exception):
                self._log(f"no longer looked after: {fault}")

    async def _redial(self) -> bool:
        """Whether there is a new connection; False when QEMU has ended."""
        await self.close()
        while await first(REDIAL, exited(self._process)) is None:
            with contextlib.suppress(HostError):
                self.monitor = self._ours = await Monitor.connect(
                    self._control, timeout=None, alive=lambda: self._process.poll() is None
                )
                return True
        return False

    async def close(self) -> None:
        """End what was dialled here."""
        if self._ours is not None:
            await self._ours.close()
            self._ours = None


def judge(ended: Exit | None, seen: dict[str, Event], stopped: Stopped | None) -> End:
    """What happened, from how the process ended, what it told before, and what we did."""
    if ended is None:
        return End("stuck", False, Exit(), stopped.tried if stopped else (), str(stopped or ""))
    shutdown = seen.get("SHUTDOWN")
    cause = str(shutdown.data.get("reason", "")) if shutdown else ""
    rungs = stopped.tried if stopped else ()
    if cause == "guest-panic":
        return End("panic", True, ended, rungs, cause)
    if rungs:
        return End("stopped", False, ended, rungs, cause)
    if shutdown is None and ended == Exit():
        return End("gone", False, ended, detail="how, only its parent was told")
    if shutdown is None:
        return End("died", False, ended, detail=str(ended))
    by_guest = bool(shutdown.data.get("guest"))
    return End("guest" if by_guest else "host", by_guest, ended, detail=cause)


def describe(event: Event) -> str:
    """A line for the log, or "" for what is only noise to a user."""
    data = event.data
    who = "guest" if data.get("guest") else "host"
    texts = {
        "SHUTDOWN": f"the machine shuts down, asked by the {who} ({data.get('reason', '?')})",
        "RESET": f"the machine resets, asked by the {who} ({data.get('reason', '?')})",
        "POWERDOWN": "the power button was pressed",
        "STOP": "the machine is paused",
        "RESUME": "the machine runs",
        "SUSPEND": "the guest has gone to sleep",
        "WAKEUP": "the guest has woken up",
        "GUEST_PANICKED": f"the guest has crashed (action: {data.get('action', '?')})",
        "BLOCK_IO_ERROR": _io_error(data),
        "DEVICE_DELETED": f"the guest has let go of {data.get('device') or data.get('path', '?')}",
        "MEMORY_FAILURE": f"host memory is failing (action: {data.get('action', '?')})",
    }
    return texts.get(event.name, "")


def _io_error(data: object) -> str:
    get = data.get if isinstance(data, dict) else {}.get
    disk = get("device") or get("node-name") or "a disk"
    return (
        f"{disk}: {get('operation', 'access')} failed: {get('reason', '?')}"
        f" (action: {get('action', '?')})"
    )
