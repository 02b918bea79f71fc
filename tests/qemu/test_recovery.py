"""Machines whose launcher is gone: stopped rung by rung, watched again, reached again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qlaunch.run.info import find_supervisor
from qlaunch.vm.loop import asyncio
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.watch import End, StopRequests, watch
from tests.fake.loop import run
from tests.qemu.conftest import Start
from tests.qemu.test_verbs import Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu
BUTTON, QUIT = "pressing the power button", "telling QEMU to quit"


def orphan(vm: Vm, *settings: str) -> int:
    """Start it, and kill its launcher; QEMU's pid."""
    assert qlaunch("run", str(vm.path), "--detach", *settings).returncode == 0
    launcher = find_supervisor(vm.runtime)
    assert launcher is not None
    assert launcher != vm.qemu()
    os.kill(launcher, signal.SIGKILL)
    until(lambda: find_supervisor(vm.runtime) is None, "the launcher is gone")
    return vm.qemu()


def recovering(vm: Vm, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "qlaunch", "recover", vm.name, *words], stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, text=True,
    )


def test_stop_without_a_launcher_asks_the_guest_first(make: Make) -> None:
    vm = make()
    orphan(vm)
    done = qlaunch("stop", vm.name)
    assert done.returncode == 0, done.stderr
    assert done.stderr.index(BUTTON) < done.stderr.index(QUIT)
    assert f"{vm.name}: ended (stopped by quit)" in done.stderr
    log = qlaunch("logs", vm.name).stdout
    assert log.index("watched again") < log.index(BUTTON) < log.index("stopped by quit")
    assert not Path(vm.runtime).exists()


@pytest.mark.parametrize("alone", [True, False])
def test_stop_now_does_not_ask_the_guest(make: Make, *, alone: bool) -> None:
    vm = make()
    if alone:
        orphan(vm)
    else:
        assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    done = qlaunch("stop", vm.name, "--now")
    assert done.returncode == 0, done.stderr
    assert "ended (stopped by quit)" in done.stderr
    log = qlaunch("logs", vm.name).stdout
    assert QUIT in log
    assert BUTTON not in log
    assert not Path(vm.runtime).exists()


def test_stop_force_without_a_launcher(make: Make) -> None:
    vm = make()
    orphan(vm)
    done = qlaunch("stop", vm.name, "--force")
    assert done.returncode == 0, done.stderr
    assert "ended (killed)" in done.stderr
    assert not Path(vm.runtime).exists()


def test_recover_waits_for_a_qemu_that_is_not_ready(make: Make) -> None:
    """A stopped QEMU stands for one that pins memory: longer than the 5 s once given."""
    vm = make()
    pid = orphan(vm)
    os.kill(pid, signal.SIGSTOP)
    with recovering(vm) as process:
        assert process.stderr is not None
        time.sleep(7)
        os.kill(pid, signal.SIGCONT)
        said = ""
        while "watched again" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert f"Ctrl-C presses {vm.name}'s power button" in said
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    assert "no monitor" not in said
    assert BUTTON in said
    assert process.returncode == 0
    assert not Path(vm.runtime).exists()


def test_a_stop_while_the_monitor_is_silent(make: Make) -> None:
    vm = make()
    os.kill(orphan(vm), signal.SIGSTOP)
    with recovering(vm) as process:
        until(lambda: find_supervisor(vm.runtime), "recover has begun")
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert "sending SIGKILL" in said
    assert not Path(vm.runtime).exists()


def test_recover_in_the_background(make: Make) -> None:
    vm = make()
    orphan(vm)
    done = qlaunch("recover", vm.name, "--detach")
    assert done.returncode == 0, done.stderr
    assert find_supervisor(vm.runtime) is not None
    assert f"{vm.name}: running" in qlaunch("status", vm.name).stdout
    assert "ended (stopped by quit)" in qlaunch("stop", vm.name).stderr
    assert not Path(vm.runtime).exists()


def test_recover_runs_the_hooks_of_the_end(make: Make) -> None:
    vm = make()
    orphan(vm, "--set", "hooks.after=[['/bin/true', 'end']]")
    os.kill(vm.qemu(), signal.SIGKILL)
    done = qlaunch("recover", vm.name)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("hook: /bin/true end") == 1
    assert "hook: /bin/true end" in qlaunch("logs", vm.name).stdout


def test_a_lost_monitor_is_dialled_again(start: Start) -> None:
    """And then the power button works again."""
    machine = start(paused=False)
    told: list[str] = []

    async def main() -> End:
        monitor = await Monitor.connect(machine.control)
        with StopRequests(()) as requests:
            watching = asyncio.ensure_future(
                watch(monitor, machine.process, requests, timeout=0.5, log=told.append,
                      control=machine.control)
            )
            await monitor.close()
            while "QMP answers again" not in told:
                await asyncio.sleep(0.05)
            requests.request("test")
            return await watching

    end = run(main())
    assert end.rungs == ("powerdown", "quit")
    assert [t for t in told if t.startswith(BUTTON)]
