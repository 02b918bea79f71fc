"""The machines under test in the lab, the profile of source 004 with this host's addresses and the
head of a small Linux guest's.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .state import RUN, cmdline

ROOT = Path(__file__).resolve().parents[3]
ROM = "/usr/share/seabios/vgabios-stdvga.bin"

PROFILE = """\
extends = "{root}/profiles/win7.toml"
name = "{name}"

[machine]
memory = "128M"
fw_cfg = {{ "opt/org.qlaunch/name" = "{name}", "opt/org.qlaunch/seconds" = "{seconds}" }}

[cpu]
pin = {{ vcpus = ["2"], emulator = "0-1" }}

[stop]
timeout = "3s"
"""

LINUX = """\
name = "{name}"
guest = "linux"

[machine]
memory = "192M"

[cpu]
model = "qemu64"

[kernel]
file = "{guest.kernel}"
initrd = "{guest.initrd}"
append = "{guest.append}"
"""


class Machine:
    """One profile in a directory of its own."""

    def __init__(self, directory: Path, disk: Path, name: str = "lab7", seconds: int = 600) -> None:
        self.name = name
        self.path = directory / f"{name}.toml"
        self.path.write_text(PROFILE.format(root=ROOT, name=name, seconds=seconds))
        iso = directory / "empty.iso"
        iso.write_bytes(bytes(1 << 16))
        # Arrays of tables append when a profile extends another; their elements are set by key.
        self.sets = {
            "disk[0].file": str(disk), "disk[0].boot": "0", "cdrom[0].file": str(iso),
            "cdrom[1].file": str(iso), "net[0].make_bridge": "true",
            "pci[0].device": "00:13.0", "pci[0].id": "1b36:000d",
            "pci[1].device": "02:00.0", "pci[1].id": "8086:10d3",
            "pci[2].device": "01:00.0", "pci[2].id": "1234:1111", "pci[2].rom": ROM,
            "pci[3].device": "01:00.1", "pci[3].id": "8086:2668",
        }

    def words(self, verb: str, *more: str) -> list[str]:
        """Arguments after `qlaunch`."""
        sets = [w for key, value in self.sets.items() for w in ("--set", f"{key}={value}")]
        return [verb, str(self.path), *sets, *more]

    def start(self, *more: str, program: Sequence[str] = ("-m", "qlaunch")) -> Run:
        """`qlaunch run` in the background."""
        return Run([sys.executable, *program, *self.words("run", *more)], self.name)


class Run:
    """A launcher that was started, with its stderr in a file."""

    def __init__(self, argv: Sequence[str], name: str) -> None:
        self.name = name
        self.errors = Path(os.environ["QLAUNCH_LAB_RESULTS"]) / "run-stderr.txt"
        with self.errors.open("wb") as sink:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd="/"
            )

    def wait_for(self, text: str, timeout: float = 120) -> None:
        """Until it has printed this; AssertionError if it ends or the time is over before."""
        deadline = time.monotonic() + timeout
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    def wait(self, timeout: float = 120) -> int:
        """Its exit code."""
        return self.process.wait(timeout)

    @property
    def said(self) -> str:
        """All it printed so far."""
        return self.errors.read_text(errors="replace")

    def end(self) -> None:
        """End it and its machine if a failed test left them."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if (RUN / self.name).exists():
            qlaunch("stop", self.name, "--force")


def qlaunch(
    *words: str, timeout: float = 120, program: Sequence[str] = ("-m", "qlaunch")
) -> subprocess.CompletedProcess[str]:
    """One verb, to its end."""
    return subprocess.run(
        [sys.executable, *program, *words], capture_output=True, text=True, check=False,
        timeout=timeout, stdin=subprocess.DEVNULL, cwd="/",
    )


def until(
    condition: Callable[[], object], what: str | Callable[[], str], timeout: float = 300
) -> None:
    """AssertionError telling `what` when the condition is not met in time, in seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.1)


def press_key(name: str) -> None:
    """A key for the guest: our boot sector powers off."""
    line = {"command-line": "sendkey ret"}
    ask(name, {"execute": "human-monitor-command", "arguments": line})


def ask(name: str, *commands: dict[str, object]) -> list[object]:
    """Through the monitor that is the user's: what each command returns."""
    path = f"/run/qlaunch/.by-uid/{uid_of(name)}/{name}/qmp.sock"
    answers = []
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as stream:
        sock.settimeout(30)
        sock.connect(path)
        stream.readline()
        for command in ({"execute": "qmp_capabilities"}, *commands):
            stream.write(json.dumps(command))
            stream.flush()
            answer = stream.readline()
            while '"event"' in answer:
                answer = stream.readline()
            assert "return" in answer, answer
            answers.append(json.loads(answer)["return"])
    return answers[1:]


def uid_of(name: str) -> int:
    """The uid that QEMU of a machine of root's runs as: one of the machine's own."""
    return int(Path("/var/lib/qlaunch", name, "uid").read_text())


def qemu_of(name: str) -> int:
    """Pid of the machine's QEMU."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            words = cmdline(entry)
            if words and words[0].endswith("qemu-system-x86_64") and f"guest={name}," in words[2]:
                return int(entry.name)
    raise ProcessLookupError(name)


def threads(pid: int) -> dict[str, set[int]]:
    """Thread names of a process and the CPUs each name's threads may run on."""
    found: dict[str, set[int]] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        found.setdefault(name, set()).update(os.sched_getaffinity(int(task.name)))
    return found
