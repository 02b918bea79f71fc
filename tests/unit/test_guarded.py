"""Calls that may hang: their child, its deadline, and what it must not keep."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from qlaunch import children
from qlaunch.children import guarded, held_signals, run_child
from qlaunch.errors import HostError, StuckError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def test_the_answer_comes_back() -> None:
    assert guarded(lambda: "grüße" * 50_000, "long") == "grüße" * 50_000
    assert guarded(lambda: None, "nothing") == ""


def test_the_kernels_errno_comes_back(tmp_path: Path) -> None:
    def refuse() -> None:
        raise OSError(errno.EBUSY, "busy", str(tmp_path))

    with pytest.raises(OSError, match="busy") as caught:
        guarded(refuse, "bind")
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(tmp_path))


def test_a_fault_of_ours_is_told() -> None:
    with pytest.raises(HostError, match="by zero"):
        guarded(lambda: str(1 // 0), "bind")


def test_a_killed_child_is_told() -> None:
    with pytest.raises(HostError, match="its child process died"):
        guarded(lambda: os.kill(os.getpid(), signal.SIGKILL), "bind")


def test_the_deadline() -> None:
    told: list[float] = []
    start = time.monotonic()
    with pytest.raises(StuckError, match=r"unbind did not return within 0\.1 s"):
        guarded(lambda: time.sleep(1), "unbind", deadline=0.1, on_wait=lambda _, s: told.append(s))
    assert time.monotonic() - start < 0.9


def test_a_hanging_child_keeps_no_lock(tmp_path: Path) -> None:
    """Else a machine would look alive for as long as the kernel hangs."""
    lock = tmp_path / "lock"
    with lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(StuckError):
            guarded(lambda: time.sleep(2), "unbind", deadline=0.2)
    with lock.open("w") as second:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_hanging_child_keeps_no_pipe_open() -> None:
    """Else whoever reads our output would wait as long."""
    reader, writer = os.pipe()
    stderr = os.dup(2)
    try:
        os.dup2(writer, 2)
        with pytest.raises(StuckError):
            guarded(lambda: time.sleep(2), "unbind", deadline=0.2)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(writer)
    os.set_blocking(reader, False)
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_a_hanging_child_keeps_what_it_is_given(tmp_path: Path) -> None:
    """By which others know that it is still at it."""
    release = tmp_path / "release"

    def hang() -> None:
        while not release.exists():
            time.sleep(0.01)

    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        fcntl.flock(first, fcntl.LOCK_SH)
        with pytest.raises(StuckError):
            guarded(hang, "unbind", deadline=0.2, keep=first.fileno())
        first.close()
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        release.touch()
        fcntl.flock(second, fcntl.LOCK_EX)


def test_a_child_whose_parent_has_died_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        parent = os.getpid()

        def dies(*_: int) -> None:
            os.kill(parent, signal.SIGKILL)
            while os.getppid() == parent:
                time.sleep(0.001)

        try:
            monkeypatch.setattr(children, "let_go", dies)
            guarded((tmp_path / "done").touch, "unbind")
        finally:
            os._exit(1)
    os.close(writer)
    assert os.WIFSIGNALED(os.waitpid(launcher, 0)[1])
    assert os.read(reader, 1) == b""  # all who had the other end are gone
    os.close(reader)
    assert not (tmp_path / "done").exists()


def test_a_signal_waits_for_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []

    def interrupt(what: str, passed: float) -> None:
        signal.raise_signal(signal.SIGINT)
        times.append(time.monotonic())

    monkeypatch.setattr(children, "PROGRESS_FIRST", 0.05)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        guarded(lambda: time.sleep(1.0), "unbind", on_wait=interrupt)
    assert times
    assert time.monotonic() - start > 0.99


def test_held_signals_arrive_afterwards() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), held_signals():
        signal.raise_signal(signal.SIGINT)  # to this thread: a parallel test run has others
        reached = True
    assert reached


def test_what_takes_over_a_second_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "PROGRESS_FIRST", 0.05)
    monkeypatch.setattr(children, "PROGRESS_EVERY", 0.05)
    told: list[str] = []
    done = run_child(["sh", "-c", "cat; sleep 0.3; cat; echo err >&2"], stdin="in",
                     on_wait=lambda what, seconds: told.append(f"{what} {seconds > 0}"))
    assert done == (0, "in", "err\n")
    assert told == ["sh True"]
    guarded(lambda: time.sleep(0.3), "bind", on_wait=lambda what, _: told.append(what))
    assert told[-2:] == ["bind"] * 2
    with pytest.raises(HostError, match=r"sleep did not end within 0\.2 s"):
        run_child(["sleep", "60"], timeout=0.2)
