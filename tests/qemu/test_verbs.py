"""The verbs as they are typed, against a real QEMU: run, ps, status, stop, logs, recover."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qlaunch.cli.base import runtime_base
from qlaunch.run.info import find_qemu

pytestmark = pytest.mark.qemu
TOP = Path(__file__).parents[2]

PROFILE = """\
name = "{name}"
[machine]
memory = "64M"
accel = "tcg"
fw_cfg = {{ "opt/org.qlaunch/name" = "{name}", "opt/org.qlaunch/seconds" = "{seconds}" }}
[cpu]
cores = 2
{cpu}
[[disk]]
file = "disk.img"
boot = 0
{disk}
[[serial]]
type = "file"
file = "{serial}"
[stop]
timeout = "1s"
"""


class Vm:
    """A profile in a directory of its own, and what it said on its serial port."""

    def __init__(self, directory: Path, name: str, **settings: str) -> None:
        self.name = name
        self.path = directory / "it.toml"
        self.directory = directory
        self.serial = directory / "serial.log"
        image = directory / "disk.img"
        image.write_bytes(
            (TOP / "qlaunch/data/bootsector.bin").read_bytes().ljust(1 << 20, b"\0")
        )
        values = {"seconds": "0", "cpu": "", "disk": "", "serial": str(self.serial)} | settings
        self.path.write_text(PROFILE.format(name=name, **values))

    @property
    def runtime(self) -> str:
        return f"{runtime_base()}/{self.name}"

    def qemu(self) -> int:
        pid = find_qemu(self.runtime)
        assert pid is not None
        return pid


def qlaunch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qlaunch", *words], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=120,
    )


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Vm]]:
    made: list[Vm] = []

    def make(**settings: str) -> Vm:
        # /tmp itself may be written by others; what root runs must not be below such a place.
        directory = Path.home() if os.geteuid() == 0 else tmp_path_factory.mktemp("vm")
        directory = directory / f".qlaunch-test-{os.getpid()}-{len(made)}-{time.monotonic_ns()}"
        directory.mkdir(mode=0o755)
        made.append(Vm(directory, f"t{os.getpid()}-{len(made)}", **settings))
        return made[-1]

    yield make
    for vm in made:
        if Path(vm.runtime).exists():
            qlaunch("stop", vm.name, "--force")
            qlaunch("recover", vm.name)
        for path in vm.directory.iterdir():
            path.unlink()
        vm.directory.rmdir()
        state = Path("/var/lib/qlaunch" if os.geteuid() == 0 else
                     Path.home() / ".local/state/qlaunch") / vm.name
        if state.exists():
            shutil.rmtree(state)
        assert not Path(vm.runtime).exists()


Make = Callable[..., Vm]


def test_run_to_the_guests_own_end(make: Make) -> None:
    vm = make(seconds="1")
    done = qlaunch("run", str(vm.path))
    assert done.returncode == 0, done.stderr
    said = vm.serial.read_text()
    assert f"qlaunch: {vm.name} cpus=2 memory=64M" in said
    assert "qlaunch: done" in said
    assert "the guest powered off" in done.stderr
    assert not Path(vm.runtime).exists()
    logs = qlaunch("logs", vm.name)
    assert "[9] the guest runs" in logs.stdout
    assert "[11] done" in logs.stdout
    assert qlaunch("plan", str(vm.path), "--diff", "last").stdout == "no difference\n"
    changed = qlaunch("plan", str(vm.path), "--diff", "last", "--set", "cpu.cores=1")
    assert "+-smp 1,sockets=1,cores=1,threads=1" in changed.stdout


def test_detach_status_and_stop(make: Make) -> None:
    vm = make()
    started = qlaunch("run", str(vm.path), "--detach")
    assert started.returncode == 0, started.stderr
    assert f"qlaunch stop '{vm.name}'" in started.stdout
    listed = json.loads(qlaunch("ps", "--json").stdout)
    mine = next(m for m in listed if m["name"] == vm.name)
    assert mine["state"] == "running"
    assert mine["qemu_pid"] == vm.qemu()
    status = qlaunch("status", vm.name)
    assert f"{vm.name}: running" in status.stdout
    assert "2 vCPU(s), 64 MiB" in status.stdout
    assert re.search(r"load +\d+ % of a CPU, [1-9]\d+ MiB resident, \d+ threads", status.stdout)
    again = qlaunch("run", str(vm.path))
    assert again.returncode == 1
    assert "is running" in again.stderr
    stopped = qlaunch("stop", vm.name)
    assert stopped.returncode == 0, stopped.stderr
    assert not Path(vm.runtime).exists()
    # The guest ignores its power button: the ladder's second rung ended it.
    assert "telling QEMU to quit" in qlaunch("logs", vm.name).stdout


def test_detached_failure_is_told_here(make: Make) -> None:
    vm = make(disk='addr = "05"')
    failed = qlaunch("run", str(vm.path), "--detach", "--set", "qemu.args=['-device','nonsense']")
    assert failed.returncode == 1
    assert "'nonsense' is not a valid device model name" in failed.stderr
    assert not Path(vm.runtime).exists()


def test_hooks_run_before_and_after(make: Make) -> None:
    vm = make(seconds="1")
    done = qlaunch(
        "run", str(vm.path), "--set", "hooks.before=[['/bin/echo', 'before']]",
        "--set", "hooks.after=[['/bin/echo', 'after']]",
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith(("warning", " "))]
    order = [said.index(w) for w in ("before", f"{vm.name}: the guest runs", "after")]
    assert order == sorted(order)


def test_a_hook_of_the_end_that_hangs(make: Make) -> None:
    """A plain `stop` waits for it, and --now ends it."""
    vm = make()
    hook = "hooks.after=[['/bin/sleep', '600']]"
    assert qlaunch("run", str(vm.path), "--detach", "--set", hook).returncode == 0
    os.kill(vm.qemu(), signal.SIGKILL)
    until(lambda: "waiting for the hook [after]" in qlaunch("logs", vm.name).stdout, "the hook")
    assert f"{vm.name}: giving back" in qlaunch("status", vm.name).stdout
    plain = qlaunch("stop", vm.name, "--timeout", "3s")
    assert (plain.returncode, "waiting for the hook [after] /bin/sleep 600" in plain.stderr) == (
        1, True), plain.stderr
    done = qlaunch("stop", vm.name, "--now")
    assert done.returncode == 0, done.stderr
    assert "a hook was ended by SIGUSR1" in qlaunch("logs", vm.name).stdout
    assert not Path(vm.runtime).exists()


def test_a_hook_that_fails_keeps_the_guest_from_running(make: Make) -> None:
    vm = make()
    done = qlaunch("run", str(vm.path), "--set", "hooks.before=[['/bin/false']]")
    assert done.returncode == 1
    assert "a hook failed" in done.stderr
    assert "the guest runs" not in done.stderr
    assert not Path(vm.runtime).exists()


EXITS = bytes.fromhex(  # waits half a second (int 15h, 86h), then writes 16 to port f4h
    "b486 b90700 ba20a1 cd15 baf400 b010 ee f4 ebfe")


@pytest.fixture
def named() -> Iterator[str]:
    """A machine's name, whose state is gone afterwards."""
    name = f"t{os.getpid()}-status"
    yield name
    home = Path("/var/lib" if os.geteuid() == 0 else Path.home() / ".local/state")
    shutil.rmtree(home / "qlaunch" / name, ignore_errors=True)


def test_the_guests_own_status(tmp_path: Path, both_qemus: str, named: str) -> None:
    """QEMU 7.2 dies of isa-debug-exit, 10.0 calls it a shutdown: asked for, the status is told."""
    (tmp_path / "disk.img").write_bytes(
        EXITS.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    path = tmp_path / "it.toml"
    path.write_text(
        f'name = "{named}"\n[machine]\nmemory = "64M"\naccel = "tcg"\n'
        '[[disk]]\nfile = "disk.img"\nboot = 0\n'
        f'[qemu]\nbinary = "{both_qemus}"\n'
        'args = ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]\n')
    found = qlaunch("run", str(path), "--guest-status")
    assert found.returncode == 33, found
    assert qlaunch("run", str(path)).returncode in (0, 1)
    assert f"hint: qlaunch logs '{named}' tells how it ended\n" in qlaunch("status", named).stderr
    refused = qlaunch("run", str(path), "--guest-status", "--detach")
    assert (refused.returncode, "hint: leave one of them out" in refused.stderr) == (2, True)


def test_stop_force(make: Make) -> None:
    vm = make()
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    stopped = qlaunch("stop", vm.name, "--force")
    assert (stopped.returncode, stopped.stderr.splitlines()[-1]) == (
        0, f"{vm.name}: ended (stopped by SIGKILL), all given back")
    assert "died" not in qlaunch("logs", vm.name).stdout
    assert not Path(vm.runtime).exists()


def test_launcher_killed_then_recover_watches_again(make: Make) -> None:
    vm = make(seconds="4")
    process = subprocess.Popen(
        [sys.executable, "-m", "qlaunch", "run", str(vm.path)], stderr=subprocess.PIPE, text=True,
        stdin=subprocess.DEVNULL,
    )
    with process:
        assert process.stderr is not None
        until(lambda: "the guest runs" in process.stderr.readline(), "runs")  # type: ignore
        process.kill()
    assert f"{vm.name}: unsupervised" in qlaunch("status", vm.name).stdout
    done = qlaunch("recover", vm.name)
    assert done.returncode == 0, done.stderr
    assert "watched again" in done.stderr
    assert not Path(vm.runtime).exists()


def test_qemu_killed_is_told(make: Make) -> None:
    vm = make()
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    os.kill(vm.qemu(), signal.SIGKILL)
    until(lambda: not Path(vm.runtime).exists(), "given back")
    assert "QEMU died (signal SIGKILL)" in qlaunch("logs", vm.name).stdout


def test_pins_are_where_the_profile_says(make: Make) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    first, last = cpus[0], cpus[-1]
    others = f'emulator = "{last}", iothreads = "{first}"'
    vm = make(
        cpu=f'pin = {{ vcpus = ["{first}", "{last}"], {others} }}', disk="iothread = true"
    )
    started = qlaunch("run", str(vm.path), "--detach")
    assert started.returncode == 0, started.stderr
    names: dict[str, set[int]] = {}
    for task in Path(f"/proc/{vm.qemu()}/task").iterdir():
        name = (task / "comm").read_text().strip()
        names.setdefault(name, set()).update(os.sched_getaffinity(int(task.name)))
    assert names.pop("CPU 0/TCG") == {first}
    assert names.pop("CPU 1/TCG") == {last}
    assert names.pop("IO iothread0") == {first}
    assert set().union(*names.values()) == {last}
    assert qlaunch("stop", vm.name, "--now").returncode == 0


def test_a_disk_in_use_is_told_with_its_user(make: Make) -> None:
    vm = make()
    rival = make()
    assert qlaunch("run", str(vm.path), "--detach").returncode == 0
    refused = qlaunch("run", str(rival.path), "--set", f"disk[0].file={vm.directory}/disk.img")
    assert refused.returncode == 1
    assert "another QEMU has this disk open" in refused.stderr
    assert f"the machine {vm.name} " in refused.stderr
    assert qlaunch("stop", vm.name, "--now").returncode == 0


def test_no_qemu_and_a_qemu_that_is_none(make: Make) -> None:
    vm = make()
    missing = qlaunch("run", str(vm.path), "--set", "qemu.binary=qemu-system-nothing")
    assert missing.returncode == 1
    assert "QEMU is not installed" in missing.stderr
    wrong = qlaunch("run", str(vm.path), "--set", "qemu.binary=/bin/true")
    assert wrong.returncode == 1
    assert "does not answer as QEMU does" in wrong.stderr
    for done in (missing, wrong):
        assert "Traceback" not in done.stderr
    assert not Path(vm.runtime).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", range(2, 12))
def test_a_signal_at_any_stage_ends_the_run_and_leaves_nothing(
    make: Make, stage: int, number: signal.Signals
) -> None:
    vm = make()
    words = [str(TOP / "tests/fake/at_stage.py"), str(int(number)), str(stage)]
    process = subprocess.Popen(
        [sys.executable, *words, "run", str(vm.path)], stderr=subprocess.PIPE, text=True,
        stdin=subprocess.DEVNULL,
    )
    with process:
        assert process.stderr is not None
        if stage > 9:  # reached once the guest has ended
            until(lambda: "the guest runs" in process.stderr.readline(), "runs")  # type: ignore
            assert qlaunch("stop", vm.name, "--force").returncode == 0
        said = process.stderr.read()
    assert process.returncode == (0 if stage >= 9 else 1), said  # 10, 11: stopped as asked
    assert "Traceback" not in said
    assert not Path(vm.runtime).exists()
    if stage > 9:
        assert "still giving back" in said


def test_ctrl_c_at_a_terminal_presses_the_power_button_and_does_not_kill_qemu(make: Make) -> None:
    vm = make()
    text = vm.path.read_text().replace('type = "file"', 'type = "stdio"')
    vm.path.write_text("\n".join(ln for ln in text.splitlines() if "serial.log" not in ln))
    pid, terminal = pty.fork()
    if pid == 0:
        words = [sys.executable, "-m", "qlaunch", "run", str(vm.path)]
        os.execv(words[0], words)  # noqa: S606
    said = ""

    def reads(wanted: str) -> bool:
        nonlocal said
        try:
            said += os.read(terminal, 4096).decode()
        except OSError:  # EIO: it has ended
            return True
        return wanted in said

    until(lambda: reads("qlaunch: done"), "the guest's text is on the terminal")
    os.write(terminal, b"\x03")
    until(lambda: reads("all given back"), "it ends")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert "pressing the power button" in said
    assert "telling QEMU to quit" in said
