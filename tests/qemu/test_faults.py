"""What befalls machines from outside: killed for memory, stopped dead, disks full, many at once.

Each time with the launcher alive, which gives everything back and says what happened.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qlaunch.cli.base import runtime_base
from qlaunch.run.info import QMP, find_supervisor, read_info
from tests.fake.users import UID, Stage
from tests.qemu.test_users import MACHINE
from tests.qemu.test_users import pytestmark as as_others
from tests.qemu.test_verbs import Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu
needs_root = as_others[1:]  # becomes other users, in mount namespaces
MEMORY = Path("/sys/fs/cgroup/memory")  # cgroup v1
UNIFIED = Path("/sys/fs/cgroup")


def started(vm: Vm, *words: str) -> subprocess.Popen[str]:
    """A launcher in the foreground, its guest running."""
    child = subprocess.Popen(
        [sys.executable, "-m", "qlaunch", "run", str(vm.path), *words], stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, text=True,
    )
    until(lambda: vm.serial.exists() and vm.serial.read_text(), "the guest speaks")
    return child


def ended(child: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = child.communicate(timeout=120)
    return child.returncode, said


# -- killed for memory


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group that has less memory than a QEMU wants, of either version."""
    name = f"qlaunch-test-{os.getpid()}"
    v1 = (MEMORY / "memory.limit_in_bytes").exists()
    path = (MEMORY if v1 else UNIFIED) / name
    try:
        path.mkdir()
        limit = "memory.limit_in_bytes" if v1 else "memory.max"
        (path / limit).write_text(str(8 << 20))
    except OSError as error:
        if path.is_dir():
            path.rmdir()
        pytest.skip(f"no control group of memory can be made here: {error.strerror}")
    yield path
    until(lambda: not (path / "cgroup.procs").read_text(), "the group is empty")
    path.rmdir()


def test_killed_for_memory(little_memory: Path, make: Make) -> None:
    """A real one: the kernel kills QEMU as it touches more than its group has."""
    vm = make()
    child = started(vm)
    pid = vm.qemu()
    (little_memory / "cgroup.procs").write_text(str(pid))
    info = read_info(vm.runtime)
    assert info is not None
    more = {"qom-type": "memory-backend-ram", "id": "more", "size": 64 << 20, "prealloc": True}
    with socket.socket(socket.AF_UNIX) as port:
        port.settimeout(60)
        port.connect(f"{info.socket_dir}/{QMP}")
        for name, arguments in (("qmp_capabilities", {}), ("object-add", more)):
            port.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        code, said = ended(child)
    assert code == 1, said
    assert "QEMU died (signal SIGKILL)" in said
    assert "all given back" in said
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout
    if f"Killed process {pid} (qemu" in log:  # a container is not shown the log, or other numbers
        assert "signal SIGKILL, killed for want of memory, as the kernel's log says" in said
    else:
        assert "hint: the kernel kills what it has no memory for" in said
    assert not Path(vm.runtime).exists()


# -- stopped dead


def test_stopped_dead_during_its_shutdown(make: Make) -> None:
    """A QEMU that answers nothing any more climbs the whole ladder."""
    vm = make()
    child = started(vm)
    pid = vm.qemu()
    launcher = find_supervisor(vm.runtime)
    assert launcher is not None
    os.kill(launcher, signal.SIGTERM)
    os.kill(pid, signal.SIGSTOP)
    code, said = ended(child)
    assert code == 0, said
    assert "ended (stopped by SIGKILL), all given back" in said
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(vm.runtime).exists()


def test_its_terminal_is_closed(make: Make) -> None:
    """SIGHUP presses the power button, and nothing that cannot be written stops the way back."""
    vm = make()
    pid, terminal = pty.fork()
    if pid == 0:
        words = [sys.executable, "-m", "qlaunch", "run", str(vm.path)]
        os.execv(sys.executable, words)  # noqa: S606 - on the terminal that was forked
    until(lambda: vm.serial.exists() and vm.serial.read_text(), "the guest speaks")
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0
    assert not Path(vm.runtime).exists()
    log = qlaunch("logs", vm.name).stdout
    assert log.index("SIGHUP") < log.index("all given back")


# -- full disks


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-user-") as name:
        Path(name).chmod(0o755)
        made = Stage(Path(name))
        image = (Path(__file__).parents[2] / "qlaunch/data/bootsector.bin").read_bytes()
        made.write("disk.img", image.ljust(1 << 20, b"\0"))
        made.write("vm.toml", MACHINE.replace("SECONDS", "1"))
        yield made


FULL = (
    "mount -t tmpfs -o size=16k,mode=700,uid={0},gid={0} none {1}; head -c 64K /dev/zero >{1}/x; "
)


@needs_root[0]
@needs_root[1]
def test_a_full_log_disk_is_told_and_the_guest_runs(stage: Stage) -> None:
    states = ".local/state/qlaunch"
    done = stage.run(f"u check vm >/dev/null 2>&1; mkdir -p {states}; chown -R {UID} .local; "
                     + FULL.format(UID, states) + "u run vm; echo $?")
    assert done.stdout == "0\n", done
    assert done.stderr.count("warning: the log cannot be written (No space left on device)") == 1
    assert "the guest powered off" in done.stderr


@needs_root[0]
@needs_root[1]
@pytest.mark.parametrize("who", ["u", "s"])
def test_a_full_run_is_refused_with_words(stage: Stage, who: str) -> None:
    """Nothing is started, and nothing half-made stays."""
    where = f"/run/user/{UID}" if who == "u" else "/run/qlaunch"
    uid = UID if who == "u" else 0
    done = stage.run(f"mkdir -p {where}; " + FULL.format(uid, where)
                     + f"{who} run vm; echo $?; find {where} -size +0 ! -name x -type f")
    assert "No space left on device" in done.stderr
    assert "hint: df -h and df -i show what is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "1\n", done


# -- many at once


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.nightly)])
def test_many_starts_at_once_of_one_machine(make: Make, count: int) -> None:
    """One wins; the others say who has it and leave nothing."""
    vm = make(seconds="0")
    words = [sys.executable, "-m", "qlaunch", "run", str(vm.path), "--detach"]
    children = [
        subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                         stdin=subprocess.DEVNULL)
        for _ in range(count)
    ]
    said = [ended(child) for child in children]
    assert sorted(code for code, _ in said) == [0] + [1] * (count - 1), said
    assert all(f"{vm.name} is running" in text for code, text in said if code == 1)
    assert vm.qemu()
    assert qlaunch("stop", vm.name, "--now").returncode == 0
    assert not Path(vm.runtime).exists()


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.nightly)])
def test_many_machines_at_once(make: Make, count: int) -> None:
    """All run, all end, and nothing of any is left."""
    vms = [make(seconds="1") for _ in range(count)]
    children = [
        subprocess.Popen([sys.executable, "-m", "qlaunch", "run", str(vm.path)],
                         stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        for vm in vms
    ]
    for child in children:
        code, said = ended(child)
        assert (code, "the guest powered off" in said) == (0, True), said
    assert not [vm.name for vm in vms if Path(vm.runtime).exists()]


@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.nightly)])
def test_rounds_leave_nothing(make: Make, rounds: int) -> None:
    """No file, link, process, group, mount or socket with its name; tests/unit/test_many_runs.py
    counts the launcher's own fds and memory."""
    vm = make(seconds="1")
    vm.path.write_text(vm.path.read_text().replace("cores = 2", "cores = 1"))
    assert qlaunch("run", str(vm.path)).returncode == 0
    places = (Path(runtime_base()), Path("/dev/shm"), Path("/var/lib/qlaunch"),
              Path.home() / ".local/state/qlaunch", UNIFIED)

    def here() -> tuple[int, list[str], list[str]]:
        walked = (os.path.join(top, name) for place in places  # noqa: PTH118 - never raises
                  for top, folders, names in os.walk(place) for name in (*folders, *names))
        files = [path for path in walked if vm.name in path]
        links = [p.name for p in Path("/sys/class/net").glob("ql*")]
        lines = [line for name in ("self/mounts", "net/unix")
                 for line in Path("/proc", name).read_text().splitlines() if vm.name in line]
        users = [p.pid for p in psutil.process_iter(["cmdline"])
                 if any(vm.name in word for word in p.info["cmdline"] or ())]
        return len(users), sorted(files + links), lines

    before = here()
    for _ in range(rounds):
        done = qlaunch("run", str(vm.path))
        assert done.returncode == 0, done.stderr
    assert here() == before
