"""The launcher's signals and what it holds of a running QEMU, as context managers."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from qlaunch.children import ENDING
from qlaunch.vm.process import QemuProcess

KILLED_WITHIN = 30.0  # seconds; VFIO may have to tear down much memory


class Interrupts:
    """The signals that end a run raise KeyboardInterrupt once; after that they only tell.

    Once, because what the first one ends in is giving the host back, and nothing may end that. The
    event loop takes the signals over while the guest runs (vm/watch.py) and hands them back here.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._armed = True
        self._held = False
        self.pending = ""  # what arrived while held
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> None:
        """Only note what arrives in `pending`: a QEMU that was started must not be lost."""
        self._held = True

    def disarm(self) -> None:
        """From here on only tell."""
        self._armed = False

    def __enter__(self) -> Interrupts:
        for number in ENDING:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if self._armed and self._held:
            self.pending = name
        elif self._armed:
            self._armed = False
            raise KeyboardInterrupt(name)
        else:
            self._say(f"{name}: still giving back; this cannot be hurried")


@contextlib.contextmanager
def closing(port: socket.socket | None) -> Iterator[None]:
    """Close our end of the serial port, if there is one."""
    try:
        yield
    finally:
        if port is not None:
            port.close()


@contextlib.contextmanager
def ended_on_failure(process: QemuProcess) -> Iterator[None]:
    """No QEMU outlives a launcher that failed: its devices could not go back."""
    try:
        yield
    except BaseException:
        if process.poll() is None:
            process.send(signal.SIGKILL)
            process.wait(KILLED_WITHIN)
        raise
