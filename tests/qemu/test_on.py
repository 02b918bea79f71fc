"""Verbs on another machine: real ssh, a real sshd on loopback, a real QEMU, and cut connections."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.fake.sshd import SESSION_PATH, SSHD, Sshd, sshd

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(
        not (Path(SSHD).exists() and shutil.which("ssh")), reason="contrib/sshd unpacks an sshd"
    ),
]
TOP = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BASE = """\
[machine]
memory = "64M"
accel = "tcg"
fw_cfg = {{ "opt/org.qlaunch/name" = "{name}", "opt/org.qlaunch/seconds" = "{seconds}" }}
[stop]
timeout = "1s"
"""
PROFILE = """\
name = "{name}"
extends = "the base's/b a se.toml"
[[disk]]
file = "disk images/a 'disk'.img"
format = "raw"
boot = 0
[[serial]]
type = "file"
file = "serial.log"
[display]
type = "gtk"
vga = "std"
"""
Done = subprocess.CompletedProcess[str]


class There:
    """The other machine, and a directory here with a profile whose names have spaces in them."""

    def __init__(self, server: Sshd, here: Path, name: str) -> None:
        self.server, self.here, self.name = server, here, name
        self.home = server.home
        self.profile = here / "my $HOME \"vm\".toml"
        self.runtime = here / "run"
        self.runtime.mkdir(mode=0o700)
        (here / "the base's").mkdir()
        images = self.home / "disk images"
        images.mkdir()
        (images / "a 'disk'.img").write_bytes(
            (TOP / "qlaunch/data/bootsector.bin").read_bytes().ljust(1 << 20, b"\0")
        )
        self.write(seconds=0)

    def write(self, *, seconds: int, more: str = "") -> None:
        (self.here / "the base's/b a se.toml").write_text(
            BASE.format(name=self.name, seconds=seconds))
        self.profile.write_text(PROFILE.format(name=self.name) + more)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "qlaunch", "on", "-F", str(self.server.config), *words]

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), cwd=self.here, env={**self.environ, **environ}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )

    def q(self, *words: str) -> Done:
        return subprocess.run(
            self.command("there", *words), cwd=self.here, env=self.environ, text=True,
            capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
        )

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.endswith("DISPLAY")}
        return {**kept, "XDG_RUNTIME_DIR": str(self.runtime), "PYTHONPATH": str(TOP)}

    def runs(self) -> bool:
        return any(vm["name"] == self.name for vm in json.loads(self.q("ps", "--json").stdout))

    def serial(self) -> str:
        log = self.home / "serial.log"
        return log.read_text() if log.exists() else ""

    def has_booted(self) -> bool:
        return f"qlaunch: {self.name}" in self.serial()

    def qemus(self) -> list[int]:
        return [p.pid for p in psutil.process_iter(["cmdline"])
                if f"guest={self.name},debug-threads=on" in (p.info["cmdline"] or [])]

    def left(self) -> list[str]:
        """What connections have left on either machine."""
        return [str(p) for place in (self.home / "tmp", self.runtime) for p in place.iterdir()]


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def there() -> Iterator[There]:
    # A short name: sockets are made below. Root's own directory, as root asks for profiles.
    with tempfile.TemporaryDirectory(prefix="qon-") as name:
        here = Path(name) / "here"
        (Path(name) / "s").mkdir()
        here.mkdir()
        bin_there = Path(name) / "s/home/bin"  # for programs that a test puts before others
        with sshd(Path(name) / "s", f"{bin_there}:{BIN}:{SESSION_PATH}") as server:
            machine = There(server, here, f"on{os.getpid()}-{time.monotonic_ns() % 10**6}")
            try:
                yield machine
                until(lambda: not machine.left(), f"left: {machine.left()}", 10)
            finally:
                if machine.qemus():
                    machine.q("stop", machine.name, "--force")
                    machine.q("recover", machine.name)
                root = os.geteuid() == 0
                state = Path("/var/lib/qlaunch") if root else server.home / ".local/state/qlaunch"
                shutil.rmtree(state / machine.name, ignore_errors=True)
            assert not machine.qemus()


def test_a_run_to_its_end(there: There) -> None:
    there.write(seconds=1)
    done = there.q("run", there.profile.name)
    assert done.returncode == 0, done
    assert f"{there.name}: the guest runs" in done.stderr
    assert "all given back" in done.stderr
    assert "there is no screen here for a window; its picture is on a VNC socket" in done.stderr
    assert there.has_booted()


def test_exit_codes_and_output_are_the_verbs(there: There) -> None:
    argv = there.q("argv", there.profile.name, "--oneline", "--set", "cpu.cores=3")
    assert argv.returncode == 0, argv
    assert f"{there.home}/disk images/a '" in argv.stdout.replace('"', "")
    assert "-smp 3" in argv.stdout
    assert json.loads(there.q("plan", "--json", there.profile.name).stdout)["name"] == there.name
    assert there.q("status", "nobody-of-this-name").returncode == 1
    there.write(seconds=0, more="[cpu]\ncoers = 1\n")
    wrong = there.q("check", there.profile.name)
    assert wrong.returncode == 2
    assert 'vm".toml:14: cpu.coers' in wrong.stderr
    assert "did you mean cores?" in wrong.stderr


def test_two_profiles_and_another_directory(there: There) -> None:
    other = there.here / "other.toml"
    other.write_text('[[disk]]\nfile = "x.img"\nformat = "raw"\n')
    elsewhere = there.home / "some where"
    elsewhere.mkdir()
    done = there.start("--directory", "~/some where", "there", "plan", str(there.profile),
                       "--diff=other.toml")
    said, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors
    assert f"+-name guest={there.name},debug-threads=on" in said
    assert f"{elsewhere}/x.img" in said


def test_a_profile_of_the_other_machine(there: There) -> None:
    config = there.home / ".config/qlaunch"
    config.mkdir(parents=True)
    (config / "theirs.toml").write_text('[[disk]]\nfile = "x.img"\nformat = "raw"\n')
    done = there.q("argv", "theirs")
    assert f"{config}/x.img" in done.stdout, done
    assert there.q("argv", "nobodys").returncode == 2
    assert there.q("argv", "./theirs.toml").returncode == 2


def test_a_detached_machine_outlives_the_connection(there: There) -> None:
    done = there.q("run", there.profile.name, "--detach")
    assert done.returncode == 0, done
    assert f"{there.name} runs" in done.stdout
    assert not there.left()
    there.server.cut()
    until(there.has_booted, "it has ended with the connection")
    assert there.runs()
    assert there.q("stop", there.name, "--now").returncode == 0
    assert not there.runs()


def test_the_connection_is_cut_while_it_runs(there: There) -> None:
    run = there.start("there", "run", there.profile.name)
    until(there.has_booted, "it does not start")
    there.server.cut()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "the connection was cut; the machine's power button is pressed" in errors
    until(lambda: not there.qemus(), "it goes on without anybody")


def test_the_connection_is_cut_before_it_starts(there: There) -> None:
    slow = there.home / "slow"
    slow.write_text("#!/bin/sh\nsleep 3\nexec qlaunch \"$@\"\n")
    slow.chmod(0o755)
    run = there.start("--remote-command", "~/slow", "there", "run", there.profile.name)
    until(there.server.servers, "nobody has connected")
    time.sleep(0.7)  # in the other machine's `slow --version`
    there.server.cut()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "ssh could not connect, or was cut off" in errors
    time.sleep(4)
    assert not there.qemus()


def test_the_connection_is_cut_while_a_detached_machine_starts(there: There) -> None:
    there.write(seconds=0, more="[hooks]\nbefore = [['sleep', '3']]\n")
    run = there.start("there", "run", there.profile.name, "--detach")
    until(lambda: any((there.home / "tmp").glob("*/pid")), "nothing was begun")
    time.sleep(1.5)
    there.server.cut()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "if the machine had started, it goes on" in errors
    until(there.has_booted, "its start was given up")
    assert there.q("stop", there.name, "--now").returncode == 0


def test_whoever_asked_is_killed(there: There) -> None:
    run = there.start("there", "run", there.profile.name)
    until(there.has_booted, "it does not start")
    children = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait(10)
    until(lambda: not there.qemus(), "it goes on without anybody")
    run.communicate(timeout=60)
    until(lambda: not any(p.is_running() for p in children), "ssh goes on")


def test_a_signal_is_the_verbs(there: There) -> None:
    """Its power button is pressed, and all that it says until it has ended is heard."""
    run = there.start("there", "run", there.profile.name)
    until(there.has_booted, "it does not start")
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    assert "all given back" in errors


def test_at_a_terminal(there: There) -> None:
    """Ctrl-C is the other machine's, which has a terminal for it."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(there.here)
        command = there.command("there", "run", there.profile.name)
        os.execve(command[0], command, there.environ)  # noqa: S606
    said = b""

    def read() -> bool:
        nonlocal said
        with contextlib.suppress(OSError):
            chunk = os.read(terminal, 65536)
            said += chunk
            return bool(chunk)
        return False

    while b"the guest runs" not in said:
        assert read(), said
    until(there.has_booted, "it does not start")
    os.write(terminal, b"\x03")
    while read():
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert b"all given back" in said
    assert b"Shared connection" not in said


@pytest.mark.parametrize("option", ["-T", "-tt"])
def test_a_plain_login(there: There, option: str) -> None:
    """ssh returns once the guest runs, and the guest outlives the login and its terminal."""
    path = there.home / "vm.toml"
    lines = PROFILE.format(name=there.name).splitlines(keepends=True)
    own = "".join(line for line in lines if not line.startswith("extends"))
    path.write_text(own + BASE.format(name=there.name, seconds=0))
    done = subprocess.run(
        ["ssh", "-F", there.server.config, option, "there",
         f"unset DISPLAY WAYLAND_DISPLAY; qlaunch run {path} --detach"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )
    assert done.returncode == 0, done
    assert "its picture is on a VNC socket" in done.stdout + done.stderr
    until(lambda: not there.server.servers(), "the login goes on")
    until(there.has_booted, "it has ended with the login")
    assert there.q("stop", there.name, "--now").returncode == 0


def test_the_connection_is_cut_under_a_terminal(there: There) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(there.here)
        command = there.command("there", "run", there.profile.name)
        os.execve(command[0], command, there.environ)  # noqa: S606
    until(there.has_booted, "it does not start")
    there.server.cut()
    said = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 65536):
            said += chunk
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, said
    assert b"the connection was cut" in said
    until(lambda: not there.qemus(), "it goes on without anybody")


def test_the_terminal_is_closed(there: There) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(there.here)
        command = there.command("there", "run", there.profile.name)
        os.execve(command[0], command, there.environ)  # noqa: S606
    until(there.has_booted, "it does not start")
    os.close(terminal)
    os.waitpid(pid, 0)
    until(lambda: not there.qemus(), "it goes on without anybody")


VIEWER = """\
#!{python}
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
print(s.recv(12).decode(), sys.argv[1], file=sys.stderr)
sys.exit(7)
"""


def test_view(there: There) -> None:
    """A window that became a VNC socket there is a VNC socket here."""
    viewer = there.here / "vncviewer"
    viewer.write_text(VIEWER.format(python=sys.executable))
    viewer.chmod(0o755)
    assert there.q("run", there.profile.name, "--detach").returncode == 0
    try:
        run = there.start("there", "view", there.name, "--viewer", str(viewer), DISPLAY=":9")
        _, errors = run.communicate(timeout=60)
        assert errors.startswith(f"RFB 003.008\n {there.runtime}/qlaunch-on-"), errors
        assert run.returncode == 7
        run = there.start("there", "view", there.name, "--json")
        assert run.stdout is not None
        said = "".join(iter(run.stdout.readline, "}\n")) + "}"
        with socket.socket(socket.AF_UNIX) as screen:
            screen.connect(json.loads(said)["vnc"])
            assert screen.recv(12) == b"RFB 003.008\n"
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
        assert there.q("view", "nobody-of-this-name").returncode == 1
    finally:
        assert there.q("stop", there.name, "--now").returncode == 0


@pytest.mark.parametrize("code", [0, 3])
def test_the_connection_is_cut_under_a_viewer(there: There, code: int) -> None:
    """Its exit code is no more than the viewer's own opinion: 3 would be "not given back"."""
    viewer = there.here / "vncviewer"
    viewer.write_text(VIEWER.format(python=sys.executable).replace(
        "sys.exit(7)", f"s.recv(1)\nsys.exit({code})"))
    viewer.chmod(0o755)
    assert there.q("run", there.profile.name, "--detach").returncode == 0
    try:
        run = there.start("there", "view", there.name, "--viewer", str(viewer), DISPLAY=":9")
        assert run.stderr is not None
        assert run.stderr.readline() == "RFB 003.008\n"
        there.server.cut()
        _, errors = run.communicate(timeout=60)
        assert "error: there: the connection was cut; the machine runs on there\n" in errors
        assert errors.endswith("hint: qlaunch on there ps\n"), errors
        assert run.returncode == 1
        run = there.start("there", "view", there.name, "--print")
        assert run.stdout is not None
        assert run.stdout.readline()
        there.server.cut()
        assert "the connection was cut" in run.communicate(timeout=60)[1]
        assert run.returncode == 1
    finally:
        assert there.q("stop", there.name, "--now").returncode == 0


def test_the_connection_is_cut_before_the_display_is_forwarded(there: There) -> None:
    """What is at fault is not the other machine's sshd_config."""
    ssh = there.here / "ssh"
    ssh.write_text(f"#!/bin/sh\ncase \"$*\" in *'-O forward'*) "
                   "touch forwarding; while [ -e forwarding ]; do sleep 0.1; done;; esac\n"
                   f'exec {shutil.which("ssh")} "$@"\n')
    ssh.chmod(0o755)
    assert there.q("run", there.profile.name, "--detach").returncode == 0
    try:
        run = there.start("there", "view", there.name, "--print",
                          PATH=f"{there.here}:{os.environ['PATH']}")
        until((there.here / "forwarding").exists, "nothing is forwarded")
        there.server.cut()
        until(lambda: not there.server.servers(), "it is not cut")
        (there.here / "forwarding").unlink()
        _, errors = run.communicate(timeout=60)
        assert "error: there: the connection was cut; the machine runs on there\n" in errors
        assert "AllowStreamLocalForwarding" not in errors
        assert run.returncode == 1
    finally:
        assert there.q("stop", there.name, "--now").returncode == 0


def test_forwarding_is_not_allowed_there(there: There) -> None:
    """A connection that stands is not called cut."""
    ssh = there.here / "ssh"
    ssh.write_text("#!/bin/sh\ncase \"$*\" in *'-O forward'*) echo refused >&2; exit 255;; esac\n"
                   f'exec {shutil.which("ssh")} "$@"\n')
    ssh.chmod(0o755)
    assert there.q("run", there.profile.name, "--detach").returncode == 0
    try:
        run = there.start("there", "view", there.name, "--print",
                          PATH=f"{there.here}:{os.environ['PATH']}")
        _, errors = run.communicate(timeout=60)
        assert "hint: AllowStreamLocalForwarding" in errors
        assert run.returncode == 1
    finally:
        assert there.q("stop", there.name, "--now").returncode == 0


def test_the_connection_is_cut_while_the_profile_is_sent(there: There) -> None:
    """A part of a profile is none: nothing starts, and it does not stay there."""
    there.write(seconds=0, more=f"# {'x' * 900_000}\n")  # more than pipes and sockets hold
    slow = there.home / "bin/head"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\ntouch ~/taking; while [ -e ~/taking ]; do sleep 0.1; done\n"
                    'exec /usr/bin/head "$@"\n')
    slow.chmod(0o755)
    run = there.start("there", "run", there.profile.name)
    until((there.home / "taking").exists, "nothing is sent")
    there.server.cut()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "error: there: ssh could not connect, or was cut off\n" in errors
    (there.home / "taking").unlink()
    until(lambda: not there.left(), "a part of the profile stays there")
    assert not there.qemus()


def test_what_is_told_there_is_for_here(there: There) -> None:
    """Hints are commands to type at this machine; a file that is written there is said to be."""
    assert there.q("run", there.profile.name, "--detach").returncode == 0
    try:
        on = f"qlaunch on -F '{there.server.config}' there"
        status = there.q("status", there.name)
        assert f"  profile   {there.profile.name}, sent by qlaunch on\n" in status.stdout
        shot = there.q("screenshot", there.name, "shot.png")
        assert (there.home / "shot.png").exists()
        assert f"that is on the other machine, in {there.home}; here: {on} scr" in shot.stderr
        here = subprocess.run(there.command("there", "screenshot", there.name, "-"),
                              cwd=there.here, env=there.environ, capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=60, check=True)
        assert here.stdout.startswith(b"\x89PNG")
        assert "other machine" not in here.stderr.decode()
        there.q("pause", there.name)
        assert f"hint: {on} resume '{there.name}'\n" in there.q("status", there.name).stdout
        unknown = there.q("stop", "nobody-of-this-name")
        assert f"hint: {on} ps" in unknown.stderr
    finally:
        assert there.q("stop", there.name, "--now").returncode == 0


def test_no_qlaunch_there(there: There) -> None:
    said = there.start("--remote-command", "~/no such", "there", "ps").communicate(timeout=60)[1]
    assert said == (
        f"error: there: qlaunch is not installed on the other machine\n"
        f"  found:   no {there.home}/no such\nhint: --remote-command names it\n"
    )
    broken = there.home / "broken"
    broken.write_text("#!/bin/sh\necho 'No module named msgspec' >&2\nexit 1\n")
    broken.chmod(0o755)
    run = there.start("--remote-command", "~/broken", "there", "ps")
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    assert "does not start\n  found:   No module named msgspec\n" in said
    run = there.start("--directory", "/no/where", "there", "ps")
    assert "no such directory" in run.communicate(timeout=60)[1]
    assert run.returncode == 1


def test_no_way_there(there: There) -> None:
    there.server.stop()
    done = there.q("ps")
    assert done.returncode == 1
    assert "error: there: ssh could not connect, or was cut off" in done.stderr


def test_mistakes_are_told_before_anybody_connects(there: There) -> None:
    there.server.stop()
    assert "did you mean status?" in there.q("statsu").stderr
    assert there.q("run").returncode == 2
    assert "no such file" in there.q("run", "./nothing.toml").stderr
    assert "you sit at" in there.q("on", "elsewhere", "ps").stderr
    assert "usage: qlaunch stop" in there.q("stop", "--help").stdout
    run = there.start("-oProxyCommand=false", "ps")
    assert run.communicate(timeout=60)
    assert run.returncode == 2
