"""The launcher's signals and terminal around a run, as context managers."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt like SIGINT until the event loop takes them."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminal_kept(uses_terminal: bool) -> Iterator[None]:
    """QEMU's serial console makes the terminal raw; killed, it cannot undo that itself."""
    import termios

    saved = None
    if uses_terminal:
        with contextlib.suppress(termios.error, OSError):
            saved = termios.tcgetattr(0)
    try:
        yield
    finally:
        if saved is not None:
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(0, termios.TCSANOW, saved)
