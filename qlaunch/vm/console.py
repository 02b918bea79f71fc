"""A serial port on the launcher's own stdin and stdout, relayed over a socket.

QEMU's own `stdio` would need the launcher's process group, and then a Ctrl-C that means the power
button would end QEMU on the spot. The terminal stays as it is: lines are edited by it, and Ctrl-C
is ours. When the launcher dies the port is merely unplugged.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Any

from qlaunch.vm.loop import asyncio

CHUNK = 1 << 16


class Console(contextlib.AbstractContextManager["Console"]):
    """Relays while entered, inside a running loop; what is left is drained on leaving."""

    def __init__(self, port: socket.socket, *, source: int = 0, sink: int = 1) -> None:
        self._port = port
        self._source = source
        self._sink = sink
        self._before: Any = None

    def __enter__(self) -> Console:
        self._port.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._port, self._from_guest)
        # Reading a terminal from the background would stop us; ignored, the read says EIO.
        self._before = signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # EPERM: a file or /dev/null is not waited for
            self._loop.add_reader(self._source, self._from_user)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.remove_reader(self._source)
        while self._from_guest():
            continue
        self._loop.remove_reader(self._port)
        signal.signal(signal.SIGTTIN, self._before)

    def _from_guest(self) -> bool:
        """Pass one chunk on; False when there is none."""
        try:
            data = self._port.recv(CHUNK)
            view = memoryview(data)
            while view:
                view = view[os.write(self._sink, view) :]
        except BlockingIOError:
            return False
        except OSError:  # nobody reads our stdout any more
            data = b""
        if not data:
            self._loop.remove_reader(self._port)
        return bool(data)

    def _from_user(self) -> None:
        try:
            data = os.read(self._source, CHUNK)
            if data:
                self._port.send(data)
        except BlockingIOError:
            return  # the guest does not read: what is typed is lost, as on a real line
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._source)
