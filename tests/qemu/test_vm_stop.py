"""The shutdown ladder against real machines: which rung ends which kind."""

from __future__ import annotations

import os
import signal

import pytest

from qlaunch.vm.loop import asyncio, exited
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.stop import Patience, Stopped, stop_machine
from qlaunch.vm.watch import End, StopRequests, watch
from tests.fake.loop import run
from tests.qemu.conftest import Machine, Start

pytestmark = pytest.mark.qemu

SHORT = Patience(quit=30, term=30, kill=30, answer=0.3)
BOOTED = "qlaunch: done"


async def booted(machine: Machine) -> Monitor:
    monitor = await Monitor.connect(machine.control, timeout=60)
    await monitor.execute("cont")
    await asyncio.to_thread(machine.read_serial, BOOTED)
    return monitor


def stop(machine: Machine, told: list[str], timeout: float = 0.3) -> Stopped:
    async def main() -> Stopped:
        async with await booted(machine) as monitor:
            return await stop_machine(
                monitor, machine.process, timeout=timeout, log=told.append, patience=SHORT
            )

    return run(main())


def test_guest_that_ignores_acpi_is_quit(start: Start) -> None:
    machine = start()
    told: list[str] = []
    assert stop(machine, told) == Stopped("quit", ("powerdown", "quit"))
    assert told == [
        "pressing the power button, waiting 0.3 s",
        "QEMU is still there after 0.3 s",
        "telling QEMU to quit, waiting 30 s",
        "QEMU has ended (status 0)",
    ]


def test_guest_that_shuts_down_in_time(start: Start) -> None:
    machine = start(seconds=1)
    told: list[str] = []
    assert stop(machine, told, timeout=60) == Stopped("powerdown", ("powerdown",))
    assert "QEMU has ended (status 0)" in told


def test_shut_down_guest_whose_qemu_stays(start: Start) -> None:
    machine = start("-no-shutdown", seconds=1)
    told: list[str] = []

    async def main() -> Stopped:
        async with await booted(machine) as monitor:
            patience = SHORT._replace(quit=0.2)
            return await stop_machine(
                monitor, machine.process, timeout=60, log=told.append, patience=patience
            )

    stopped = run(main())
    assert stopped.tried[:2] == ("powerdown", "quit")
    assert "the guest has shut down" in told


def test_paused_guest_is_not_asked(start: Start) -> None:
    machine = start()
    told: list[str] = []

    async def main() -> Stopped:
        async with await booted(machine) as monitor:
            await monitor.execute("stop")
            return await stop_machine(monitor, machine.process, timeout=600, log=told.append)

    assert run(main()) == Stopped("quit", ("quit",))
    assert told[0] == "power button skipped: the machine is paused, its guest cannot see it"


def test_stopped_qemu_is_killed(start: Start) -> None:
    machine = start()
    told: list[str] = []

    async def main() -> Stopped:
        async with await booted(machine) as monitor:
            machine.process.send(signal.SIGSTOP)
            return await stop_machine(
                monitor, machine.process, timeout=0.3, log=told.append, patience=SHORT
            )

    assert run(main()) == Stopped("kill", ("powerdown", "kill"))
    assert machine.process.exit_text() == "signal SIGKILL"
    assert any(text.startswith("SIGTERM skipped: QEMU itself is stopped") for text in told)


@pytest.mark.parametrize("lost", [True, False])
def test_without_a_monitor_there_are_signals(start: Start, lost: bool) -> None:
    machine = start()
    told: list[str] = []

    async def main() -> Stopped:
        monitor = await booted(machine)
        await monitor.close()
        return await stop_machine(
            monitor if lost else None, machine.process, timeout=600, log=told.append
        )

    assert run(main()) == Stopped("term", ("term",))
    reason = "the connection was closed" if lost else "there is no QMP connection"
    assert told[0] == f"power button skipped: {reason}"


def test_asking_again_skips_a_rung(start: Start) -> None:
    machine = start()
    again = asyncio.Event

    async def main() -> Stopped:
        escalate = again()

        def log(text: str) -> None:
            if text.startswith("pressing"):
                escalate.set()

        async with await booted(machine) as monitor:
            return await stop_machine(
                monitor, machine.process, timeout=600, log=log, escalate=escalate
            )

    assert run(main()) == Stopped("quit", ("powerdown", "quit"))


def test_already_gone(start: Start) -> None:
    machine = start()

    async def main() -> Stopped:
        machine.process.send(signal.SIGKILL)
        await exited(machine.process)
        return await stop_machine(None, machine.process, timeout=1)

    assert run(main()) == Stopped(None, ())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_climb_the_ladder(start: Start, number: signal.Signals) -> None:
    machine = start()
    told: list[str] = []
    handler = signal.getsignal(number)

    async def main() -> End:
        def log(text: str) -> None:
            told.append(text)
            if text.startswith("pressing"):
                os.kill(os.getpid(), number)

        async with await booted(machine) as monitor:
            with StopRequests(echo=0) as requests:
                os.kill(os.getpid(), number)
                return await watch(monitor, machine.process, requests, timeout=600, log=log)

    end = run(main())
    assert (end.reason, end.rungs) == ("stopped", ("powerdown", "quit"))
    assert end.detail == "host-qmp-quit"
    assert end.clean
    assert f"stopping: {number.name}" in told
    assert "asked again: not waiting any longer" in told
    assert signal.getsignal(number) is handler
