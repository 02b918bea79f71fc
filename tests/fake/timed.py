"""Work that has to end: a hang is a failure of the example that hung, not of the whole run."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator
from types import FrameType

from qlaunch.errors import Problem

LONGEST = 60.0  # seconds for what takes a few milliseconds, on a busy machine


@contextlib.contextmanager
def within(seconds: float = LONGEST) -> Iterator[None]:
    """The block may take so long; after that whatever it does is interrupted."""

    def enough(signum: int, frame: FrameType | None) -> None:
        raise AssertionError(f"did not end within {seconds:g} s")

    earlier = signal.signal(signal.SIGALRM, enough)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def check_told(problems: Iterable[Problem]) -> None:
    """Each says something, and of what: a place in the profile, a device, a path."""
    for problem in problems:
        assert problem.message
        assert problem.where, problem
        assert str(problem).encode(errors="strict")
