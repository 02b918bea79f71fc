"""The main job on real hardware: `qlaunch run`, a guest draws on the card, the card comes back.

Every test compares the whole host before and after, read by plain sysfs and never by qlaunch.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .host import AUDIO, GRAPHICS, NETWORK, USB, card_to_text_mode
from .machine import (
    ROOT,
    Machine,
    Run,
    press_key,
    qemu_of,
    qlaunch,
    threads,
    uid_of,
    until,
)
from .monitor import Monitor

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("nothing_left")]

TAKEN = (GRAPHICS, AUDIO, NETWORK, USB)
# One before the host is touched, one amidst it, QEMU paused, the guest running, on the way back.
BY_DAY = (4, 6, 8, 9, 10)
AT_STAGE = str(ROOT / "tests/fake/at_stage.py")


@pytest.fixture
def machine(tmp_path: Path, boot_disk: Path) -> Machine:
    return Machine(tmp_path, boot_disk)


@pytest.fixture(autouse=True)
def text_mode() -> None:
    """A real card is put there by its reset; QEMU's VGA ignores one."""
    card_to_text_mode()


@pytest.fixture
def running(machine: Machine) -> Iterator[Run]:
    run = machine.start()
    yield run
    run.end()


def wait_running(run: Run) -> None:
    until(
        lambda: "the guest runs" in run.said or run.process.poll() is not None, "the guest runs"
    )
    assert run.process.poll() is None, run.said


@pytest.mark.parametrize("time_round", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_guest_draws_on_the_card_and_the_card_comes_back(
    time_round: int, machine: Machine, running: Run, monitor: Monitor, screens: Path,
    tmp_path: Path, boot_disk: Path,
) -> None:
    wait_running(running)
    assert [d.driver for d in TAKEN] == ["vfio-pci"] * len(TAKEN)
    pid = qemu_of("lab7")
    seen = threads(pid)
    assert seen.pop("CPU 0/TCG") == {2}
    assert set().union(*seen.values()) == {0, 1}
    status = Path(f"/proc/{pid}/status").read_text()
    uid = uid_of("lab7")
    assert uid != 65534
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
    assert "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in status
    assert (Path("/sys/class/net/br0/brif/tap0")).exists()

    again = qlaunch(*machine.words("run"))
    assert again.returncode == 1
    assert "lab7 is running" in again.stderr
    rival = Machine(tmp_path, boot_disk, "rival")
    rival.sets["net[0].tap"] = "tap1"
    taken = qlaunch(*rival.words("run"))
    assert taken.returncode == 1
    assert "in use" in taken.stderr
    assert "lab7" in taken.stderr
    listed = qlaunch("ps")
    assert "lab7" in listed.stdout
    assert "running" in listed.stdout

    lines = monitor.wait_for_text("qlaunch: done", timeout=120)
    assert lines[0].rstrip() == "qlaunch: lab7 cpus=1 memory=128M"
    shown = "\n".join(lines)
    assert "1234:1111 class 0300" in shown
    assert "8086:2668 class 0403" in shown
    monitor.screendump(screens / f"run{time_round}.png")
    press_key("lab7")
    assert running.wait() == 0, running.said
    assert "0000:01:00.0 is back on bochs-drm" in running.said
    assert "0000:01:00.1 is back on snd_hda_intel" in running.said
    assert (GRAPHICS.driver, AUDIO.driver) == ("bochs-drm", "snd_hda_intel")
    assert GRAPHICS.read("driver_override") == "(null)"
    assert GRAPHICS.alive
    devices = Path("/sys/bus/pci/devices")
    assert list((devices / "0000:01:00.0/drm").glob("card*"))
    assert list((devices / "0000:01:00.1/sound").glob("card*"))
    assert not Path("/sys/class/net/tap0").exists()
    assert not Path("/sys/class/net/br0").exists()
    assert not Path("/run/qlaunch/lab7").exists()


def test_stop_climbs_the_ladder_for_a_guest_that_ignores_its_power_button(
    tmp_path: Path, boot_disk: Path
) -> None:
    machine = Machine(tmp_path, boot_disk, seconds=0)
    run = machine.start()
    try:
        wait_running(run)
        stopped = qlaunch("stop", "lab7")
        assert stopped.returncode == 0, stopped.stderr
        assert run.wait() == 0
        assert "stopped by quit" in run.said
    finally:
        run.end()


def test_qemu_killed_for_want_of_memory(machine: Machine) -> None:
    """By the kernel, once its control group has less than it uses."""
    machine.sets["limits.memory"] = "512M"
    run = machine.start()
    try:
        wait_running(run)
        group = Path(f"/proc/{qemu_of('lab7')}/cgroup").read_text().split("::")[1].strip()
        limit = Path(f"/sys/fs/cgroup{group}/memory.max")
        assert limit.read_text() == f"{512 << 20}\n"
        limit.write_text(str(1 << 20))
        assert run.wait() == 1
        assert "QEMU died (signal SIGKILL): killed for want of memory in its own cg" in run.said
        assert "is back on bochs-drm" in run.said
    finally:
        run.end()


@pytest.mark.parametrize(
    "stage",
    [pytest.param(n, marks=[] if n in BY_DAY else [pytest.mark.nightly]) for n in range(2, 12)],
)
def test_launcher_killed_at_a_stage_then_recover(
    stage: int, tmp_path: Path, boot_disk: Path
) -> None:
    machine = Machine(tmp_path, boot_disk, seconds=1)
    run = machine.start(program=(AT_STAGE, str(int(signal.SIGKILL)), str(stage)))
    assert run.wait() == -signal.SIGKILL, run.said
    if stage in (8, 9):
        listed = qlaunch("ps")
        assert "unsupervised" in listed.stdout
    done = qlaunch("recover", "--all")
    assert done.returncode == 0, done.stderr
    if 5 < stage < 11:
        assert "0000:01:00.0 is back on bochs-drm" in done.stderr


def test_launcher_and_qemu_killed_then_the_next_run_puts_back_first(
    machine: Machine, running: Run
) -> None:
    wait_running(running)
    running.process.kill()
    running.process.wait()
    os.kill(qemu_of("lab7"), signal.SIGKILL)
    until(lambda: "left over" in qlaunch("ps").stdout, "both are gone")
    machine.path.write_text(machine.path.read_text().replace('"600"', '"1"'))
    again = qlaunch(*machine.words("run"))
    assert again.returncode == 0, again.stderr
    assert "lab7 left something behind" in again.stderr


def test_a_held_device_is_refused_and_its_holder_named(machine: Machine) -> None:
    # Its number grows with each return to its driver.
    node = next(Path("/dev/dri").glob("card*"))
    with node.open("rb"):
        refused = qlaunch(*machine.words("run"))
    assert refused.returncode == 1
    assert f"pid {os.getpid()}" in refused.stderr
    assert str(node) in refused.stderr


def test_a_hook_may_end_who_holds_the_device(tmp_path: Path, boot_disk: Path) -> None:
    machine = Machine(tmp_path, boot_disk, seconds=1)
    node = next(Path("/dev/dri").glob("card*"))
    with subprocess.Popen(["/bin/sh", "-c", f"exec sleep 600 <{node}"]) as holder:
        try:
            # The shell's own kill: a minimal system has no program of that name.
            kill = f"hooks.before=[['/bin/sh', '-c', 'kill {holder.pid}; sleep 1']]"
            done = qlaunch(*machine.words("run"), "--set", kill)
        finally:
            holder.kill()
    assert done.returncode == 0, done.stderr
    assert "0000:01:00.0 is back on bochs-drm" in done.stderr


def test_a_device_that_moved_is_refused(machine: Machine) -> None:
    machine.sets["pci[2].id"] = "10de:1200"
    refused = qlaunch(*machine.words("run"))
    assert refused.returncode == 1
    assert "another device stands at 0000:01:00.0" in refused.stderr


def test_a_bridge_and_an_incomplete_group_are_refused(machine: Machine) -> None:
    machine.sets |= {"pci[3].device": "00:10.0", "pci[3].id": "8086:3420"}
    refused = qlaunch(*machine.words("run"))
    assert refused.returncode == 1
    assert "0000:00:10.0 is a bridge" in refused.stderr
    assert "also holds 0000:01:00.1" in refused.stderr


def test_bind_and_unbind_by_hand() -> None:
    bound = qlaunch("bind", "02:00.0")
    assert bound.returncode == 0, bound.stderr
    assert NETWORK.driver == "vfio-pci"
    back = qlaunch("unbind", "02:00.0")
    assert back.returncode == 0, back.stderr
    assert NETWORK.driver == "e1000e"
    assert "0000:02:00.0 is back on e1000e" in back.stderr


def test_devices_shows_the_group_and_its_verdict() -> None:
    listed = qlaunch("devices", "01:00.0")
    assert listed.returncode == 0, listed.stderr
    assert "0000:01:00.1" in listed.stdout
    assert "could be handed over" in listed.stdout
