"""QMP: ask QEMU, and hear what happens to it. The one file that imports qemu.qmp.

The library's connection reports an end only to whoever disconnects it, and asyncio complains of
what nobody collected; so one task waits for the end, disconnects, and keeps the reason. All that
leaves this file is HostError.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

from qlaunch.errors import HostError, Problem
from qlaunch.vm.loop import asyncio, first, without_ssl
from qlaunch.vm.sockets import connect_unix
from qlaunch.vm.words import lock_remedy

_annotations_only = ModuleType("ssl")
_annotations_only.SSLContext = object  # type: ignore[attr-defined]
with without_ssl(_annotations_only):
    from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError, Runstate
    from qemu.qmp.message import Message

READ_LIMIT = 16 << 20  # bytes of one reply; query-qmp-schema has 200 KiB
KEPT_EVENTS = 1024  # that nobody has read; a failing disk can send thousands a second
DIAL_EVERY = 0.02
ALIVE_EVERY = 0.2
CLOSING = 2.0
LOGS = "qlaunch logs NAME may tell more"  # hints
_ALIVE = "qlaunch ps tells whether it still runs"
_HANGS = "qlaunch status NAME tells whether it works; qlaunch stop NAME --force ends it"
# What reading an answer of another shape than QEMU's raises.
MISREAD = (LookupError, TypeError, ValueError, AttributeError)


class QmpError(HostError):
    """QEMU understood the command and refused it; `error_class` and `desc` are its words."""

    def __init__(self, command: str, error_class: str, desc: str) -> None:
        super().__init__(Problem(f"QEMU refused {command}", hint=lock_remedy(desc) or LOGS,
                                 found=f"{desc} ({error_class})"))
        self.error_class = error_class
        self.desc = desc


def not_understood(error: Exception) -> HostError:
    """For an answer that has not the form of QEMU's."""
    return _fault("QEMU's answer is not understood", f"{type(error).__name__}: {error}",
                  "please report it, with what this prints: qlaunch facts --json", "QMP")


def _fault(message: str, found: str, hint: str, where: str = "") -> HostError:
    return HostError(Problem(message, where=where, found=found, hint=hint))


class Event(NamedTuple):
    """Something QEMU told without having been asked."""

    name: str
    data: Mapping[str, Any]
    seconds: float  # since the epoch, by QEMU's clock


class Events:
    """A queue of events that ends with the connection; the oldest are dropped when nobody reads."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._news = asyncio.Event()
        self._over = False

    def put(self, event: Event) -> None:
        """Add one."""
        self._waiting.append(event)
        self._news.set()

    def end(self) -> None:
        """No more will come; those that wait are still given out."""
        self._over = True
        self._news.set()

    async def get(self) -> Event | None:
        """The next event, or None when there will be no more."""
        while not self._waiting:
            if self._over:
                return None
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        event = await self.get()
        if event is None:
            raise StopAsyncIteration
        return event


class Monitor:
    """One QMP connection. `events` holds all events since it was made; `lost` says why it ended."""

    def __init__(self) -> None:
        self.events = Events()
        self.lost = ""
        self._also: list[Events] = []
        self._stop = asyncio.Event()
        self._over = asyncio.Event()
        self._socket: socket.socket | None = None
        self._attendant: asyncio.Task[None] | None = None
        self._client = QMPClient("qlaunch")
        self._client.readbuflen = READ_LIMIT
        # The library keeps every event of the run as history, unless its filter refuses them.
        self._client.events.event_filter = self._hear

    @classmethod
    async def connect(
        cls, where: str | socket.socket, *, timeout: float | None = 30.0,
        alive: Callable[[], bool] = lambda: True,
    ) -> Monitor:
        """Connect to a path, which may not exist yet, or take a connected socket, and negotiate.

        Returns when QEMU has answered qmp_capabilities. Raises HostError, with the socket closed,
        when `alive` says no, after `timeout`, or when what answers is not QMP.
        """
        monitor = cls()
        task = asyncio.ensure_future(monitor._open(where))
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        try:
            while not task.done():
                left = ALIVE_EVERY if deadline is None else deadline - loop.time()
                if left <= 0:
                    raise _fault(f"QEMU did not answer on QMP within {timeout:g} s", "", _HANGS)
                await asyncio.wait((task,), timeout=min(left, ALIVE_EVERY))
                if not task.done() and not alive():
                    raise _fault("QEMU ended before it answered on QMP", "", LOGS)
            task.result()
        except BaseException:
            await _drop(task)
            await monitor.close()
            if isinstance(where, socket.socket):
                where.close()
            raise
        return monitor

    async def _open(self, where: str | socket.socket) -> None:
        sock = await _dial(where) if isinstance(where, str) else where
        try:
            await self._client.connect(sock)
        except (ConnectError, AssertionError, asyncio.CancelledError) as error:
            # The library asserts that the connection has not ended again within its connect().
            cause = error.exc if isinstance(error, ConnectError) else await self._disconnect()
            sock.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise _fault("QMP could not be started", _reason(cause or error), LOGS) from None
        self._socket = sock
        self._attendant = asyncio.ensure_future(self._attend())

    async def __aenter__(self) -> Monitor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
        if isinstance(error, MISREAD):
            raise not_understood(error) from error

    @property
    def closed(self) -> bool:
        """Whether the connection is over; `lost` then says why."""
        return bool(self.lost)

    async def wait_closed(self) -> None:
        """Wait until the connection is over, by whichever side. All events are in the queues."""
        await self._over.wait()

    @contextlib.contextmanager
    def listen(self) -> Iterator[Events]:
        """A queue of its own for a second reader of events, for the length of a `with` block."""
        events = Events()
        if self.closed:
            events.end()
        self._also.append(events)
        try:
            yield events
        finally:
            self._also.remove(events)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float | None = 30.0,
    ) -> Any:
        """Ask, and return what QEMU returns. The connection can be used again after a timeout.

        Raises QmpError when QEMU refuses, HostError when the connection is over or no answer
        comes; in that case the command may still have been, or come to be, carried out.
        """
        if self.lost:
            raise _fault(f"{command} was not sent to QEMU", self.lost, _ALIVE)
        task = asyncio.ensure_future(self._client.execute(command, arguments))
        try:
            # Not wait_for(): before Python 3.12 it may swallow a cancellation.
            await asyncio.wait((task,), timeout=timeout)
            if not task.done():
                raise _fault(f"QEMU did not answer {command} within {timeout:g} s", "", _HANGS)
            return task.result()
        except ExecuteError as error:
            raise QmpError(command, error.error.error.class_, error.error.error.desc) from None
        except QMPError as error:
            if self._client.runstate is Runstate.RUNNING:
                raise _fault(f"{command} failed", _reason(error), LOGS) from None
            await self._over.wait()  # the attendant has the cause
            text = f"the connection ended before QEMU answered {command}"
            raise _fault(text, self.lost, _ALIVE) from None
        finally:
            await _drop(task)

    async def add_fd(self, fd: int, opaque: str) -> Any:
        """Hand an open file over as a new fd set; add-fd's answer. Raises as `execute` does."""
        if self.lost:
            raise _fault("add-fd was not sent to QEMU", self.lost, _ALIVE)
        try:
            self._client.send_fd_scm(fd)
        except (OSError, QMPError) as error:
            raise _fault("QEMU was not given the file", str(error), _ALIVE) from None
        return await self.execute("add-fd", {"opaque": opaque})

    async def close(self) -> None:
        """End the connection; QEMU runs on. All of its tasks are over when this returns."""
        self._stop.set()
        if self._attendant is None:
            return
        done, _ = await asyncio.wait((self._attendant,), timeout=CLOSING)
        if not done and self._socket is not None:
            # QEMU does not read what is still being written.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            await asyncio.wait((self._attendant,))

    async def _attend(self) -> None:
        reason = "the connection was closed"
        try:
            ended = await first(None, self._ended(), self._stop.wait())
            cause = await self._disconnect()
            if ended == 0 and cause is not None:
                reason = _reason(cause)
        finally:
            self.lost = reason
            self._over.set()
            for queue in (self.events, *self._also):
                queue.end()

    async def _disconnect(self) -> Exception | None:
        """Collect what the library's tasks ended with."""
        try:
            await self._client.disconnect()
        except Exception as error:
            return error
        return None

    async def _ended(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    def _hear(self, message: Message) -> bool:
        data, seconds = message.get("data"), 0.0
        stamp: Any = message.get("timestamp")
        with contextlib.suppress(AttributeError, TypeError):  # no time, or no numbers
            seconds = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
        event = Event(str(message["event"]), data if isinstance(data, dict) else {}, seconds)
        for queue in (self.events, *self._also):
            queue.put(event)
        return False


async def _drop(task: asyncio.Task[Any]) -> None:
    """Have a task over and its exception collected, or asyncio would complain of it."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()


async def _dial(path: str) -> socket.socket:
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            connect_unix(sock, path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            sock.close()  # not there yet, or its backlog is full
            await asyncio.sleep(DIAL_EVERY)
        except OSError as error:
            sock.close()
            raise _fault("QMP could not be reached", error.strerror or "",
                         f"namei -l '{path}' shows what is in the way", path) from None
        else:
            return sock


def _reason(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "QEMU closed the connection"
    if isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE):
        return "QEMU closed the connection"
    text = str(error).partition("\n")[0][:200]
    return f"what came is not QMP: {text or type(error).__name__}"
