"""This terminal on a machine's serial port: which ports there are, and the relay.

The port's other end is a unix socket, a TCP port or a pseudo-terminal of QEMU's. The relay needs no
event loop: two fds are all it looks at, and it must put the terminal back whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from qlaunch.vm.monitor import Monitor

CHUNK = 1 << 14
ENDING = (signal.SIGTERM, signal.SIGHUP)
Kind = Literal["unix", "tcp", "pty", "file", "stdio", "other"]
Ended = Literal["escape", "closed", "input", "signal"]


class Port(NamedTuple):
    """A character device of QEMU's that is a port of the machine's; `where` by `kind`: a path or
    host:port. `taken` when somebody is connected to it."""

    id: str
    kind: Kind
    where: str
    taken: bool


async def read_ports(monitor: Monitor) -> list[Port]:
    """Serial, then parallel ports and the debug console, each by number. Raises HostError."""
    found = [port_of(one) for one in await monitor.execute("query-chardev")]
    order = ("serial", "parallel", "debugcon")
    ports = [(order.index(kind), port) for port in found for kind in order
             if port.id.rstrip("0123456789") == kind]
    return [port for _, port in sorted(ports)]


def port_of(chardev: dict[str, Any]) -> Port:
    """From query-chardev's words: `disconnected:unix:/path,server=on`, `pty:/dev/pts/3`, `file`.

    A client's address follows `server=on` once it is connected (qemu_chr_socket_address).
    """
    label, name = str(chardev["label"]), str(chardev["filename"])
    idle = name.startswith("disconnected:")
    kind, _, rest = name.removeprefix("disconnected:").partition(":")
    if kind in ("unix", "tcp"):
        where = rest.partition(",server=")[0].partition(" <-> ")[0]
        return Port(label, "unix" if kind == "unix" else "tcp", where, not idle)
    if kind == "pty":
        return Port(label, "pty", rest, False)
    return Port(label, "file" if kind == "file" else "other", rest, not idle)


def escape_key(text: str) -> int:
    """The byte of `^]`, `ctrl-a` or a single character. Raises ValueError."""
    short = text.lower().removeprefix("ctrl-").removeprefix("^")
    if len(short) != 1 or not short.isascii():
        raise ValueError("a key like ^] or ctrl-a")
    if short == text:
        return ord(text)
    code = ord(short.upper()) ^ 0x40
    if code >= 0x20:
        raise ValueError("a key like ^] or ctrl-a")
    return code


class ToldToEnd(Exception):
    """A signal that ends us came."""


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """The terminal passes every key on meanwhile; as it was, afterwards, whatever happens.

    A shell that stopped and continued us has put its own settings in: ours come back.
    """
    if not os.isatty(fd):
        with ending_signals():
            yield
        return
    before = termios.tcgetattr(fd)

    def again(number: int, frame: object) -> None:
        with contextlib.suppress(termios.error):
            tty.setraw(fd, termios.TCSADRAIN)

    with ending_signals():
        continued = signal.signal(signal.SIGCONT, again)
        try:
            tty.setraw(fd, termios.TCSADRAIN)
            yield
        finally:
            signal.signal(signal.SIGCONT, continued)
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ToldToEnd in the block: a terminal has to be put back first."""

    def tell(number: int, frame: object) -> None:
        raise ToldToEnd

    before = {number: signal.signal(number, tell) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def relay(port: int, escape: int, *, source: int = 0, sink: int = 1) -> Ended:
    """Pass keys and output on until the escape key, the port's end, or a signal.

    `port` is non-blocking. What is typed while the guest does not read waits here. When `source` is
    no terminal and has ended, output is passed on until the port ends.
    """
    with raw_terminal(source):
        try:
            return _Relay(port, escape, source, sink).run()
        except ToldToEnd:
            return "signal"


class _Relay:
    def __init__(self, port: int, escape: int, source: int, sink: int) -> None:
        self.port, self.escape, self.source, self.sink = port, escape, source, sink
        self.terminal = os.isatty(source)
        self.waiting = b""
        self.poll = select.poll()
        self.poll.register(port, select.POLLIN)
        self.poll.register(source, select.POLLIN)

    def run(self) -> Ended:
        while True:
            for fd, events in self.poll.poll():
                if fd == self.port and (ended := self._at_port(events)):
                    return ended
                if fd == self.source and (ended := self._at_source()):
                    return ended
            wanted = select.POLLIN | (select.POLLOUT if self.waiting else 0)
            self.poll.modify(self.port, wanted)

    def _at_port(self, events: int) -> Ended | None:
        try:
            if events & select.POLLOUT:
                self.waiting = self.waiting[os.write(self.port, self.waiting):]
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                data = os.read(self.port, CHUNK)
                if not data:
                    return "closed"
                self._show(data)
        except BlockingIOError:
            return None
        except OSError:  # EIO of a pseudo-terminal, ECONNRESET: QEMU is gone
            return "closed"
        return None

    def _show(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.sink, view):]

    def _at_source(self) -> Ended | None:
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return None
        except OSError:  # a terminal that was hung up
            return "input"
        if not data:
            self.poll.unregister(self.source)
            return "input" if self.terminal else None
        keys, found, _ = data.partition(bytes([self.escape])) if self.terminal else (data, b"", b"")
        self.waiting += keys
        if not found:
            return None
        with contextlib.suppress(OSError):  # what was typed before the escape key goes first
            os.write(self.port, self.waiting)
        return "escape"


def flush_input(fd: int) -> None:
    """What was typed ahead is not the shell's."""
    if os.isatty(fd):
        with contextlib.suppress(termios.error):
            termios.tcflush(fd, termios.TCIFLUSH)
    sys.stdout.flush()
