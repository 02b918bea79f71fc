"""Other processes for tests of locks: one that holds something, and many that try at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A process that has done `work` and keeps what it opened; killed at the end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        with suppress(BaseException):
            kept = work()
            os.write(writer, b"1")
            time.sleep(600)
            del kept
        os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"1", "the child's work failed"
        yield pid
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def contest(rounds: int, racers: int, attempt: Callable[[int], bool]) -> list[int]:
    """Winners of each round, of processes that try at the same moment and hold on till the end."""
    winners = []
    for number in range(rounds):
        start_reader, start_writer = os.pipe()
        report_reader, report_writer = os.pipe()
        end_reader, end_writer = os.pipe()
        pids = []
        for _ in range(racers):
            pid = os.fork()
            if pid == 0:
                for fd in (start_writer, report_reader, end_writer):
                    os.close(fd)
                os.read(start_reader, 1)  # until the parent closes its end
                won = False
                with suppress(BaseException):
                    won = attempt(number)
                os.write(report_writer, b"1" if won else b"0")
                os.read(end_reader, 1)
                os._exit(0)
            pids.append(pid)
        for fd in (start_reader, report_writer, end_reader, start_writer):
            os.close(fd)
        said = b""
        while len(said) < racers and (more := os.read(report_reader, racers)):
            said += more
        os.close(end_writer)
        os.close(report_reader)
        for pid in pids:
            os.waitpid(pid, 0)
        winners.append(said.count(b"1"))
    return winners
