"""Runs that go wrong at one chosen step, and what puts the host back after them.

A run is a Session in a process of its own, on the fake host of `whole.py`: with its locks, claims,
journal and undo, and with nothing where QEMU would be. `Fault` says what happens at which step.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import qlaunch.host.handlers
from qlaunch.errors import HostError, QlaunchError
from qlaunch.host.handler import Captured, Handler, Host
from qlaunch.plan.model import Plan
from qlaunch.run.session import Session
from qlaunch.run.story import Story
from qlaunch.vm.process import Exit
from qlaunch.vm.watch import End
from tests.fake.whole import WholeKernel

Moment = Literal[
    "refused",  # an exception before anything was done
    "half done",  # an exception once the step's first change is made
    "killed before apply",
    "killed in apply",  # one of its changes is made, and nothing is read back
    "killed after apply",  # all changes are made, none is on record
    "killed in undo",  # once one of its changes is made
    "killed after undo",
]
MOMENTS: tuple[Moment, ...] = Moment.__args__  # type: ignore[attr-defined]
Way = Literal["recover", "run"]
WAYS: tuple[Way, ...] = Way.__args__  # type: ignore[attr-defined]
Hook = Callable[[str, str], None]


class Fault(NamedTuple):
    """What goes wrong, at which step of the plan; in a step, after which of its changes."""

    moment: Moment | Literal["counted"]
    step: int
    change: int = 1


class Events:
    """Counts the kernel's changes over all processes, and ends the launcher at one of them."""

    def __init__(self, kernel: WholeKernel, launcher: int) -> None:
        self.kernel = kernel
        self.launcher = launcher
        self.seen = kernel.root / ".model/seen"
        self.counts = kernel.root / ".model/counts"

    def is_change(self, number: int) -> bool:
        """Count one; whether it is this one."""
        with self.seen.open("a") as file:
            file.write(".")
        return self.seen.stat().st_size == number

    def note(self, moment: str, step: int) -> None:
        """One for `count_changes`."""
        with self.counts.open("a") as file:
            file.write(f"{step} {moment}\n")

    def end(self) -> None:
        os.kill(self.launcher, signal.SIGKILL)
        os._exit(1)  # in a guarded child, which does nothing more either


class Faulty:
    """A handler that has the fault happen when its turn comes."""

    turn = -1  # of the step that is being applied, then undone

    def __init__(self, handler: Handler[Any], fault: Fault, events: Events) -> None:
        self.handler = handler
        self.fault = fault
        self.events = events

    def capture(self, host: Host, step: Any) -> Captured:
        return self.handler.capture(host, step)

    def apply(self, host: Host, step: Any, captured: Captured) -> None:
        Faulty.turn += 1
        mine = Faulty.turn == self.fault.step
        moment = self.fault.moment if mine else ""
        if moment == "refused":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if moment == "killed before apply":
            self.events.end()
        hooks: dict[str, Hook] = {"half done": self._fail, "killed in apply": self._kill}
        self._watch(hooks.get(moment) or self._counter("killed in apply"))
        try:
            self.handler.apply(host, step, captured)
        finally:
            self._watch(None)
        if moment in ("killed in apply", "killed after apply"):
            self.events.end()
        if moment == "half done":
            raise HostError("the kernel shows something else")

    def undo(self, host: Host, step: Any, captured: Captured) -> str | None:
        mine = Faulty.turn == self.fault.step and self.fault.moment.endswith("undo")
        self._watch(self._counter("killed in undo"))
        Faulty.turn -= 1
        if mine and self.fault.moment == "killed in undo":
            self._watch(self._kill)
        told = self.handler.undo(host, step, captured)
        if mine:
            self.events.end()
        return told

    def _watch(self, hook: Hook | None) -> None:
        self.events.kernel.after_write = hook

    def _counter(self, moment: Moment) -> Hook | None:
        if self.fault.moment != "counted":
            return None
        step = Faulty.turn
        return lambda *_: self.events.note(moment, step)

    def _kill(self, *_: str) -> None:
        if self.events.is_change(self.fault.change):
            self.events.end()

    def _fail(self, path: str, _: str) -> None:
        if self.events.is_change(1):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


class Run(Session):
    """A run whose guest does its worst to what it was lent and powers off."""

    kernel: WholeKernel

    def _live(self, plan: Plan, info: Any, lock: int) -> End:
        self.stage(9, "running")
        self.kernel.qemu_takes_usb()
        return End("guest", True, Exit(0))


def start(kernel: WholeKernel, plan: Plan) -> int:
    """A whole run, in this process. Raises what a Session raises."""
    loaded: Any = SimpleNamespace(
        profile=plan.profile, trusted=True, sources=(SimpleNamespace(path="vm.toml"),)
    )
    base = str(kernel.root / "run/qlaunch")
    net: Any = SimpleNamespace(start=lambda: None, close=lambda: None)
    story = Story(quiet=True)
    session = Run(loaded, lambda _: plan, story, base=base, net=net)
    session.kernel = kernel
    session.host = kernel.host()
    try:
        return session.run()
    finally:
        story.close()


def launch(kernel: WholeKernel, plan: Plan, fault: Fault | None = None) -> int:
    """A run in a process of its own; its exit code, or -9."""
    (kernel.root / ".model/seen").unlink(missing_ok=True)

    def work() -> int:
        if fault is not None:
            events = Events(kernel, os.getpid())
            handlers: Any = {
                kind: Faulty(handler, fault, events)
                for kind, handler in qlaunch.host.handlers.HANDLERS.items()
            }
            qlaunch.host.handlers.HANDLERS = handlers
        return start(kernel, plan)

    return in_process(work)


def count_changes(kernel: WholeKernel, plan: Plan) -> Counter[tuple[int, str]]:
    """How many changes of the host a run makes: in each step, in its apply and in its undo."""
    (kernel.root / ".model/counts").write_text("")
    assert launch(kernel, plan, Fault("counted", -1)) == 0
    lines = (kernel.root / ".model/counts").read_text().splitlines()
    return Counter((int(step), moment) for step, _, moment in (x.partition(" ") for x in lines))


def put_back(kernel: WholeKernel, plan: Plan, way: Way) -> int:
    """`qlaunch recover`, or the machine's next run; the exit code."""
    if way == "run":
        return launch(kernel, plan)

    def work() -> int:
        host, base = kernel.host(), str(kernel.root / "run/qlaunch")
        recover: Any = importlib.import_module("qlaunch.run.recover")
        recover.Host = lambda: host
        recover.telling = lambda _: host
        return int(recover.recover(base, plan.name, lambda _: None))

    return in_process(work)


def in_process(work: Callable[[], int]) -> int:
    """Exit code of `work` in a process of its own, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        except QlaunchError as error:
            os.write(2, f"{error}\n".encode())
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
