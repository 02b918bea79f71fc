"""kill -9 of a machine with slices: of QEMU, of the launcher, of both, at each stage and within
them; then `recover`, or the next start, and the whole host compared.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .faults import AT_STEP
from .machine import qlaunch, until
from .slices import (
    FUNCTION,
    MDPY,
    Machine,
    at_call,
    at_stage,
    kill_qemu,
    recovered,
    wait_for,
    wait_still,
)
from .state import MDEVS
from .test_vgpu_faults import STEPS

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("slices"),
    pytest.mark.usefixtures("samples", "nothing_left"),
]

# Where QEMU lives: started and not on record, building its machine, its monitor connected and the
# guest not running, and while it is asked to stop.
AT_STOP = "qlaunch.vm.watch:stop_machine"
INSIDE = (
    "qlaunch.run.session:note_start", "qlaunch.run.live:_ready_or_stopped",
    "qlaunch.run.live:_pin", "qlaunch.run.session:Session._attach", AT_STOP,
)  # fmt: skip
ALWAYS = ("qlaunch.run.live:_pin", "both")


@pytest.fixture
def machine(open_directory: Path, boot_disk: Path) -> Iterator[Machine]:
    yield Machine(open_directory, boot_disk, "labdead", MDPY + FUNCTION)


def is_left_over() -> bool:
    return "left over" in qlaunch("ps").stdout


@pytest.mark.parametrize(
    "stage",
    [5, 7, 8, 9, 10, *(pytest.param(n, marks=pytest.mark.nightly) for n in (4, 6, 11))],
)
def test_launcher_at_a_stage(stage: int, open_directory: Path, boot_disk: Path) -> None:
    machine = Machine(open_directory, boot_disk, "labdead", MDPY + FUNCTION, seconds=1)
    run = machine.start(at_stage(stage, signal.SIGKILL))
    assert run.wait() == -signal.SIGKILL, run.said
    told = recovered()
    if 5 < stage < 11:
        assert "is removed" in told


def test_qemu_while_the_guest_runs(machine: Machine) -> None:
    run = machine.start()
    try:
        wait_for(run, "the guest runs")
        kill_qemu(machine.name)
        assert run.wait() == 1
        assert "is removed" in run.said
    finally:
        run.end()


@pytest.mark.parametrize(
    ("function", "who"),
    [
        pytest.param(function, who, id=f"{function.rpartition(':')[2]}-{who}",
                     marks=[] if (function, who) == ALWAYS else [pytest.mark.nightly])
        for function in INSIDE for who in ("qemu", "launcher", "both")
    ],
)
def test_within_a_stage(function: str, who: str, machine: Machine) -> None:
    run = machine.start(at_call(function))
    try:
        if function == AT_STOP:
            wait_for(run, "the guest runs")
            run.process.send_signal(signal.SIGTERM)
        wait_still(run)
        if who != "launcher":
            kill_qemu(machine.name)
        run.process.send_signal(signal.SIGCONT if who == "qemu" else signal.SIGKILL)
        code = run.wait()
        if who == "qemu":
            assert code in (0, 1) if function == AT_STOP else code == 1, run.said
            assert "is removed" in run.said
            return
        assert code == -signal.SIGKILL
        if who == "both":
            until(is_left_over, "left over", 60)
        elif function == AT_STOP:  # the guest runs, and would be watched on
            assert qlaunch("stop", machine.name, "--now").returncode == 0
        assert who == "launcher" or "is removed" in recovered()
        recovered()
    finally:
        run.end()


@pytest.mark.nightly
@pytest.mark.parametrize("k", range(STEPS))
def test_qemu_then_the_launcher_in_an_undo(
    k: int, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees QEMU die, begins to give back, and dies within the undo of each step."""
    monkeypatch.setenv("QLAUNCH_FAULT_DIR", str(tmp_path))
    run = machine.start((AT_STEP, str(k), "killed in undo"))
    try:
        wait_for(run, "the guest runs")
        kill_qemu(machine.name)
        assert run.wait() == -signal.SIGKILL, run.said
        recovered()
    finally:
        run.end()


def test_both_then_the_next_start_puts_back_first(machine: Machine) -> None:
    run = machine.start()
    try:
        wait_for(run, "the guest runs")
        run.process.kill()
        run.process.wait()
        kill_qemu(machine.name)
        until(is_left_over, lambda: qlaunch("ps").stdout)
        assert len(list(MDEVS.iterdir())) == 2, "left behind"
        machine.path.write_text(machine.path.read_text().replace('"600"', '"1"'))
        again = qlaunch("run", str(machine.path))
        assert again.returncode == 0, again.stderr
        assert "labdead left something behind" in again.stderr
    finally:
        run.end()
