"""Wait until QEMU has built its machine: its first answer, not its greeting, is readiness.

With passed-through cards QEMU pins all guest memory first, which takes seconds a dozen GiB and has
no upper bound that holds everywhere. So the deadline ends the wait only when memory has stopped
growing too, and what grows is what the user is told.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from qlaunch.errors import HostError, Problem, QlaunchError
from qlaunch.vm.loop import asyncio, exited, first
from qlaunch.vm.monitor import LOGS, Monitor
from qlaunch.vm.process import QemuProcess
from qlaunch.vm.words import remedy

GIB = float(1 << 30)
ENDING = 5.0  # seconds from QEMU closing its monitor to its exit
_SLOW = "qlaunch logs NAME may tell more; huge pages or less memory start faster"


class Pace(NamedTuple):
    """Seconds: when progress is first told, how often, and how long memory may stand still."""

    quiet: float = 1.0
    every: float = 1.0
    stall: float = 15.0


class Memory(NamedTuple):
    """Bytes that a process has: touched (huge pages included), and pinned for devices."""

    touched: int = 0
    pinned: int = 0


async def wait_ready(
    where: str | socket.socket,
    process: QemuProcess,
    *,
    timeout: float,
    memory: int = 0,
    on_progress: Callable[[str], None] = lambda text: None,
    last_words: Callable[[], str] = lambda: "",
    pace: Pace | None = None,
) -> Monitor:
    """Connect and wait for the first answer; the connected monitor.

    `memory` is the guest's, for the progress text. Raises HostError, with QEMU's last words as
    what was found, when it ends, when it is not QMP that answers, or when `timeout` has passed
    and its memory has not grown for `pace.stall`; QEMU is left as it is, and nothing connected.
    """
    pace = pace or Pace()
    task = asyncio.ensure_future(_answer(where))
    growth = _Growth(process.pid, timeout, pace.stall)
    due = pace.quiet
    try:
        while True:
            await first(pace.every, asyncio.wait((task,)), exited(process))
            if task.done() and task.exception() is None:
                return task.result()
            if task.done() or process.poll() is not None:
                raise await _failure(task, process, last_words)
            passed = growth.look()
            if growth.over(passed):
                raise HostError(
                    Problem(
                        f"QEMU did not answer within {passed:.0f} s",
                        found=last_words() or growth.standing(process), hint=_SLOW,
                    )
                )
            if passed >= due:
                due = passed + max(pace.every, passed / 5) - pace.every / 2  # seldom, later on
                on_progress(describe(growth.memory, memory, passed))
    except BaseException:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled() and task.exception() is None:
            await task.result().close()
        raise


async def _answer(where: str | socket.socket) -> Monitor:
    monitor = await Monitor.connect(where, timeout=None)
    try:
        await monitor.execute("query-status", timeout=None)
    except BaseException:
        await monitor.close()
        raise
    return monitor


async def _failure(
    task: asyncio.Task[Monitor], process: QemuProcess, last_words: Callable[[], str]
) -> QlaunchError:
    """What to say; a lost connection is usually QEMU ending, and its exit tells more."""
    await first(ENDING, exited(process))
    if process.poll() is not None:
        words = last_words()
        return HostError(
            Problem(
                f"QEMU ended before it was ready ({process.exit_text()})", found=words,
                hint=remedy(words),
            )
        )
    error = task.exception()
    if isinstance(error, HostError):
        return HostError(p._replace(found=last_words() or p.found) for p in error.problems)
    return HostError(Problem("QEMU could not be asked", found=str(error), hint=LOGS))


class _Growth:
    """The deadline, which memory that still grows puts off."""

    def __init__(self, pid: int, timeout: float, stall: float) -> None:
        self._pid = pid
        self._timeout = timeout
        self._stall = stall
        self._start = self._grown = asyncio.get_running_loop().time()
        self.memory = Memory()

    def look(self) -> float:
        """Read the memory again; seconds since the start."""
        now = asyncio.get_running_loop().time()
        found = read_memory(self._pid)
        if sum(found) > sum(self.memory):
            self.memory = found
            self._grown = now
        return now - self._start

    def over(self, passed: float) -> bool:
        still = self._start + passed - self._grown
        return passed >= self._timeout and still >= min(self._stall, self._timeout)

    def standing(self, process: QemuProcess) -> str:
        where = process.held_by()
        return f"its memory stopped growing, state {process.state()}{where and f' in {where}'}"


def read_memory(pid: int, root: str = "/") -> Memory:
    """From /proc/PID/status; zeros when the process is gone."""
    try:
        text = Path(root, f"proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return Memory()
    sizes = {"VmRSS:": 0, "HugetlbPages:": 0, "VmLck:": 0, "VmPin:": 0}
    for line in text.splitlines():
        name, *rest = line.split()[:2]
        if name in sizes and rest:
            sizes[name] = int(rest[0]) << 10
    return Memory(
        touched=sizes["VmRSS:"] + sizes["HugetlbPages:"],
        pinned=sizes["VmLck:"] + sizes["VmPin:"],  # VFIO type 1 counts as locked, iommufd as pinned
    )


def describe(memory: Memory, total: int, passed: float) -> str:
    """One line for the user: what QEMU is doing, as far as its memory shows."""
    if not memory.pinned:
        return f"waiting for QEMU: {passed:.0f} s, {memory.touched / GIB:.1f} GiB in use"
    share = f" of {total / GIB:.1f}" if total else ""
    return f"pinning memory: {memory.pinned / GIB:.1f}{share} GiB"
