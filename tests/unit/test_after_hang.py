"""A hook that does not end: a request to stop ends it, it is told by its name and pid, and nobody
runs it again."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.children import ENDING
from qlaunch.profile.control import Hooks
from qlaunch.run import account
from qlaunch.run.engine import Engine, Outcome
from qlaunch.run.journal import HooksRun, read_journal
from qlaunch.run.story import Story
from tests.fake.faults import Fault, in_process, launch, put_back, start
from tests.fake.whole import WholeKernel
from tests.unit.test_faults import kernel
from tests.unit.test_journal_cuts import few_steps

__all__ = ["kernel"]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
PATIENCE = 60.0
HANGS = """\
import os, signal, time
signal.signal(signal.SIGTERM, signal.{term})
with open({notes!r}, 'a') as file:
    file.write(f'{{os.getpid()}} {{os.getppid()}}\\n')
time.sleep(600)
"""


@pytest.fixture
def said(kernel: WholeKernel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run in another process tells."""
    path = kernel.root / ".model/said"
    path.touch()

    def say(self: Story, text: str) -> None:
        with path.open("a") as file:
            file.write(f"{text}\n")

    monkeypatch.setattr(Story, "say", say)
    monkeypatch.setattr(Story, "note", say)
    monkeypatch.setattr(account, "TOLD", 0.05)
    return path


class Hook:
    """One that writes its pid and its parent's, and then sleeps."""

    def __init__(self, kernel: WholeKernel, folder: Path) -> None:
        self.notes = kernel.root / ".model/hooked"
        self.script = folder / "hangs"
        self.write("SIG_DFL")
        self.words = (sys.executable, str(self.script))
        self.name = " ".join(self.words)
        plan = few_steps(kernel)
        self.plan = replace(plan, profile=replace(plan.profile, hooks=Hooks(after=(self.words,))))

    def write(self, term: str) -> None:
        self.script.write_text(HANGS.format(term=term, notes=str(self.notes)))

    def seen(self) -> list[tuple[int, int]]:
        """Its pid and its parent's, each time that it was run."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [(int(a), int(b)) for a, b in (line.split() for line in lines)]


@pytest.fixture
def hook(kernel: WholeKernel, tmp_path: Path) -> Iterator[Hook]:
    hook = Hook(kernel, tmp_path)
    yield hook
    for pid, _ in hook.seen():
        if is_there(pid):
            os.kill(pid, signal.SIGKILL)


def is_there(pid: int) -> bool:
    """Whether it runs; nobody may have reaped it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def beside(hook: Hook, work: Callable[[], int], then: Callable[[], None]) -> int:
    """The exit code of `work`, in a process of its own, while `then` is done here; the hook does
    not outlive it."""
    pid = os.fork()
    if pid == 0:
        os._exit(in_process(work) & 127)
    try:
        then()
        until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    finally:
        for number, _ in hook.seen():
            if is_there(number):
                os.kill(number, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def stopping(hook: Hook, said: Path, number: signal.Signals) -> Callable[[], None]:
    """Once the hook is waited for, this signal to who waits."""
    def stop() -> None:
        until(lambda: len(hook.seen()) == 1 and "waiting for the hook" in said.read_text())
        os.kill(hook.seen()[0][1], number)

    return stop


@pytest.mark.parametrize("number", ENDING)
def test_a_request_to_stop_ends_it(
    kernel: WholeKernel, hook: Hook, said: Path, number: signal.Signals
) -> None:
    stop = stopping(hook, said, number)
    assert beside(hook, lambda: start(kernel, hook.plan), stop) == 0
    ((pid, _),) = hook.seen()
    assert not is_there(pid)
    told = said.read_text()
    assert f"waiting for the hook [after] {hook.name} (pid {pid}); Ctrl-C ends it\n" in told
    assert (
        f"error: hooks.after: a hook was ended by {number.name}\n"
        f"  found:   {hook.name} (pid {pid})\nhint: run it by hand: {hook.name}\n"
    ) in told
    assert "cannot be hurried" not in told
    assert not (kernel.root / "run/qlaunch/vm/journal").exists()


def test_one_that_does_not_listen_is_killed(
    kernel: WholeKernel, hook: Hook, said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.write("SIG_IGN")
    monkeypatch.setattr(account, "GOING", 1.0)

    def stop() -> None:
        stopping(hook, said, signal.SIGINT)()
        with suppress(ProcessLookupError):
            os.kill(hook.seen()[0][1], signal.SIGTERM)

    assert beside(hook, lambda: start(kernel, hook.plan), stop) == 0
    assert not is_there(hook.seen()[0][0])
    assert "a hook was ended by SIGINT" in said.read_text()


def test_one_that_was_ended_is_not_run_again(
    kernel: WholeKernel, hook: Hook, said: Path
) -> None:
    """Something is left, so the journal is; `recover` ends it as a run does."""
    assert launch(kernel, hook.plan, Fault("killed after apply", len(hook.plan.steps) - 1)) == -9
    journal = kernel.root / "run/qlaunch/vm/journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join((lines[0], b"?\n", *lines[1:])))
    said.write_text("")
    stop = stopping(hook, said, signal.SIGTERM)
    assert beside(hook, lambda: put_back(kernel, hook.plan, "recover"), stop) == 3
    assert put_back(kernel, hook.plan, "recover") == 3
    assert len(hook.seen()) == 1
    assert [r for r in read_journal(journal).records if r == HooksRun()] == [HooksRun()]


def test_a_killed_launcher_takes_it_along(kernel: WholeKernel, hook: Hook, said: Path) -> None:
    """It is for the next start to run it, and two at once would be in each other's way."""
    stop = stopping(hook, said, signal.SIGKILL)

    def gone() -> None:
        stop()
        until(lambda: not is_there(hook.seen()[0][0]))

    assert beside(hook, lambda: start(kernel, hook.plan), gone) == -9 & 127


def test_before_a_run_it_is_ended_and_so_is_the_run(
    kernel: WholeKernel, hook: Hook, said: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(kernel, hook.plan, Fault("killed after apply", len(hook.plan.steps) - 1)) == -9
    said.write_text("")
    stop = stopping(hook, said, signal.SIGINT)
    assert beside(hook, lambda: start(kernel, hook.plan), stop) == 1
    assert "interrupted; what an earlier run had left is put back; nothing else was changed" in (
        capfd.readouterr().err)
    assert len(hook.seen()) == 1
    assert "a hook was ended by SIGINT" in said.read_text()
    assert not (kernel.root / "run/qlaunch/vm/journal").exists()


def test_a_recovery_before_a_run_is_not_cut_short(
    kernel: WholeKernel, hook: Hook, said: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Interrupted at its first step, it goes on to the last, and the run does not begin."""
    plan = replace(hook.plan, profile=replace(hook.plan.profile, hooks=Hooks()))
    assert launch(kernel, plan, Fault("killed after apply", len(plan.steps) - 1)) == -9
    undo_all = Engine.undo_all

    def interrupted(engine: Engine) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        return undo_all(engine)

    monkeypatch.setattr(Engine, "undo_all", interrupted)
    said.write_text("")
    assert launch(kernel, plan) == 1
    assert "interrupted; what an earlier run had left is put back; nothing else was changed" in (
        capfd.readouterr().err)
    told = said.read_text()
    assert "SIGINT: still giving back; this cannot be hurried\n" in told
    assert "[3]" not in told
    assert not (kernel.root / "run/qlaunch/vm/journal").exists()
