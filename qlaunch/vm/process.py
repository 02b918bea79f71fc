"""A running QEMU, held by pidfd so that a recycled pid can never be taken for it.

The same object serves the process we started, whose exit status we reap, and one that `recover`
adopts, whose status only its own parent is told.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from qlaunch.errors import HostError, Problem

TAIL = 64 << 10  # bytes of the log that last words are looked for in
WORDS = 4  # lines
WIDTH = 400


class Exit(NamedTuple):
    """How a process ended; both None when only its parent could know."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                return f"signal {signal.Signals(self.signal).name}"
            except ValueError:  # a real-time signal
                return f"signal {self.signal}"
        return "unknown status" if self.code is None else f"status {self.code}"


class QemuProcess:
    """One QEMU process, ours or adopted. As a context manager it closes its pidfd, no more."""

    def __init__(self, pid: int, pidfd: int, starttime: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.starttime = starttime
        self._exit: Exit | None = None

    @classmethod
    def of_child(cls, pid: int) -> QemuProcess:
        """Hold a child of ours; until it is reaped its pid cannot be another's."""
        return cls(pid, os.pidfd_open(pid), _starttime(pid))

    @classmethod
    def adopt(cls, pid: int, starttime: int) -> QemuProcess:
        """Hold a process that was started by another, by pid and start time (clock ticks).

        Raises HostError, holding nothing, when it has ended or the pid is another process by now.
        """
        gone = Problem(f"process {pid} has ended", hint="qlaunch recover returns its devices")
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            raise HostError(gone) from None
        try:
            found = _starttime(pid)
        except OSError:
            os.close(pidfd)
            raise HostError(gone) from None
        if found != starttime:
            os.close(pidfd)
            raise HostError(gone._replace(found="its number belongs to another process by now"))
        return cls(pid, pidfd, starttime)

    def __repr__(self) -> str:
        return f"<QemuProcess {self.pid} {self.exit_text()}>"

    def __enter__(self) -> QemuProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the process. It runs on, and cannot be asked about any more."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def poll(self) -> Exit | None:
        """None while it runs; once it has ended, how, and it has been reaped if it was ours."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> Exit | None:
        """Block until it has ended or `timeout` has passed (None: for ever)."""
        if self._exit is None and self._ended(timeout):
            self._exit = self._reap()
        return self._exit

    def _ended(self, timeout: float | None) -> bool:
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))

    def _reap(self) -> Exit:
        try:
            # P_PIDFD and not the pid: what is not our child is then an error, never another child.
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return Exit()
        if result is None:
            return Exit()
        if result.si_code == os.CLD_EXITED:
            return Exit(code=result.si_status)
        return Exit(signal=result.si_status)

    def exit_text(self) -> str:
        """ "status 1", "signal SIGKILL", "unknown status", or "running"."""
        ended = self._exit if self.pidfd < 0 else self.poll()
        return "running" if ended is None else str(ended)

    def send(self, number: int) -> bool:
        """Send a signal; False when there is nobody left to receive it."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def state(self) -> str:
        """The kernel's letter for its state (R, S, D, T, t, Z), or "" when it is gone."""
        with contextlib.suppress(OSError, IndexError):
            return _stat(self.pid)[0]
        return ""

    def held_by(self) -> str:
        """The kernel function that it sleeps in, for a process that cannot be killed; else ""."""
        with contextlib.suppress(OSError):
            where = Path(f"/proc/{self.pid}/wchan").read_text()
            return "" if where == "0" else where
        return ""


def _stat(pid: int) -> list[str]:
    # The command name may hold spaces and parentheses: fields are counted from the last one.
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()


def _starttime(pid: int) -> int:
    return int(_stat(pid)[19])


def last_words(path: str, offset: int = 0) -> str:
    """The last lines of QEMU's log that tell why it ended, written after `offset`; "" for none.

    Warnings are left out when anything else was said. Never raises.
    """
    try:
        with Path(path).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(offset, size - TAIL))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(_telling(text.splitlines())[-WORDS:])


def _telling(lines: list[str]) -> list[str]:
    kept: dict[str, None] = {}
    for line in lines:
        # A device may echo the guest's bytes: nothing that steers a terminal gets through.
        clean = "".join(c if c.isprintable() else " " for c in line).strip()
        program, colon, rest = clean.partition(": ")
        if colon and program.rpartition("/")[2].startswith("qemu-system-"):
            clean = rest
        if clean.strip("*"):
            kept.pop(clean, None)
            kept[clean] = None
    said = [line[:WIDTH] for line in kept]
    return [line for line in said if not line.startswith("warning:")] or said


def log_offset(fd: int) -> int:
    """Where the log ends now: the offset that belongs to the start that follows."""
    return os.fstat(fd).st_size
