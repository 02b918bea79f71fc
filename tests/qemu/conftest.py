"""Real QEMUs for tests: started by our own code, and ended with the test that started them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from qlaunch.facts.files import can_access
from qlaunch.plan.model import Account
from qlaunch.values import CpuSet
from qlaunch.vm.process import QemuProcess, last_words
from qlaunch.vm.sockets import listen_unix
from qlaunch.vm.spawn import start_qemu

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
BOOTSECTOR = Path(__file__).parents[2] / "qlaunch/data/bootsector.bin"
CONTROL, QMP, SERIAL, DISK = 100, 101, 102, 103


class Machine(NamedTuple):
    """A started QEMU: its process, its two QMP paths, its log, our end of its serial port."""

    process: QemuProcess
    control: str
    qmp: str
    log: Path
    serial: socket.socket

    def words(self) -> str:
        """What `last_words` finds in its log."""
        return last_words(str(self.log))

    def read_serial(self, until: str) -> str:
        """The serial output up to and with a text. Fails when QEMU ends or is silent before."""
        text = b""
        while until.encode() not in text:
            chunk = self.serial.recv(4096)
            assert chunk, f"the serial port was closed after {text!r}: {self.words()}"
            text += chunk
        return text.decode()


Start = Callable[..., Machine]
INSTALLED = "qemu-system-x86_64"
NEW = Path(__file__).parents[2] / "build/qemu10" / INSTALLED


@pytest.fixture(scope="session")
def new_qemu() -> Iterator[Path]:
    """That of contrib/qemu10, where nobody can start it: copied when this checkout is private."""
    nobody = (65534, 65534, (), "rx")
    if os.geteuid() != 0 or not NEW.exists() or can_access(str(NEW), *nobody):
        yield NEW
        return
    with tempfile.TemporaryDirectory(prefix="qlaunch-qemu10-") as name:
        Path(name).chmod(0o755)
        shutil.copytree(NEW.parent, f"{name}/qemu10", symlinks=True)
        yield Path(name) / "qemu10" / INSTALLED


@pytest.fixture(params=["installed", "new"])
def both_qemus(request: pytest.FixtureRequest, new_qemu: Path) -> str:
    """The installed QEMU, and one of today: a value for [qemu] binary."""
    if request.param == "installed":
        return INSTALLED
    if new_qemu.exists():
        return str(new_qemu)
    installed = shutil.which(INSTALLED) or pytest.skip("no QEMU is installed")
    said = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"version (\d+)\.", said.stdout)
    assert version is not None, said
    if int(version[1]) >= 9:
        pytest.skip("the installed QEMU is one of today")
    pytest.skip("contrib/qemu10 fetches a QEMU of today")  # contrib/check fails without


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts QEMU, paused, with the full sandbox, two QMP sockets and a disk."""
    machines: list[Machine] = []

    def start(
        *extra: str,
        account: Account | None = None,
        memlock: int | None = None,
        cpus: CpuSet | None = None,
        paused: bool = True,
        seconds: int = 0,
    ) -> Machine:
        place = tmp_path / str(len(machines))
        place.mkdir()
        image = place / "disk.img"
        image.write_bytes(BOOTSECTOR.read_bytes().ljust(1 << 20, b"\0"))
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        control, qmp = str(place / "control"), str(place / "qmp")
        log = place / "log"
        with (
            theirs,
            listen_unix(control, account=account) as one,
            listen_unix(qmp, account=account) as two,
            log.open("ab") as stderr,
            image.open("rb") as disk,
        ):
            argv = [
                "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
                "-machine", "q35,accel=tcg", "-m", "64", "-sandbox", SANDBOX,
                "-chardev", f"socket,id=control,fd={CONTROL},server=on,wait=off",
                "-mon", "chardev=control,mode=control",
                "-chardev", f"socket,id=qmp,fd={QMP},server=on,wait=off",
                "-mon", "chardev=qmp,mode=control",
                "-chardev", f"socket,id=serial,fd={SERIAL}", "-serial", "chardev:serial",
                "-add-fd", f"fd={DISK},set=1",
                "-blockdev", "driver=raw,node-name=d,read-only=on,"
                "file.driver=file,file.filename=/dev/fdset/1",
                "-device", "virtio-blk-pci,drive=d",
                "-fw_cfg", "name=opt/org.qlaunch/name,string=test",
                "-fw_cfg", f"name=opt/org.qlaunch/seconds,string={seconds}",
                *(["-S"] if paused else []), *extra,
            ]  # fmt: skip
            process = start_qemu(
                argv,
                fds={
                    CONTROL: one.fileno(), QMP: two.fileno(), SERIAL: theirs.fileno(),
                    DISK: disk.fileno(),
                },
                stderr_fd=stderr.fileno(), account=account, memlock=memlock, cpus=cpus,
            )  # fmt: skip
        machines.append(Machine(process, control, qmp, log, ours))
        return machines[-1]

    yield start
    for machine in machines:
        machine.process.send(signal.SIGKILL)
        machine.process.wait(30)
        machine.process.close()
        machine.serial.close()


@pytest.fixture
def two_cpus() -> tuple[int, int]:
    """Two CPUs of this host that this session may use."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    return cpus[0], cpus[-1]
