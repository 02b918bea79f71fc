"""A fault at one host step of a real run, and the whole host compared before and after."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from .machine import ROOT, Run, qlaunch
from .state import changed, host_state

AT_STEP = str(ROOT / "tests/fake/at_step.py")
MOMENTS = (
    "refused", "half done", "killed before apply", "killed in apply", "killed after apply",
    "killed in undo", "killed after undo",
)  # fmt: skip
NO_SUCH_STEP = 1 << 10
Tell = Callable[[str, object], None]


def try_fault(start: Callable[[tuple[str, ...]], Run], k: int, moment: str) -> bool:
    """Whether there was such a step. The host is as it was in any case.

    `start` starts a machine by the program that it is given.
    """
    before = host_state()
    (Path(os.environ["QLAUNCH_FAULT_DIR"]) / ".model/seen").unlink(missing_ok=True)
    run = start((AT_STEP, str(k), moment))
    code = run.wait(600)
    case = f"{moment} at step {k}: {run.said}"
    if code not in (0, 1):
        assert code == -signal.SIGKILL, case
        done = qlaunch("recover", "--all", timeout=300)
        assert done.returncode == 0, f"{case}\n{done.stderr}"
    differs = changed(before, host_state())
    assert not differs, f"{case}\n{differs}"
    return code != 0
