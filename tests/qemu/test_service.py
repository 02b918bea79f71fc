"""A machine as a service: the unit is one that systemd understands, and what it relies on holds."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qlaunch.cli.notify import notify
from tests.fake.systemd import PROGRAM, Systemd, booted
from tests.fake.users import AS_USER, UID, Stage, everybody_reads_it
from tests.qemu.test_users import MACHINE
from tests.qemu.test_verbs import Vm, make, qlaunch, until

__all__ = ["make"]  # the fixture
TOP = Path(__file__).parents[2]
UNIT = TOP / "contrib/systemd/qlaunch@.service"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
@pytest.mark.parametrize("scope", ["--system", "--user"])
def test_systemd_understands_the_unit(tmp_path: Path, scope: str) -> None:
    own = shutil.which("qlaunch", path=str(Path(sys.executable).parent))
    text = UNIT.read_text().replace("=qlaunch ", f"={own} ").replace("-qlaunch ", f"-{own} ")
    copy = tmp_path / "qlaunch@a\\x20b.service"
    copy.write_text(text.replace("Documentation=man:qlaunch.toml(5)\n", ""))  # not installed here
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(["systemd-analyze", scope, "--man=no", "verify", copy], text=True,
                          capture_output=True, env=environ, check=False)
    told = [line for line in done.stderr.splitlines() if "qlaunch" in line]
    assert told == [], done.stderr
    assert text.count(str(own)) == 2


@pytest.mark.qemu
def test_it_has_started_when_the_guest_runs(
    make: Callable[..., Vm], tmp_path: Path
) -> None:
    """And SIGTERM, which is `systemctl stop`, ends it with nothing left to recover."""
    vm = make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(60)
        systemd.bind(f"\0qlaunch-test-{os.getpid()}")
        run = subprocess.Popen(
            [sys.executable, "-m", "qlaunch", "run", str(vm.path)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "NOTIFY_SOCKET": f"@qlaunch-test-{os.getpid()}"},
        )
        assert systemd.recv(100) == b"READY=1\nSTATUS=the guest runs"
        assert "NOTIFY_SOCKET" not in psutil.Process(vm.qemu()).environ()
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate(timeout=60)
        assert run.returncode == 0, said
    assert not Path(vm.runtime).exists()
    assert "no machine" in qlaunch("recover", vm.name).stderr  # ExecStopPost, whose failure is none


@pytest.fixture(scope="module")
def systemd() -> Iterator[Systemd]:
    """A real one, PID 1 of a namespace, with our unit in it."""
    with booted() as made:
        if isinstance(made, str):
            pytest.skip(made)
        own = f"{sys.executable} -I -m qlaunch "
        text = UNIT.read_text().replace("=qlaunch ", f"={own}").replace("-qlaunch ", f"-{own}")
        made.run("sh", "-c", 'printf %s "$0" >/run/systemd/system/qlaunch@.service', text)
        yield made


def typed(systemd: Systemd, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"QLAUNCH_UNIT": "", "SSH_CONNECTION": "192.0.2.7 1 192.0.2.1 22", **environ}
    return systemd.run(sys.executable, "-I", "-m", "qlaunch", *words, **environ)


def left(systemd: Systemd) -> list[str]:
    """Machines, and what their hooks have started."""
    runtime = systemd.run("ls", "/run/qlaunch").stdout.split()
    names = systemd.run("sh", "-c", "cat /proc/[0-9]*/comm").stdout.split()
    return runtime + [name for name in names if name == "sleep"]


def odd(vm: Vm) -> Path:
    """A name and a path with what systemd and shells would take for something else."""
    name = vm.name
    vm.name += " b+c"
    path = vm.directory / "$HOME ${x} 100%n \\ \"it's\".toml"
    path.write_text(vm.path.read_text().replace(f'name = "{name}"', f'name = "{vm.name}"'))
    return path


@pytest.mark.qemu
def test_detached_it_is_a_service_that_outlives_its_launcher(
    make: Callable[..., Vm], systemd: Systemd
) -> None:
    """systemd has `recover` watch the guest again; `stop` finds it, and nothing stays."""
    vm = make()
    path, unit = odd(vm), f"qlaunch-{vm.name}.service".replace(" ", "\\x20").replace("+", "\\x2b")
    done = typed(systemd, "run", str(path), "--detach")
    assert (done.returncode, done.stdout) == (
        0, f"{vm.name} runs; qlaunch status '{vm.name}', qlaunch stop '{vm.name}'\n"), done
    assert f"{vm.name}: the guest runs" in done.stderr
    assert systemd.state(unit) == "active"
    again = typed(systemd, "run", str(path), "--detach")
    assert (again.returncode, f"{vm.name} is running" in again.stderr) == (1, True)
    shown = systemd.run("systemctl", "show", "-p", "MainPID,Environment", unit).stdout
    assert "SSH_CONNECTION=192.0.2.7" in shown
    order = systemd.run("systemctl", "show", "-p", "After", "--value", unit).stdout.split()
    assert {"network-online.target", "remote-fs.target"} <= set(order)
    launcher = re.search("MainPID=([0-9]+)", shown)
    assert launcher is not None
    systemd.run("kill", "-9", launcher[1])
    until(lambda: "watched again" in typed(systemd, "logs", vm.name).stdout, "nobody watches")
    assert systemd.state(unit) == "deactivating"
    assert json.loads(typed(systemd, "ps", "--json").stdout)[0]["state"] == "running"
    assert typed(systemd, "stop", vm.name).returncode == 0
    until(lambda: systemd.state(unit) == "inactive", "the service stays")
    assert left(systemd) == []


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-user-") as name:
        Path(name).chmod(0o755)
        made = Stage(Path(name))
        image = (TOP / "qlaunch/data/bootsector.bin").read_bytes()
        made.write("disk.img", image.ljust(1 << 20, b"\0"))
        made.write("vm.toml", MACHINE.replace("SECONDS", "0"))
        yield made


LINGERING = """
set -e
for file in passwd group; do mount --bind "$0/$file" /etc/$file; done
mkdir -p "$1" && chown "$2:$2" "$1" && chmod 700 "$1"
mount -t tmpfs none /var/lib/systemd
mkdir -p /var/lib/systemd/linger && touch /var/lib/systemd/linger/tester
exec systemd-run --unit=manager --service-type=notify -p User=$2 -p Delegate=yes \\
    -p AmbientCapabilities=CAP_DAC_READ_SEARCH -p "Environment=XDG_RUNTIME_DIR=$1 HOME=$0/home \\
SYSTEMD_UNIT_PATH=/run/systemd/system" "$3" --user --unit=bare.target
"""


@pytest.mark.qemu
def test_of_a_user_who_lingers_it_is_their_own_managers(stage: Stage, systemd: Systemd) -> None:
    if not everybody_reads_it():
        pytest.skip("the user's own systemd may not read this checkout")
    runtime = f"/run/user/{UID}"
    done = systemd.run("sh", "-c", LINGERING, str(stage.directory), runtime, str(UID), PROGRAM)
    assert done.returncode == 0, done.stderr
    me = ["env", "-C", str(stage.home), f"HOME={stage.home}", f"XDG_RUNTIME_DIR={runtime}",
          "QLAUNCH_UNIT=", *AS_USER]
    own = [*me, sys.executable, "-I", "-m", "qlaunch"]
    done = systemd.run(*own, "run", "vm.toml", "--detach")
    assert (done.returncode, "vm runs" in done.stdout) == (0, True), done
    state = [*me, "systemctl", "--user", "is-active", "qlaunch-vm"]
    assert systemd.run(*state).stdout == "active\n"
    for _ in range(2):
        assert systemd.run(*own, "stop", "vm", "--now").returncode == 0
        done = systemd.run(*own, "run", "vm.toml", "--detach")  # its service is about to end
        assert done.returncode == 0, done
    assert systemd.run(*own, "stop", "vm", "--now").returncode == 0
    until(lambda: systemd.run(*state).stdout == "inactive\n", "the service stays")


@pytest.mark.qemu
def test_a_detached_start_that_fails_says_why(make: Callable[..., Vm], systemd: Systemd) -> None:
    """On the terminal it was asked from, with its own exit code."""
    vm = make()
    vm.path.write_text(vm.path.read_text() + '[qemu]\nargs = ["-device", "no-such"]\n')
    done = typed(systemd, "run", str(vm.path), "--detach")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'no-such' is not a valid device model name" in done.stderr
    assert "systemd" not in done.stderr
    assert left(systemd) == []


@pytest.mark.qemu
def test_ctrl_c_stops_a_detached_start(make: Callable[..., Vm], systemd: Systemd) -> None:
    vm = make()
    vm.path.write_text(vm.path.read_text() + '[hooks]\nbefore = [["sleep", "600"]]\n')
    child = systemd.start(sys.executable, "-I", "-m", "qlaunch", "run", str(vm.path), "--detach",
                          QLAUNCH_UNIT="")
    until(lambda: "hook: sleep" in typed(systemd, "logs", vm.name).stdout, "the hook")
    for process in psutil.Process(child.pid).children(recursive=True):
        if "--detach" in process.cmdline() and process.name() != "systemd-run":
            process.send_signal(signal.SIGINT)
    said, errors = child.communicate(timeout=60)
    assert (child.returncode, said) == (1, ""), errors
    assert f"{vm.name}: stopping" in errors
    assert "interrupted" in errors
    assert left(systemd) == []


@pytest.fixture
def logind(systemd: Systemd) -> None:
    """A real one, on a bus of its own."""
    program = Path(PROGRAM).with_name("systemd-logind")
    if shutil.which("dbus-daemon") is None or not program.exists():
        pytest.skip("needs dbus-daemon and systemd-logind")
    systemd.run("mkdir", "-p", "/run/dbus")
    for words in (["dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog"],
                  [str(program)]):
        assert systemd.run("systemd-run", *words).returncode == 0
        until(lambda: systemd.run("test", "-S", "/run/dbus/system_bus_socket").returncode == 0,
              "no bus")
    until(lambda: systemd.run("systemd-inhibit", "--list").returncode == 0, "no logind")


@pytest.mark.qemu
def test_the_host_does_not_sleep_while_the_guest_runs(
    make: Callable[..., Vm], systemd: Systemd, logind: None
) -> None:
    """Whoever is killed, the lock is there as long as QEMU, and goes with it."""
    def locks() -> list[str]:
        listed = systemd.run("systemd-inhibit", "--list", "--no-legend", "--no-pager").stdout
        return [line for line in listed.splitlines() if line.startswith("qlaunch")]

    vm = make()
    assert typed(systemd, "run", str(vm.path), "--detach").returncode == 0
    assert locks() == []  # it has no devices of the host
    typed(systemd, "stop", vm.name, "--now")
    vm.path.write_text(vm.path.read_text() + 'on_host_sleep = "inhibit"\n')
    assert typed(systemd, "run", str(vm.path), "--detach").returncode == 0
    until(locks, "no lock")
    assert re.search(rf"sleep +the machine {vm.name} runs +block", locks()[0])
    unit = f"qlaunch-{vm.name}.service"
    systemd.run("kill", "-9", systemd.run("systemctl", "show", "-p", "MainPID", "--value", unit
                                          ).stdout.strip())
    until(lambda: "watched again" in typed(systemd, "logs", vm.name).stdout, "nobody watches")
    assert len(locks()) == 1
    assert typed(systemd, "stop", vm.name).returncode == 0
    until(lambda: not locks(), "the lock stays")


@pytest.mark.qemu
def test_the_unit_under_systemd(make: Callable[..., Vm], systemd: Systemd) -> None:
    """Started means that the guest runs; stopping presses the power button and waits."""
    vm = make()
    (unit,) = systemd.run("systemd-escape", "--template=qlaunch@.service", str(vm.path)
                          ).stdout.split()
    assert systemd.run("systemctl", "start", unit).returncode == 0
    assert vm.serial.exists()
    assert systemd.run("systemctl", "stop", unit).returncode == 0
    assert "pressing the power button" in typed(systemd, "logs", vm.name).stdout
    assert systemd.run("systemctl", "is-failed", unit).stdout.strip() == "inactive"
    assert left(systemd) == []


@pytest.mark.qemu
@pytest.mark.parametrize("by", ["path", "file name"])
def test_the_unit_finds_the_machine_of_another_name(
    make: Callable[..., Vm], systemd: Systemd, by: str
) -> None:
    """Its file is it.toml; the machine that its killed launcher leaves is named in there."""
    vm = make()
    words = [str(vm.path)]
    if by == "file name":
        systemd.run("sh", "-c", DROPIN, str(vm.directory))
        words = ["it"]
    (unit,) = systemd.run("systemd-escape", "--template=qlaunch@.service", *words).stdout.split()
    assert systemd.run("systemctl", "start", unit).returncode == 0
    launcher = systemd.run("systemctl", "show", "-p", "MainPID", "--value", unit).stdout.strip()
    systemd.run("kill", "-9", launcher)
    until(lambda: "watched again" in typed(systemd, "logs", vm.name).stdout, "nobody watches")
    assert systemd.state(unit) == "deactivating"
    assert typed(systemd, "stop", vm.name).returncode == 0
    until(lambda: systemd.state(unit) in ("failed", "inactive"), "the service stays")
    systemd.run("systemctl", "reset-failed", unit)
    assert left(systemd) == []


DROPIN = """
mkdir -p /run/systemd/system/qlaunch@it.service.d
printf '[Service]\\nWorkingDirectory=%s\\n' "$0" >/run/systemd/system/qlaunch@it.service.d/here.conf
systemctl daemon-reload
"""


def test_nobody_to_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address in ("", "relative", str(tmp_path / "missing"), "@" + "x" * 300):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")
