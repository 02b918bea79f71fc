"""Scheduling policy and niceness: set, read back, and what the kernel refuses."""

from __future__ import annotations

import os
import threading

import pytest

from qlaunch.errors import HostError
from qlaunch.plan.model import PinPlan
from qlaunch.vm import sched
from qlaunch.vm.sched import schedule


def test_a_thread_of_ours_and_no_other() -> None:
    """Batch and a higher niceness need nobody's leave."""
    go, tids = threading.Event(), []

    def work() -> None:
        tids.append(threading.get_native_id())
        go.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while not tids:
            pass
        nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 4)
        schedule((tids[0],), PinPlan(sched="batch", nice=nice))
        found = os.sched_getscheduler(tids[0])
        assert found == os.SCHED_BATCH | os.SCHED_RESET_ON_FORK
        assert os.getpriority(os.PRIO_PROCESS, tids[0]) == nice
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
        schedule((tids[0],), PinPlan())  # nothing asked, nothing changed
        assert os.sched_getscheduler(tids[0]) == found
    finally:
        go.set()
        thread.join()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ProcessLookupError(3, "gone"), r"vcpu 1 \(thread 12\) has ended"),
        (PermissionError(1, "Operation not permitted"), r"vcpu 1 \(thread 12\) may not be"),
    ],
)
def test_what_the_kernel_refuses(
    monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    def refuse(tid: int, policy: int, priority: int) -> None:
        if tid == 12:
            raise error

    monkeypatch.setattr(sched, "_set_policy", refuse)
    monkeypatch.setattr(sched, "_check", lambda index, tid, plan: None)
    with pytest.raises(HostError, match=message):
        schedule((11, 12), PinPlan(sched="fifo", priority=5))


def test_what_the_kernel_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "setpriority", lambda kind, tid, nice: None)
    mine = threading.get_native_id()
    with pytest.raises(HostError, match=r"vcpu 0 .* is not scheduled as asked"):
        schedule((mine,), PinPlan(nice=17))
