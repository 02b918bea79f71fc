"""How an end is judged, what events say, what counts as a request; and readiness by growth."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qlaunch.errors import HostError
from qlaunch.vm.loop import asyncio
from qlaunch.vm.monitor import Event, Events, Monitor
from qlaunch.vm.process import Exit, QemuProcess
from qlaunch.vm.ready import Memory, _Growth, read_memory, wait_ready
from qlaunch.vm.ready import describe as describe_memory
from qlaunch.vm.sockets import listen_unix
from qlaunch.vm.stop import Patience, Stopped, stop_machine
from qlaunch.vm.watch import End, StopRequests, describe, judge, watch
from tests.fake.loop import run


def shutdown(reason: str, *, guest: bool) -> dict[str, Event]:
    return {"SHUTDOWN": Event("SHUTDOWN", {"guest": guest, "reason": reason}, 0.0)}


OURS = Stopped("quit", ("powerdown", "quit"))


@pytest.mark.parametrize(
    ("ended", "seen", "stopped", "reason", "by_guest", "clean"),
    [
        (Exit(code=0), shutdown("guest-shutdown", guest=True), None, "guest", True, True),
        (Exit(code=0), shutdown("host-signal", guest=False), None, "host", False, True),
        (Exit(code=0), shutdown("guest-shutdown", guest=True), OURS, "stopped", False, True),
        (Exit(code=0), shutdown("guest-panic", guest=True), None, "panic", True, False),
        (Exit(code=0), shutdown("guest-panic", guest=True), OURS, "panic", True, False),
        (Exit(signal=11), shutdown("guest-shutdown", guest=True), None, "guest", True, False),
        (Exit(signal=9), {}, None, "died", False, False),
        (Exit(code=0), {}, None, "died", False, False),
        (Exit(signal=9), {}, OURS, "stopped", False, False),
        (Exit(), {}, None, "gone", False, True),
        (None, {}, Stopped(None, ("kill",), "state D"), "stuck", False, False),
    ],
)
def test_judge(
    ended: Exit | None,
    seen: dict[str, Event],
    stopped: Stopped | None,
    reason: str,
    by_guest: bool,
    clean: bool,
) -> None:
    end = judge(ended, seen, stopped)
    assert (end.reason, end.guest_initiated, end.clean) == (reason, by_guest, clean)


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("RESET", {"guest": True, "reason": "guest-reset"}, "asked by the guest (guest-reset)"),
        ("RESET", {}, "resets, asked by the host (?)"),
        ("BLOCK_IO_ERROR", {"device": "", "node-name": "disk0", "operation": "write",
                            "reason": "No space left on device", "action": "stop"},
         "disk0: write failed: No space left on device (action: stop)"),
        ("DEVICE_DELETED", {"path": "/machine/x"}, "let go of /machine/x"),
        ("GUEST_PANICKED", {"action": "pause"}, "crashed (action: pause)"),
    ],
)  # fmt: skip
def test_events_in_words(name: str, data: Mapping[str, Any], text: str) -> None:
    assert describe(Event(name, data, 0.0)).endswith(text)


def test_noise_has_no_words() -> None:
    assert describe(Event("RTC_CHANGE", {"offset": 1}, 0.0)) == ""


def test_echoes_are_one_request() -> None:
    async def main() -> None:
        with StopRequests((signal.SIGHUP,), echo=3600) as requests:
            requests.request("SIGHUP")
            requests.request("SIGTERM")
            assert (requests.count, requests.last) == (1, "SIGHUP")
        with StopRequests((signal.SIGHUP,), echo=0) as requests:
            requests.request("a")
            requests.event.clear()
            requests.request("b")
            assert (requests.count, requests.last, requests.event.is_set()) == (2, "b", True)

    def mine(*_: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGHUP, mine)
    try:
        run(main())
        assert signal.getsignal(signal.SIGHUP) is mine
    finally:
        signal.signal(signal.SIGHUP, before)


def child(*argv: str) -> QemuProcess:
    return QemuProcess.of_child(os.posix_spawnp(argv[0], argv, os.environ))


def test_events_read_after_the_exit_still_count() -> None:
    async def main() -> End:
        monitor = Monitor()
        with child("true") as process, StopRequests(()) as requests:
            process.wait(30)
            watching = asyncio.ensure_future(watch(monitor, process, requests, timeout=1))
            for _ in range(20):
                await asyncio.sleep(0)
            monitor.events.put(shutdown("guest-shutdown", guest=True)["SHUTDOWN"])
            monitor.events.end()
            return await watching

    assert run(main()).reason == "guest"


def test_death_before_qmp_was_accepted(tmp_path: Path) -> None:
    path = str(tmp_path / "qmp")

    async def main() -> None:
        with (
            child("sh", "-c", "exit 3") as process,
            listen_unix(path),
            pytest.raises(HostError, match=r"ended before it was ready \(status 3\)\n.*words"),
        ):
            await wait_ready(path, process, timeout=600, last_words=lambda: "words")

    run(main())


class FakeMonitor:
    """Says what state the machine is in, and notes what is asked."""

    closed = False
    lost = ""

    def __init__(self, state: str) -> None:
        self.state = state
        self.asked: list[str] = []

    def listen(self) -> FakeMonitor:
        return self

    def __enter__(self) -> Events:
        return Events()

    def __exit__(self, *_: object) -> None:
        pass

    async def execute(self, command: str, *, timeout: float) -> dict[str, str]:
        self.asked.append(command)
        return {"status": self.state}


class Undying(QemuProcess):
    """A process that no signal ends."""

    sent: tuple[int, ...] = ()

    def send(self, number: int) -> bool:
        self.sent += (number,)
        return True

    def state(self) -> str:
        return "D"

    def held_by(self) -> str:
        return "vfio_unregister_group_dev"


@pytest.mark.parametrize(
    ("state", "asked"),
    [
        ("running", ["query-status", "system_powerdown", "quit"]),
        ("suspended", ["query-status", "system_wakeup", "system_powerdown", "quit"]),
        ("paused", ["query-status", "quit"]),
        ("io-error", ["query-status", "quit"]),
    ],
)
def test_ladder_to_its_end(state: str, asked: list[str]) -> None:
    told: list[str] = []
    monitor = FakeMonitor(state)

    async def main() -> Stopped:
        process = Undying(os.getpid(), os.pidfd_open(os.getpid()), 0)
        with process:
            stopped = await stop_machine(
                monitor, process, timeout=0.01, log=told.append,  # type: ignore[arg-type]
                patience=Patience(0.01, 0.01, 0.01, 0.01),
            )  # fmt: skip
            assert process.sent == (signal.SIGTERM, signal.SIGKILL)
            return stopped

    stopped = run(main())
    assert monitor.asked == asked
    assert stopped.by is None
    assert stopped.tried[-3:] == ("quit", "term", "kill")
    assert stopped.stuck.endswith("is in state D, in the kernel's vfio_unregister_group_dev")


STATUS = """Name:\tqemu
VmLck:\t 2097152 kB
VmPin:\t       0 kB
VmRSS:\t 1048576 kB
HugetlbPages:\t 1048576 kB
Threads:\t3
"""


def test_memory_figures(tmp_path: Path) -> None:
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/status").write_text(STATUS)
    found = read_memory(5, str(tmp_path))
    assert found == Memory(touched=2 << 30, pinned=2 << 30)
    assert read_memory(6, str(tmp_path)) == Memory()
    assert describe_memory(found, 64 << 30, 3.0) == "pinning memory: 2.0 of 64.0 GiB"
    assert describe_memory(found, 0, 3.0) == "pinning memory: 2.0 GiB"
    assert describe_memory(Memory(1 << 30), 0, 3.2) == "waiting for QEMU: 3 s, 1.0 GiB in use"


def test_growth_puts_the_deadline_off(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    sizes = [Memory(touched=1)]

    async def main() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0])
        growth = _Growth(1, 30.0, 15.0)
        for now, size, over in (
            (10.0, 1, False), (29.0, 2, False), (31.0, 2, False), (43.9, 2, False),
            (44.0, 2, True), (44.0, 3, False), (58.9, 3, False), (59.0, 3, True),
        ):  # fmt: skip
            clock[0], sizes[0] = now, Memory(pinned=size)
            assert growth.over(growth.look()) is over, (now, size)
        monkeypatch.undo()

    monkeypatch.setattr("qlaunch.vm.ready.read_memory", lambda pid: sizes[0])
    run(main())
