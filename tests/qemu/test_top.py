"""top against real QEMUs: its figures as JSON, and its picture in real terminals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fake.terminal import Terminal
from tests.qemu.test_running import PINNED, echo, socket_dir
from tests.qemu.test_verbs import Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu
# Sector 2 again and again: mov ax,201  mov cx,2  mov dx,80  mov bx,8000  int 13h  jmp start
READER = bytes.fromhex("b80102 b90200 ba8000 bb0080 cd13 ebf0")


def top(vm: Vm, *words: str) -> dict[str, Any]:
    done = qlaunch("top", vm.name, "--json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert [one["name"] for one in found["machines"]] == [vm.name]
    return found


def percent(machine: dict[str, Any], kind: str) -> float:
    return float(sum(t["percent"] for t in machine["threads"] if t["kind"] == kind))


def test_figures_are_true(make: Make, both_qemus: str, two_cpus: tuple[int, int]) -> None:
    one, two = two_cpus
    vm = echo(make, both_qemus, more=PINNED.format(one, two))
    (vm.directory / "disk.img").write_bytes(
        READER.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    assert qlaunch("reset", vm.name).returncode == 0  # it boots what is there now

    def reading() -> bool:
        return bool(top(vm, "--interval", "0.3")["machines"][0]["disks"][0]["reads"])

    until(reading, "the guest reads")
    found = top(vm)
    machine = found["machines"][0]
    assert machine["state"] == "running"
    assert (disk := machine["disks"][0])["name"] == "disk0"
    assert disk["read"] == pytest.approx(disk["reads"] * 512)
    assert disk["written"] == 0
    vcpu = [t for t in machine["threads"] if t["name"] == "vcpu 0" and t["percent"] > 0.5]
    assert [t["cpu"] for t in vcpu] == [one]
    assert 3 < vcpu[0]["percent"] < 110  # others may want the same CPU
    assert {t["cpu"] for t in machine["threads"] if t["kind"] == "emulator"} <= {two}
    assert 16 << 20 < machine["resident"] < 2 << 30
    assert machine["memory"] == 64 << 20
    assert set(found["cpus"]) == {str(n) for n in range(os.cpu_count() or 1)} or len(
        found["cpus"]) == len(os.sched_getaffinity(0))
    assert qlaunch("pause", vm.name).returncode == 0
    paused = top(vm)["machines"][0]
    assert paused["state"] == "paused"
    assert percent(paused, "vcpu") < 1
    assert paused["disks"][0]["reads"] == 0


def test_once_as_text_and_without_the_monitor(make: Make) -> None:
    vm = echo(make)
    done = qlaunch("top", "--once", "--interval", "0.2")  # all machines that run here
    assert done.returncode == 0, done.stderr
    assert any(line.startswith(vm.name) and " running " in line
               for line in done.stdout.splitlines()), done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert qlaunch("top", vm.name, "--interval", "0.2").stdout.count(vm.name) == 1  # no terminal
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(socket_dir(vm) / "qmp.sock"))
        other.recv(100)
        held = top(vm, "--interval", "0.2")["machines"][0]
    assert (held["disks"], held["state"]) == (None, "?")
    assert percent(held, "vcpu") > 0
    for words, code in ((("nobody",), 1), (("--interval", "0"), 2), (("--sort", "size"), 2)):
        assert qlaunch("top", *words).returncode == code


def test_a_terminal_is_put_back(make: Make) -> None:
    vm = echo(make)
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 0)):
        terminal = Terminal("top", vm.name)
        terminal.until(b"WHO RUNS THERE")
        terminal.child.send_signal(number)
        assert terminal.end() == code
        assert b"\x1b[?1049l" in terminal.text  # the screen from before is back
    asked = Terminal("top")
    asked.until(b"WHO RUNS THERE")
    asked.type(b"s")
    asked.until(b"cpu)")
    asked.type(b"q")
    assert asked.end() == 0
    for term in ("nonsense", "dumb"):
        dumb = Terminal("top", term=term)
        dumb.until(b"this terminal cannot show it")
        dumb.until(b"qlaunch top --once")
        assert dumb.end() == 1


class Tmux:
    """A real terminal of 80x24, whose screen can be read."""

    def __init__(self, directory: Path, command: list[str]) -> None:
        self.socket = str(directory / "tmux.sock")
        subprocess.run(
            ["tmux", "-S", self.socket, "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y",
             "24", *command], check=True)

    def __call__(self, *words: str) -> str:
        return subprocess.run(["tmux", "-S", self.socket, *words], check=True, text=True,
                              capture_output=True).stdout

    def lines(self) -> list[str]:
        return self("capture-pane", "-p").splitlines()

    def lives(self) -> bool:
        """Whether the command runs."""
        return subprocess.run(["tmux", "-S", self.socket, "has-session"], check=False,
                              capture_output=True).returncode == 0

    def close(self) -> None:
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], check=False,
                       capture_output=True)


def test_the_picture_in_a_terminal(make: Make, tmp_path: Path) -> None:
    if not shutil.which("tmux"):
        pytest.skip("needs tmux")
    vm = echo(make)
    screen = Tmux(tmp_path, [sys.executable, "-m", "qlaunch", "top", vm.name, "--interval", "0.5"])
    try:
        def machine() -> list[str]:
            return next((line.split() for line in screen.lines() if line.startswith(vm.name)), [])

        until(lambda: len(machine()) > 3 and int(machine()[3]) > 2, "a vCPU that is busy")
        lines = screen.lines()
        assert len(lines) == 24
        assert lines[0].startswith("qlaunch top  ")
        assert lines[2].split()[:4] == ["MACHINE", "STATE", "CPU%", "VCPU%"]
        assert any("vcpu 0" in line and "#" in line for line in lines)
        assert any(line.startswith("disk0") for line in lines)
        assert lines[-1] == "q quits, arrows scroll, s sorts (by name)"
        screen("resize-window", "-x", "50", "-y", "9")
        until(lambda: " more lines" in screen.lines()[-1], "a small one shows what fits")
        assert len(screen.lines()) == 9
        screen("send-keys", "NPage")
        until(lambda: any(line.startswith("disk0") for line in screen.lines()), "scrolled")
        assert screen.lines()[2].startswith("MACHINE")
        qlaunch("stop", vm.name, "--now")
        until(lambda: "no machine runs" in "\n".join(screen.lines()), "it has ended")
        screen("send-keys", "q")
        until(lambda: not screen.lives(), "q ends it")
    finally:
        screen.close()
