"""Daemons that serve one device of a machine (a TPM, a shared folder): started, watched, ended.

They are children of the launcher and hold one end of a socket each, QEMU the other, so that they
end with QEMU whatever becomes of the launcher. Here is what the launcher adds while it lives: who
died is told, and who does not end by itself is ended. swtpm ends only once QEMU has spoken to it:
for a launcher that is killed before, each notes its own pid, and `end_left` looks there.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from msgspec.structs import replace

from qlaunch.children import Setup, start_child
from qlaunch.errors import HostError, Problem
from qlaunch.vm.process import QemuProcess, last_words, log_offset
from qlaunch.vm.spawn import clean_environment, confinement

if TYPE_CHECKING:
    from qlaunch.plan.model import Account, PlannedHelper
    from qlaunch.values import CpuSet

GOING = 5.0  # seconds that a helper gets to end by itself: swtpm and virtiofsd write first
HURRIED = 0.2
TERMED = 2.0  # and after SIGTERM
FILES = 1_000_000  # what virtiofsd would ask for; fs.nr_open is 1048576
DYING = 1.0  # seconds in which QEMU's own end makes a helper's no news


class Helpers:
    """The helpers of one machine. `end` leaves none of them behind."""

    def __init__(self, log: str, log_fd: int, note_fd: int) -> None:
        self._log = log
        self._note = note_fd
        self._fd = log_fd
        self._offset = log_offset(log_fd)
        self._running: list[tuple[PlannedHelper, QemuProcess]] = []

    def start(
        self, helper: PlannedHelper, fds: Mapping[int, int], account: Account | None,
        cpus: CpuSet | None = None, cgroup: str = "",
    ) -> None:
        """Start one as `account`, on `cpus`, in `cgroup` (the plan's).

        `fds` maps its numbers to ours, which stay open. What it says goes to QEMU's log. Raises
        HostError when it could not be executed.
        """
        if account is not None and not helper.groups:
            account = replace(account, groups=())
        note = max(fds) + 1
        pid = start_child(
            helper.argv, fds={**fds, 1: self._fd, 2: self._fd, note: self._note},
            setup=[Setup("noting its pid", lambda: _note(note)),
                   Setup("setrlimit(RLIMIT_NOFILE)", _many_files),
                   *confinement(account, None, cpus, cgroup)],
            env=clean_environment(os.environ, {}, account), cwd="/",
        )
        self._running.append((helper, QemuProcess.of_child(pid)))

    def fault(self, *, failed: bool = False) -> Problem | None:
        """The problem of the first helper that has ended (`failed`: and not well); None if all
        live. Once QEMU has gone, those that lost it end well."""
        for helper, process in self._running:
            ended = process.poll()
            if ended is not None and (ended.code != 0 or not failed):
                return Problem(
                    f"{_name(helper)} ended ({ended}) before the guest ran", helper.key,
                    found=last_words(self._log, self._offset),
                    hint=f"all that was said is in {self._log}",
                )
        return None

    async def ended(self) -> None:
        """Until any has ended, and a moment longer: QEMU ends of it, or ended first."""
        from qlaunch.vm.loop import asyncio, exited, first

        await first(None, *(exited(process) for _, process in self._running))
        await asyncio.sleep(DYING)

    async def watch(self, qemu: QemuProcess, say: Callable[[str], None]) -> None:
        """Tell who ends while QEMU goes on. Returns when none is left, or never."""
        from qlaunch.vm.loop import asyncio, exited, first

        async def one(helper: PlannedHelper, process: QemuProcess) -> None:
            ended = await exited(process)
            if await first(DYING, exited(qemu)) is None:
                words = last_words(self._log, self._offset)
                say(f"{_name(helper)} ended ({ended}); the guest runs on without {helper.key}"
                    + (f": {words}" if words else ""))

        await asyncio.gather(*(one(*pair) for pair in self._running))

    def end(self, say: Callable[[str], None], *, hurry: bool = False) -> None:
        """Wait for all, now that QEMU has let go of their sockets; end and tell who stays.

        With `hurry` (it may be that QEMU never spoke to them) there is little to wait for.
        """
        going = HURRIED if hurry else GOING
        for helper, process in self._running:
            for patience, number in ((going, signal.SIGTERM), (TERMED, signal.SIGKILL)):
                if process.wait(patience) is not None:
                    break
                if not hurry:
                    say(f"{_name(helper)} does not end; sending {number.name}")
                # Not reaped yet, so that the group's number is its own still.
                os.killpg(process.pid, number)
            process.wait(TERMED)
            process.close()
        self._running.clear()


def _note(fd: int) -> None:
    """In the child, which keeps pid and start time through exec: before it can be lost."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123
        start = stat.read().rpartition(")")[2].split()[19]
    os.write(fd, f"{os.getpid()} {start}\n".encode())
    os.close(fd)


def end_left(notes: bytes) -> None:
    """End what a dead launcher left running of those that it has noted. Never raises.

    The caller holds the machine's locks (neither launcher nor QEMU lives), and has read the notes
    from a file that nobody else could write. Who has another start time is left alone.
    """
    for line in notes.splitlines():
        with contextlib.suppress(HostError, ValueError, OverflowError):  # ended, or cut short
            pid, start = map(int, line.split())
            with QemuProcess.adopt(pid, start) as process:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    if process.wait(HURRIED) is None and process.send(number):
                        process.wait(TERMED)


def _name(helper: PlannedHelper) -> str:
    return f"{helper.name or PurePath(helper.argv[0]).name} for {helper.key}"


def _many_files() -> None:
    """virtiofsd holds a file open for each that the guest knows: all that we may give it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(hard, FILES)
    for limit in (most, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (OSError, ValueError):  # only root may raise it, in most containers nobody
            continue
        break
