"""The launcher's signals and what it holds of a running QEMU, as context managers."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from qlaunch.children import ENDING
from qlaunch.errors import HostError, Problem
from qlaunch.vm.process import QemuProcess

KILLED_WITHIN = 30.0  # seconds; VFIO may have to tear down much memory
GIVING_BACK = "still giving back; this cannot be hurried"
_entered: list[Interrupts] = []  # the signals are the process's: the last one has them


def current() -> Interrupts:
    """Those that have the signals; where nobody has, one that gets none."""
    return _entered[-1] if _entered else Interrupts(lambda _: None)


class Interrupts:
    """The signals that end a run raise KeyboardInterrupt once; after that they only tell.

    Once, because what the first one ends in is giving the host back, and nothing may end that. The
    event loop takes the signals over while the guest runs (vm/watch.py) and hands them back here.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._armed = True
        self._held = False
        self._whole = False
        self._ends = False  # what is done just now
        self._doing = GIVING_BACK
        self.done = ""  # what was carried out whole
        self.pending = ""  # what arrived while held
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> None:
        """Only note what arrives in `pending`: a QEMU that was started must not be lost."""
        self._held = True

    def disarm(self) -> None:
        """From here on only tell."""
        self._armed = False

    @contextlib.contextmanager
    def undivided(self, done: str) -> Iterator[None]:
        """Within the block only tell; what arrived ends what comes after it. `done` says then what
        the block has done."""
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
        self.done = done
        if self._armed and self.pending and not self._held:
            self._armed = False
            raise KeyboardInterrupt(self.pending)

    @contextlib.contextmanager
    def ending(self, doing: str) -> Iterator[None]:
        """Within the block the first signal raises KeyboardInterrupt, whatever cannot be hurried
        around it; those after it tell what is done then."""
        self._ends, self._doing = True, doing
        try:
            yield
        finally:
            self._ends, self._doing = False, GIVING_BACK

    def before_a_run(self, error: KeyboardInterrupt) -> HostError:
        """What an interrupt before the first change of a run is told as."""
        done = f"{self.done}; nothing else was changed" if self.done else "nothing was changed"
        return HostError(Problem(f"interrupted; {done}", found=str(error)))

    def __enter__(self) -> Interrupts:
        _entered.append(self)
        for number in ENDING:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        _entered.remove(self)

    def _handle(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if self._held or self._whole:
            self.pending = name
        if self._ends:
            self._ends = False
            raise KeyboardInterrupt(name)
        if self._armed and not (self._held or self._whole):
            self._armed = False
            raise KeyboardInterrupt(name)
        if self._whole or not self._armed:
            self._say(f"{name}: {self._doing}")


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
