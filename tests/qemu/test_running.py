"""Verbs for machines that run, against real QEMUs: console, monitor, keys, pictures, pauses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.terminal import Terminal
from tests.qemu.test_verbs import Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu
PROFILE = """\
name = "{name}"
[machine]
memory = "64M"
accel = "tcg"
[display]
type = "{display}"
vga = "{vga}"
[[disk]]
file = "disk.img"
boot = 0
[[serial]]
type = "socket"
[[serial]]
type = "pty"
[[serial]]
type = "file"
file = "{serial}"
[stop]
timeout = "1s"
{more}
"""
# What comes on COM1, and what is typed on the keyboard, goes out on COM1:
#      mov dx,3fd  in al,dx  test al,1  jz kbd  mov dx,3f8  in al,dx  out dx,al
# kbd: mov ah,1  int 16h  jz start  xor ah,ah  int 16h  mov dx,3f8  out dx,al  jmp start
ECHO = bytes.fromhex("bafd03 ec a801 7405 baf803 ec ee b401 cd16 74ed 30e4 cd16 baf803 ee ebe3")
CTRL_BRACKET = b"\x1d"


def echo(
    make: Make, qemu: str = "", *, display: str = "none", vga: str = "std", more: str = "",
    vm: Vm | None = None,
) -> Vm:
    """A running machine that says on serial0 what it is told there and on its keyboard."""
    vm = vm or make()
    vm.path.write_text(PROFILE.format(name=vm.name, display=display, vga=vga, more=more,
                                      serial=vm.serial))
    (vm.directory / "disk.img").write_bytes(ECHO.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    extra = ("--set", f'qemu.binary="{qemu}"') if qemu else ()
    started = qlaunch("run", str(vm.path), "--detach", *extra)
    assert started.returncode == 0, started.stderr
    return vm


def socket_dir(vm: Vm) -> Path:
    return Path(json.loads(Path(vm.runtime, "run.json").read_text())["socket_dir"])


def said(vm: Vm, *words: str) -> str:
    done = qlaunch(*words[:1], vm.name, *words[1:])
    assert done.returncode == 0, done.stderr
    return done.stdout


def booted(vm: Vm) -> None:
    """The boot sector runs: it answers on its serial port."""
    with socket.socket(socket.AF_UNIX) as port:
        port.connect(str(socket_dir(vm) / "serial0.sock"))
        port.settimeout(0.5)
        deadline = time.monotonic() + 60
        text = b""
        while b"!!" not in text:
            assert time.monotonic() < deadline, text
            port.send(b"!")
            try:
                text += port.recv(100)
            except TimeoutError:
                continue


def is_raw(terminal: Terminal) -> bool:
    return not termios.tcgetattr(terminal.theirs)[3] & (termios.ECHO | termios.ICANON)


def test_a_console_on_a_terminal(make: Make, both_qemus: str) -> None:
    vm = echo(make, both_qemus)
    booted(vm)
    terminal = Terminal("console", vm.name)
    terminal.until(b"serial0; ^] leaves")
    until(lambda: is_raw(terminal), "every key goes to the guest")
    terminal.type(b"hello\x03\x1a\x04")  # Ctrl-C, Ctrl-Z and Ctrl-D are the guest's
    terminal.until(b"hello\x03\x1a\x04")
    taken = qlaunch("console", vm.name, "serial0")
    assert (taken.returncode, "somebody is at this port" in taken.stderr) == (1, True)
    terminal.type(b"last" + CTRL_BRACKET)
    terminal.until(b": left")
    assert terminal.end() == 0
    again = Terminal("console", vm.name, "--escape", "^A")
    again.until(b"^A leaves")
    until(lambda: is_raw(again), "every key goes to the guest")
    again.type(b"x" + CTRL_BRACKET + b"y")
    assert b"x\x1dy" in again.until(b"\x1dy")
    again.type(b"\x01")
    assert again.end() == 0


def test_a_console_puts_the_terminal_back_whatever_ends_it(make: Make) -> None:
    vm = echo(make)
    for number in (signal.SIGTERM, signal.SIGHUP):
        terminal = Terminal("console", vm.name)
        until(lambda: is_raw(terminal), "raw")  # noqa: B023 - called in this turn
        terminal.child.send_signal(number)
        assert terminal.end() == 1
    stopped = Terminal("console", vm.name)
    until(lambda: is_raw(stopped), "raw")
    stopped.child.send_signal(signal.SIGSTOP)
    termios.tcsetattr(stopped.theirs, termios.TCSANOW, stopped.before)  # as a shell does
    stopped.child.send_signal(signal.SIGCONT)
    until(lambda: is_raw(stopped), "raw again")
    qlaunch("stop", vm.name, "--now")
    stopped.until(b"the port was closed")
    assert stopped.end() == 0


def test_consoles_of_other_kinds(make: Make) -> None:
    vm = echo(make)
    listed = json.loads(said(vm, "console", "--json"))
    assert [(p["id"], p["kind"]) for p in listed] == [
        ("serial0", "unix"), ("serial1", "pty"), ("serial2", "file")]
    # The pseudo-terminal's other end is QEMU: what comes out of it is what the guest would write.
    terminal = Terminal("console", vm.name, "serial1")
    terminal.until(b"serial1; ^] leaves")
    until(lambda: is_raw(terminal), "raw")
    terminal.type(CTRL_BRACKET)
    assert terminal.end() == 0
    file = qlaunch("console", vm.name, "serial2")
    assert (file.returncode, "nobody can connect to this port" in file.stderr) == (1, True)
    wrong = qlaunch("console", vm.name, "serail0")
    assert (wrong.returncode, "did you mean serial0?" in wrong.stderr) == (2, True)
    with socket.socket(socket.AF_UNIX) as other:  # somebody has the monitor, and the console works
        other.connect(str(socket_dir(vm) / "qmp.sock"))
        other.recv(100)
        piped = subprocess.run(
            [sys.executable, "-m", "qlaunch", "console", vm.name, "--list"], check=True,
            capture_output=True, text=True, timeout=60)
        assert piped.stdout.splitlines()[1].startswith("serial0  unix")


def test_a_console_in_a_pipe(make: Make) -> None:
    vm = echo(make)
    booted(vm)
    with subprocess.Popen(
        [sys.executable, "-m", "qlaunch", "console", vm.name], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        child.stdin.write(b"in and\x1dout\n")
        child.stdin.close()
        found = b""
        while not found.endswith(b"out\n"):
            found += child.stdout.read(1)
        assert found == b"in and\x1dout\n"  # the escape key is one of a terminal's
        qlaunch("stop", vm.name, "--now")
        assert child.wait(30) == 0
        assert child.stderr.read() == b""


def test_qmp_and_the_human_monitor(make: Make, both_qemus: str) -> None:
    vm = echo(make, both_qemus)
    assert json.loads(said(vm, "qmp", "query-name")) == {"name": vm.name}
    assert json.loads(said(vm, "qmp", "qom-get", json.dumps(
        {"path": "/machine/peripheral/disk0", "property": "type"}))).startswith("virtio-blk")
    near = qlaunch("qmp", vm.name, "query-statu")
    assert (near.returncode, "did you mean query-status?" in near.stderr) == (1, True)
    refused = qlaunch("qmp", vm.name, "device_del", '{"id": "nothing"}')
    assert (refused.returncode, "QEMU refused device_del" in refused.stderr) == (1, True)
    bad = qlaunch("qmp", vm.name, "stop", "[1]")
    assert (bad.returncode, "no JSON object" in bad.stderr) == (2, True)
    assert qlaunch("qmp", vm.name).returncode == 2
    assert said(vm, "monitor", "info", "name") == f"{vm.name}\n"
    wrong = qlaunch("monitor", vm.name, "nonsense")
    assert (wrong.returncode, wrong.stdout) == (1, "unknown command: 'nonsense'\n")
    script = subprocess.run(
        [sys.executable, "-m", "qlaunch", "monitor", vm.name], input="info name\n\ninfo status\n",
        capture_output=True, text=True, check=True, timeout=60)
    assert script.stdout == f"{vm.name}\nVM status: running\n"


def test_the_monitors_prompt(make: Make) -> None:
    vm = echo(make)
    terminal = Terminal("monitor", vm.name)
    prompt = f"({vm.name}) ".encode()
    terminal.until(prompt)
    terminal.type(b"info nam\t\n")
    named = f"\n{vm.name}\r\n".encode()
    assert named in terminal.until(prompt)
    terminal.type(b"\x1b[A\n")  # the arrow: the line before
    assert named in terminal.until(prompt)
    terminal.type(b"rubbish")
    terminal.until(b"rubbish")
    time.sleep(0.3)  # CPython sees a signal while it waits for a key, not while readline has one
    terminal.type(b"\x03")
    terminal.until(prompt)
    terminal.type(b"quit\n")
    terminal.until(b"[y/N] ")
    terminal.type(b"n\n")
    terminal.until(prompt)
    terminal.type(b"\x04")
    assert terminal.end() == 0
    assert said(vm, "monitor", "info status") == "VM status: running\n"
    ending = Terminal("monitor", vm.name)
    ending.until(prompt)
    ending.type(b"quit\n")
    ending.until(b"[y/N] ")
    ending.type(b"y\n")
    assert ending.end() == 0
    until(lambda: not Path(vm.runtime).exists(), "it has ended, and its launcher has tidied up")


def test_events_are_followed(make: Make) -> None:
    vm = echo(make)
    with subprocess.Popen(
        [sys.executable, "-m", "qlaunch", "qmp", vm.name, "--events", "shutdown", "STOP"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:
        assert child.stdout
        assert child.stderr
        assert child.stderr.readline() == f"{vm.name}: events until it ends or Ctrl-C\n"
        assert qlaunch("stop", vm.name, "--now").returncode == 0
        lines = [json.loads(line) for line in child.stdout]
        assert child.wait(30) == 0
    assert [line["event"] for line in lines] == ["SHUTDOWN"]
    assert lines[0]["data"]["reason"] == "host-qmp-quit"


def listed(vm: Vm) -> str:
    found = json.loads(qlaunch("ps", "--json").stdout)
    return str(next(m["state"] for m in found if m["name"] == vm.name))


def test_pause_resume_and_reset(make: Make) -> None:
    vm = echo(make)

    def status() -> str:
        return str(json.loads(said(vm, "qmp", "query-status"))["status"])

    assert qlaunch("resume", vm.name).stderr == f"{vm.name}: runs already\n"
    assert qlaunch("pause", vm.name).stderr == f"{vm.name}: paused\n"
    assert status() == "paused"
    until(lambda: listed(vm) == "paused", "ps to have QEMU's word")  # it waits for no busy one
    told = said(vm, "status")
    assert told.startswith(f"{vm.name}: paused\n")
    assert told.endswith(f"hint: qlaunch resume '{vm.name}'\n")
    ports = {port["id"]: port for port in json.loads(said(vm, "status", "--json"))["seen"]["ports"]}
    assert Path(ports["serial1"]["where"]).is_char_device()
    assert f"  serial1   pty {ports['serial1']['where']}\n" in told
    assert f"  serial0   unix {ports['serial0']['where']}\n" in told
    assert "is paused already" in qlaunch("pause", vm.name).stderr
    assert "still paused" in qlaunch("reset", vm.name).stderr
    assert status() in ("paused", "prelaunch")
    with socket.socket(socket.AF_UNIX) as other:  # who has the monitor is let alone
        other.connect(str(socket_dir(vm) / "qmp.sock"))
        assert other.recv(10) == b'{"QMP": {"'
        assert listed(vm) == "running"
    assert qlaunch("resume", vm.name).stderr == f"{vm.name}: runs\n"
    assert status() == "running"
    assert listed(vm) == "running"
    assert qlaunch("reset", vm.name).stderr == f"{vm.name}: reset\n"
    assert status() == "running"
    gone = qlaunch("pause", "no-such-machine")
    assert (gone.returncode, "no machine" in gone.stderr) == (1, True)


def test_keys_arrive(make: Make, both_qemus: str) -> None:
    vm = echo(make, both_qemus)
    booted(vm)
    with socket.socket(socket.AF_UNIX) as port:
        port.connect(str(socket_dir(vm) / "serial0.sock"))
        port.settimeout(30)
        said(vm, "sendkey", "a", "shift-b", "ctrl-c", "enter", "--text", 'Hi, "W0rld" <{|~!')
        wanted = b'aB\x03\rHi, "W0rld" <{|~!'
        found = b""
        while len(found) < len(wanted):
            found += port.recv(100)
    assert found == wanted
    wrong = qlaunch("sendkey", vm.name, "bakspace")
    assert (wrong.returncode, "did you mean backspace?" in wrong.stderr) == (2, True)
    for words in ((), ("a--b",), ("--text", "é"), ("a", "--hold", "0")):
        assert qlaunch("sendkey", vm.name, *words).returncode == 2


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height; the picture's data is whole."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    packed, offset = b"", 8
    while offset < len(data):
        (length,) = struct.unpack(">I", data[offset : offset + 4])
        if data[offset + 4 : offset + 8] == b"IDAT":
            packed += data[offset + 8 : offset + 8 + length]
        offset += length + 12
    assert len(zlib.decompress(packed)) == height * (1 + 3 * width)
    return width, height


def test_pictures(make: Make, both_qemus: str) -> None:
    vm = echo(make, both_qemus)
    booted(vm)
    target = vm.directory / "a picture.png"
    said(vm, "screenshot", str(target))
    assert png_size(target.read_bytes()) == (720, 400)
    piped = subprocess.run([sys.executable, "-m", "qlaunch", "screenshot", vm.name, "-"],
                           capture_output=True, check=True, timeout=60)
    assert png_size(piped.stdout) == (720, 400)
    ppm = vm.directory / "picture.ppm"
    said(vm, "screenshot", str(ppm), "--head", "0")
    assert ppm.read_bytes().startswith(b"P6\n720 400\n255\n")
    assert len(ppm.read_bytes()) == 15 + 720 * 400 * 3
    cases = (
        (("x.jpg",), 2, "which format?"), (("x.png", "--head", "-1"), 2, "counted from 0"),
        (("x.png", "--head", "7"), 1, "no such screen"),
        (("/nonexistent/x.png",), 1, "cannot be written: No such file"),
    )
    for words, code, text in cases:
        done = qlaunch("screenshot", vm.name, *words)
        assert (done.returncode, text in done.stderr) == (code, True), done
    assert {p.name for p in vm.directory.iterdir()} >= {"a picture.png", "picture.ppm"}
    assert not list(vm.directory.glob(".screenshot-*"))
    assert all("screen" not in str(one) for one in json.loads(said(vm, "qmp", "query-fdsets")))


def test_no_picture_of_a_machine_without_a_card(make: Make) -> None:
    vm = echo(make, vga="none")
    done = qlaunch("screenshot", vm.name, str(vm.directory / "x.png"))
    assert (done.returncode, "no screen that QEMU draws" in done.stderr) == (1, True), done
    assert not (vm.directory / "x.png").exists()


PINNED = """\
[cpu]
cores = 2
[cpu.pin]
vcpus = ["{0}", "{1}"]
emulator = "{1}"
"""


def test_pins(make: Make, both_qemus: str, two_cpus: tuple[int, int]) -> None:
    one, two = two_cpus
    vm = echo(make, both_qemus, more=PINNED.format(one, two))
    told = json.loads(said(vm, "pins", "--json"))
    assert (told["pinned"], told["in_place"]) == (True, True)
    vcpus = [t for t in told["threads"] if t["kind"] == "vcpu"]
    assert [(t["name"], t["wanted"], t["allowed"]) for t in vcpus] == [
        ("vcpu 0", str(one), str(one)), ("vcpu 1", str(two), str(two))]
    assert {t["last"] for t in vcpus} <= {one, two}
    others = [t for t in told["threads"] if t["kind"] == "emulator"]
    assert others and {t["allowed"] for t in others} == {str(two)}
    assert said(vm, "pins").endswith("every thread is where the profile wants it\n")
    os.sched_setaffinity(vcpus[0]["tid"], {one, two})
    wide = qlaunch("pins", vm.name)
    assert (wide.returncode, f"vcpu 0 may also run on CPU {two}" in wide.stdout) == (1, True)
    os.sched_setaffinity(vcpus[0]["tid"], {two})
    os.setpriority(os.PRIO_PROCESS, vcpus[1]["tid"], 5)  # not in the plan: nobody minds
    moved = qlaunch("pins", vm.name)
    assert (moved.returncode, f"vcpu 0 may not run on CPU {one}" in moved.stdout) == (1, True)
    assert f"hint: taskset -cp {one} {vcpus[0]['tid']}" in moved.stdout
    assert "other nice 5" in moved.stdout
    faults = json.loads(qlaunch("pins", vm.name, "--json").stdout)
    assert [t["name"] for t in faults["threads"] if t["fault"]] == ["vcpu 0"]


def test_an_iothreads_workers_are_where_it_is(make: Make, two_cpus: tuple[int, int]) -> None:
    one, two = two_cpus
    more = PINNED.format(one, two) + f'iothreads = "{one}"\n[[disk]]\nfile = "disk2.img"\n'
    vm = make()
    (vm.directory / "disk2.img").write_bytes(bytes(1 << 20))
    vm = echo(make, more=more + "iothread = true\n", vm=vm)
    booted(vm)
    threads = json.loads(said(vm, "pins", "--json"))["threads"]  # exit code 0: all in place
    assert [t["allowed"] for t in threads if t["kind"] == "iothread"] == [str(one)]
    assert {t["allowed"] for t in threads if t["kind"] == "emulator"} <= {str(one), str(two)}
    os.sched_setaffinity(vm.qemu(), {one, two})  # the main thread
    wide = qlaunch("pins", vm.name)
    assert (wide.returncode, f"may also run on CPU {one}" in wide.stdout) == (1, True)


def test_pins_of_an_unpinned_machine(make: Make) -> None:
    vm = echo(make)
    assert "nothing is pinned" in said(vm, "pins")
    assert json.loads(said(vm, "pins", "--json"))["pinned"] is False


@pytest.fixture
def screen() -> Iterator[str]:
    """A DISPLAY."""
    if not shutil.which("Xvfb"):
        pytest.skip("needs Xvfb")
    reader, writer = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=(writer,), stderr=subprocess.DEVNULL,
    ) as server:
        os.close(writer)
        try:
            with os.fdopen(reader) as file:
                yield f":{file.readline().strip()}"
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("display", "program", "asks", "holds"),
    [("spice", "remote-viewer", "query-spice", "channels"),
     ("vnc", "xtigervncviewer", "query-vnc", "clients")],
)
def test_a_viewer_shows_it(
    make: Make, both_qemus: str, screen: str, display: str, program: str, asks: str, holds: str
) -> None:
    if not shutil.which(program):
        pytest.skip(f"needs {program}")
    vm = echo(make, both_qemus, display=display)
    shown = json.loads(said(vm, "view", "--json"))
    assert (shown["installed"], shown[display]) == (True, f"{socket_dir(vm)}/{display}.sock")
    assert said(vm, "view", "--print").startswith(program)
    with subprocess.Popen(
        [sys.executable, "-m", "qlaunch", "view", vm.name], stderr=subprocess.DEVNULL,
        env={**os.environ, "DISPLAY": screen, "NO_AT_BRIDGE": "1"},
    ) as child:
        try:
            until(lambda: json.loads(said(vm, "qmp", asks))[holds], "it is looked at")
            tree = ["xwininfo", "-root", "-tree", "-display", screen]
            until(lambda: vm.name in subprocess.run(
                tree, capture_output=True, text=True, check=True).stdout, "its window is there")
        finally:
            child.terminate()
    assert said(vm, "monitor", "info status") == "VM status: running\n"


def test_what_cannot_be_viewed(make: Make) -> None:
    vm = echo(make)
    nothing = qlaunch("view", vm.name)
    assert (nothing.returncode, "nothing to look at" in nothing.stderr) == (1, True)
    qlaunch("stop", vm.name, "--now")
    spice = echo(make, display="spice")
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    blind = subprocess.run(
        [sys.executable, "-m", "qlaunch", "view", spice.name], env={**env, "PATH": "/nonexistent"},
        capture_output=True, text=True, timeout=60, check=False)
    assert (blind.returncode, "virt-viewer (Debian, Fedora, Arch)" in blind.stderr) == (1, True)
    wrong = qlaunch("view", spice.name, "--viewer", "vncviewer")
    assert (wrong.returncode, "remote-viewer, spicy" in wrong.stderr) == (2, True)
