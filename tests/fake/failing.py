"""Every write of some steps fails in turn on a fake kernel, with nothing done and with all done."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qlaunch.errors import HostError, NotRestoredError
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import Step
from qlaunch.run.engine import Engine
from tests.fake.scripted import MemoryLog

MOST = 50  # writes; no steps here make that many


def each_write_fails(
    kernel: Any, moment: str, steps: Sequence[Step], snapshot: Callable[[Path], object]
) -> int:
    """How many writes there were. `moment` is "before" or "after" the write is made.

    Asserts that the host is as it was each time, and also once all writes went well and were
    undone. Writes are counted in a file, because some are made in a forked child.
    """
    before = snapshot(kernel.root)
    counter = kernel.root / ".model/count"

    def fail_at(n: int) -> Callable[[str, str], None]:
        def hook(path: str, _: str) -> None:
            with counter.open("a") as file:
                file.write(".")
            if counter.stat().st_size == n:
                raise OSError(errno.EIO, "Input/output error", path)

        return hook

    for n in range(1, MOST):
        counter.write_text("")
        setattr(kernel, f"{moment}_write", fail_at(n))
        engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
        try:
            engine.apply(steps)
        except HostError as error:
            assert not isinstance(error, NotRestoredError)
            assert snapshot(kernel.root) == before, f"write {n}"
        else:
            setattr(kernel, f"{moment}_write", None)
            assert engine.undo_all().left == ()
            assert snapshot(kernel.root) == before
            return n - 1
    raise AssertionError(f"more than {MOST} writes")
