"""The hooks for the end of a run, which bring a desktop back: they are run, whoever is killed
before them, and once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.plan.model import Plan
from qlaunch.profile.control import Hooks
from qlaunch.run import after
from qlaunch.run.journal import HooksRun, read_journal
from tests.fake.faults import WAYS, Fault, Way, in_process, launch, put_back, start
from tests.fake.whole import WholeKernel
from tests.unit.test_faults import compare, kernel
from tests.unit.test_journal_cuts import few_steps

__all__ = ["kernel"]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def with_hook(kernel: WholeKernel) -> tuple[Plan, Path]:
    """A plan whose hook writes a line to a file."""
    plan, told = few_steps(kernel), kernel.root / ".model/hooked"
    hook = ("sh", "-c", f"echo back >> {told}")
    return replace(plan, profile=replace(plan.profile, hooks=Hooks(after=(hook,)))), told


def killed_at(monkeypatch: pytest.MonkeyPatch, work: Callable[[], int]) -> int:
    """`work` in a process that is killed where it would run its first hook."""
    def kill(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(after, "run_hooks", kill)
        return work()


@pytest.mark.parametrize("way", WAYS)
def test_killed_between_the_undo_and_the_hook(
    kernel: WholeKernel, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, told = with_hook(kernel)
    assert launch(kernel, plan) == 0
    assert told.read_text() == "back\n"
    told.unlink()
    before = kernel.state()
    assert killed_at(monkeypatch, lambda: in_process(lambda: start(kernel, plan))) == -9
    assert not told.exists()
    assert put_back(kernel, plan, way) == 0
    assert told.read_text() == "back\n" * (2 if way == "run" else 1)  # its own beside
    compare(before, kernel.state(), way)


def test_a_recovery_killed_before_the_hook(
    kernel: WholeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, told = with_hook(kernel)
    assert launch(kernel, plan) == 0
    told.unlink()
    before = kernel.state()
    assert launch(kernel, plan, Fault("killed after apply", len(plan.steps) - 1)) == -9
    assert killed_at(monkeypatch, lambda: put_back(kernel, plan, "recover")) == -9
    assert not told.exists()
    assert put_back(kernel, plan, "recover") == 0
    assert told.read_text() == "back\n"
    compare(before, kernel.state(), "recover")


def test_hooks_that_were_run_are_not_run_again(kernel: WholeKernel) -> None:
    """Something is left, so the journal is, and says that the hooks were run."""
    plan, told = with_hook(kernel)
    assert launch(kernel, plan) == 0
    told.unlink()
    assert launch(kernel, plan, Fault("killed after apply", len(plan.steps) - 1)) == -9
    journal = kernel.root / "run/qlaunch/vm/journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join((lines[0], b"?\n", *lines[1:])))
    for _ in range(2):
        assert put_back(kernel, plan, "recover") == 3
        assert told.read_text() == "back\n"
    assert [r for r in read_journal(journal).records if r == HooksRun()] == [HooksRun()]
