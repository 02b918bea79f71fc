"""A real swtpm behind a real QEMU: it answers, its state is kept, and it ends with its machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.run.info import find_supervisor, read_info
from qlaunch.vm.monitor import Monitor
from tests.fake.loop import run
from tests.qemu.test_verbs import TOP, Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu


def machine(make: Make, tpm: str = "[tpm]\n", seconds: str = "0") -> Vm:
    vm = make(seconds=seconds)
    vm.path.write_text(vm.path.read_text() + tpm)
    return vm


def state_of(vm: Vm) -> Path:
    home = Path("/var/lib/qlaunch" if os.geteuid() == 0 else Path.home() / ".local/state/qlaunch")
    return home / vm.name


def daemons(vm: Vm) -> Iterator[int]:
    """The swtpms of a machine: whoever holds a file of its state and has that name."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            named = (entry / "comm").read_text().strip() == "swtpm"
            holds = named and any(
                str(fd.readlink()).startswith(f"{state_of(vm)}/tpm")
                for fd in (entry / "fd").iterdir()
            )
        except OSError:
            continue
        if holds:
            yield int(entry.name)


def the_daemon(vm: Vm) -> int:
    (pid,) = daemons(vm)
    return pid


def asked(vm: Vm) -> object:
    """What QEMU says of its TPM, over the user's own monitor."""
    info = read_info(vm.runtime)
    assert info is not None

    async def ask() -> object:
        async with await Monitor.connect(f"{info.socket_dir}/qmp.sock", timeout=60) as monitor:
            return await monitor.execute("query-tpm")

    return run(ask())


@pytest.mark.parametrize(
    ("tpm", "model", "kept"),
    [
        ("[tpm]\n", "tpm-crb", "tpm2/tpm2-00.permall"),
        ('[tpm]\nversion = "1.2"\n', "tpm-tis", "tpm12/tpm-00.permall"),
    ],
)
def test_it_answers_and_its_state_is_kept(
    make: Make, both_qemus: str, tpm: str, model: str, kept: str
) -> None:
    vm = machine(make, tpm)
    contents = []
    for _ in range(2):
        started = qlaunch("run", str(vm.path), "--detach", "--set", f"qemu.binary={both_qemus}")
        assert started.returncode == 0, started.stderr
        assert asked(vm) == [
            {"id": "tpm0-backend", "model": model,
             "options": {"type": "emulator", "data": {"chardev": "tpm0-swtpm"}}}
        ]
        # One account for both, and no other can have a look at the state.
        daemon, state = Path(f"/proc/{the_daemon(vm)}"), state_of(vm) / kept
        uids = {line.split()[1] for line in (daemon / "status").read_text().splitlines()
                if line.startswith("Uid:")}
        assert uids == {str(Path(f"/proc/{vm.qemu()}").stat().st_uid)}
        assert uids == {str(state.stat().st_uid)}
        assert (state.stat().st_mode & 0o777, state.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        stopped = qlaunch("stop", vm.name, "--now")
        assert stopped.returncode == 0, stopped.stderr
        assert list(daemons(vm)) == []
        contents.append(state.read_bytes())
    assert "does not end" not in qlaunch("logs", vm.name).stdout
    first, second = contents
    assert len(first) == len(second) > 1000
    # Its seeds are the same: a new TPM would differ in nearly all of them.
    assert sum(a != b for a, b in zip(first, second, strict=True)) < 40


def test_the_launcher_is_killed(make: Make) -> None:
    vm = machine(make)
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    daemon = the_daemon(vm)
    launcher = find_supervisor(vm.runtime)
    assert launcher is not None
    os.kill(launcher, signal.SIGKILL)
    until(lambda: find_supervisor(vm.runtime) is None, "the launcher is gone")
    assert "unsupervised" in qlaunch("status", vm.name).stdout + qlaunch("ps").stdout
    assert the_daemon(vm) == daemon
    assert asked(vm)
    stopped = qlaunch("stop", vm.name, "--now")
    assert stopped.returncode == 0, stopped.stderr
    until(lambda: not list(daemons(vm)), "swtpm ends with QEMU")


@pytest.mark.parametrize("verb", ["recover", "run"])
def test_the_launcher_is_killed_before_qemu_has_spoken_to_it(make: Make, verb: str) -> None:
    """As stage 7 begins swtpm runs and QEMU does not; swtpm alone would wait for ever."""
    vm = machine(make, seconds="1")
    done = subprocess.run(
        [sys.executable, str(TOP / "tests/fake/at_stage.py"), "9", "7", "run", str(vm.path)],
        stdin=subprocess.DEVNULL, check=False,
    )
    assert done.returncode == -9
    left = the_daemon(vm)
    after = qlaunch(verb, vm.name if verb == "recover" else str(vm.path))
    assert after.returncode == 0, after.stderr
    assert left not in daemons(vm)
    assert list(daemons(vm)) == []
    assert not Path(vm.runtime).exists()


def test_a_qemu_that_fails_early_is_told_at_once(make: Make) -> None:
    vm = machine(make)
    start = time.monotonic()
    done = qlaunch("run", str(vm.path), "--set", "qemu.args=['-nonsense']")
    assert done.returncode == 1
    assert "-nonsense: invalid option" in done.stderr
    assert "swtpm" not in done.stderr
    assert list(daemons(vm)) == []
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("launcher_too", [False, True])
def test_qemu_is_killed(make: Make, *, launcher_too: bool) -> None:
    vm = machine(make)
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    state = state_of(vm) / "tpm2/tpm2-00.permall"
    qemu, launcher = vm.qemu(), find_supervisor(vm.runtime)
    assert the_daemon(vm)
    assert launcher is not None
    if launcher_too:
        os.kill(launcher, signal.SIGKILL)
    os.kill(qemu, signal.SIGKILL)
    until(lambda: not list(daemons(vm)), "swtpm ends with QEMU")
    if launcher_too:
        assert qlaunch("recover", vm.name).returncode == 0
    until(lambda: not Path(vm.runtime).exists(), "nothing is left")
    before = state.read_bytes()
    again = qlaunch("run", str(vm.path), "--set",
                    "machine.fw_cfg={'opt/org.qlaunch/seconds'='1'}")
    assert again.returncode == 0, again.stderr
    assert sum(a != b for a, b in zip(before, state.read_bytes(), strict=True)) < 40


def test_swtpm_is_killed_and_the_guest_runs_on(make: Make) -> None:
    vm = machine(make)
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    os.kill(the_daemon(vm), signal.SIGKILL)
    told = "swtpm for tpm ended (signal SIGKILL); the guest runs on without tpm"
    until(lambda: told in qlaunch("logs", vm.name).stdout, told)
    assert f"{vm.name}: running" in qlaunch("status", vm.name).stdout
    stopped = qlaunch("stop", vm.name, "--now")
    assert stopped.returncode == 0, stopped.stderr
    assert not Path(vm.runtime).exists()


def test_a_state_that_cannot_be_read_is_told(make: Make) -> None:
    vm = machine(make)
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    assert qlaunch("stop", vm.name, "--now").returncode == 0
    (state_of(vm) / "tpm2/tpm2-00.permall").write_text("garbage\n")
    done = qlaunch("run", str(vm.path))
    assert done.returncode == 1
    assert "Could not initialize" in done.stderr
    assert "hint: the TPM's state is of no use" in done.stderr
    assert list(daemons(vm)) == []
    assert not Path(vm.runtime).exists()
