"""What `pause`, `resume` and `reset` do, and what each has to know of the machine's state."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from qlaunch.cli.reach import reach, talk
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_OK, HostError, Problem, named

if TYPE_CHECKING:
    from qlaunch.vm.monitor import Monitor

PAUSED = ("paused", "prelaunch", "debug", "watchdog", "save-vm", "restore-vm", "io-error")
ENDED = ("shutdown", "guest-panicked", "internal-error")  # only a reset brings these back


def add_name(parser: argparse.ArgumentParser) -> None:
    """NAME."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")


def control(name: str, work: Callable[[Monitor], Awaitable[str]]) -> int:
    """Do it, and say what the machine does now."""
    machine = reach(name)
    say(f"{machine.name}: {named(talk(machine, work), machine.name)}")
    return EXIT_OK


async def _status(monitor: Monitor) -> str:
    return str((await monitor.execute("query-status"))["status"])


async def pause(monitor: Monitor) -> str:
    """What has come of it. Raises HostError."""
    before = await _status(monitor)
    if before in ENDED:
        raise HostError(Problem("it does not run", found=before, hint="qlaunch ps"))
    if before in PAUSED:
        return f"is paused already ({before})"
    await monitor.execute("stop")
    return "paused"


async def resume(monitor: Monitor) -> str:
    """What has come of it. Raises HostError."""
    before = await _status(monitor)
    if before == "running":
        return "runs already"
    if before in ENDED:
        raise HostError(Problem("it cannot go on without a reset", found=before,
                                hint="qlaunch reset NAME"))
    if before == "suspended":
        await monitor.execute("system_wakeup")
        return "woken up"
    await monitor.execute("cont")
    after = await _status(monitor)
    if after != "running":
        raise HostError(Problem("it does not go on", found=after,
                                hint="qlaunch logs NAME tells what stopped it"))
    return "runs"


async def reset(monitor: Monitor) -> str:
    """What has come of it. Raises HostError."""
    before = await _status(monitor)
    await monitor.execute("system_reset")
    if before in ENDED:
        await monitor.execute("cont")
    if before in PAUSED:
        return "reset, and still paused: qlaunch resume NAME lets it go on"
    return "reset"
