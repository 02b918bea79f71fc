"""Machines with slices, for the tests of the topology that has some.

The slices are of the kernel's sample mediated devices and of an NVMe's virtual functions. A
mediated device of somebody else's is there all the time (conftest's `samples`), and has to stay.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .host import PCI, Device
from .machine import ROOT, Run, qemu_of, qlaunch, uid_of, until
from .state import MDEV_PARENTS, cmdline

SAMPLES = ROOT / "build/samples"
FOREIGN = "11111111-2222-3333-4444-555555555555"
AT_STAGE = str(ROOT / "tests/fake/at_stage.py")
AT_CALL = str(ROOT / "tests/fake/at_call.py")

PROFILE = """\
name = "{name}"

[machine]
memory = "64M"
fw_cfg = {{ "opt/org.qlaunch/name" = "{name}", "opt/org.qlaunch/seconds" = "{seconds}" }}

[cpu]
model = "qemu64"

[[disk]]
file = "{disk}"
read_only = true
boot = 0

[[serial]]
type = "stdio"

[stop]
timeout = "3s"
"""
MDPY = '[[vgpu]]\ntype = "mdpy-vga"\n'
FUNCTION = '[[vgpu]]\nkind = "vf"\nparent = "1b36:0010"\n'


def nvme() -> Device:
    """The physical function."""
    path = next(
        p for p in sorted((PCI / "devices").iterdir())
        if (p / "class").read_text().strip() == "0x010802" and (p / "sriov_totalvfs").exists()
    )
    return Device(path.name)


def load_samples() -> None:
    """The modules, as one who has built them loads them; and what is somebody else's."""
    for module in ("vfio", "vfio_iommu_type1", "mdev"):
        subprocess.run(["modprobe", module], check=True)
    for name in ("mdpy", "mbochs", "mtty"):
        subprocess.run(["insmod", str(SAMPLES / f"{name}.ko")], check=True)
    create("mdpy", "mdpy-hd", FOREIGN)


def create(parent: str, kind: str, uuid: str) -> None:
    (MDEV_PARENTS / parent / "mdev_supported_types" / kind / "create").write_text(uuid)


def left(parent: str, kind: str) -> int:
    path = MDEV_PARENTS / parent / "mdev_supported_types" / kind / "available_instances"
    return int(path.read_text())


class Machine:
    """One profile with the boot sector's guest."""

    def __init__(
        self, directory: Path, disk: Path, name: str, more: str, seconds: int = 600
    ) -> None:
        self.name = name
        self.path = directory / f"{name}.toml"
        self.path.write_text(PROFILE.format(name=name, disk=disk, seconds=seconds) + more)

    def start(self, program: Sequence[str] = ("-m", "qlaunch"), verb: str = "run",
              more: Sequence[str] = ()) -> Run:
        """In the background."""
        run = Run([sys.executable, *program, verb, str(self.path), *more], self.name)
        run.errors = run.errors.rename(run.errors.with_name(f"{self.name}-stderr.txt"))
        return run


def wait_for(run: Run, text: str) -> None:
    until(lambda: text in run.said or run.process.poll() is not None, lambda: run.said)
    assert text in run.said, run.said


def at_stage(stage: int, number: signal.Signals = signal.SIGSTOP) -> tuple[str, ...]:
    """The program for a launcher that stops, or is killed, as it enters a stage."""
    return AT_STAGE, str(int(number)), str(stage)


def at_call(function: str, number: signal.Signals = signal.SIGSTOP) -> tuple[str, ...]:
    """The same as it calls a function."""
    return AT_CALL, str(int(number)), function


def wait_still(run: Run) -> None:
    """Until it has stopped itself."""
    def is_still() -> bool:
        assert run.process.poll() is None, run.said
        stat = Path(f"/proc/{run.process.pid}/stat").read_text()
        return stat.rpartition(") ")[2][0] == "T"

    until(is_still, lambda: run.said)


def kill_qemu(name: str) -> None:
    """And wait until it is gone."""
    pid = qemu_of(name)
    os.kill(pid, signal.SIGKILL)
    # Of a launcher that holds still it stays, as what nobody has waited for.
    until(lambda: cmdline(Path(f"/proc/{pid}")) in ([], [""]), lambda: f"{pid} stays")


def recovered() -> str:
    """What `recover --all` says; it has to succeed."""
    done = qlaunch("recover", "--all", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def end(run: Run) -> str:
    """Power it off; all it said."""
    stopped = qlaunch("stop", run.name)
    assert stopped.returncode == 0, stopped.stderr
    run.wait()
    return run.said


def ask(name: str, command: str, **arguments: Any) -> Any:
    """One command of the machine's own monitor."""
    path = f"/run/qlaunch/.by-uid/{uid_of(name)}/{name}/qmp.sock"
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as stream:
        sock.settimeout(60)
        sock.connect(path)
        stream.readline()
        for execute, more in (("qmp_capabilities", {}), (command, arguments)):
            stream.write(json.dumps({"execute": execute, "arguments": more}))
            stream.flush()
            answer = json.loads(stream.readline())
            while "event" in answer:
                answer = json.loads(stream.readline())
            assert "return" in answer, answer
    return answer["return"]
