"""Devices that leave a running Linux guest, are used by the host, and go to the guest again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.guest import Guest, make_guest

from .host import NETWORK, NVME
from .machine import LINUX, Run, qemu_of, qlaunch, until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("nothing_left")]

PROFILE = LINUX + """
[[serial]]
type = "file"
file = "{serial}"

[[pci]]
device = "{network}"

[[pci]]
device = "{nvme}"
port = "none"

[stop]
timeout = "3s"
"""

SCRIPT = """
last=
while true; do
  now=
  for device in /sys/bus/pci/devices/*; do
    vendor= number=
    read -r vendor < $device/vendor && read -r number < $device/device
    [ "$vendor:$number" = 0x8086:0x10d3 ] && now=here
  done
  [ "$now" = "$last" ] || echo "guest: network: ${now:-gone}"
  last=$now
  sleep 1
done
"""


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    return make_guest(tmp_path, SCRIPT)


def plug(verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    """detach or attach; the guest is emulated twice over, and takes its time."""
    more = ("--timeout", "120s") if verb == "detach" else ()
    return qlaunch(verb, *words, *more, timeout=300)


class Started:
    """A running machine, and what its guest said."""

    def __init__(self, directory: Path, guest: Guest) -> None:
        self.name = "plug7"
        self.serial = directory / "serial.log"
        profile = directory / f"{self.name}.toml"
        profile.write_text(PROFILE.format(
            name=self.name, guest=guest, serial=self.serial, network=NETWORK.address,
            nvme=NVME.address,
        ))
        self.run = Run([sys.executable, "-m", "qlaunch", "run", str(profile)], self.name)

    def wait_for(self, text: str, count: int = 1) -> None:
        until(lambda: self.said.count(text) >= count or self.run.process.poll() is not None,
              lambda: f"{text} x{count}: {self.said[-2000:]}\n{self.run.said}")
        assert self.said.count(text) >= count, self.run.said

    @property
    def said(self) -> str:
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""


@pytest.fixture
def machine(tmp_path: Path, guest: Guest) -> Iterator[Started]:
    started = Started(tmp_path, guest)
    yield started
    started.run.end()


def test_a_network_card_leaves_is_used_comes_back_and_leaves_for_good(machine: Started) -> None:
    machine.wait_for("guest: network: here")
    refused = plug("detach", machine.name, NVME.address)
    assert refused.returncode == 1
    assert "nothing is hot-pluggable" in refused.stderr

    out = plug("detach", machine.name, "02:00.0")
    assert out.returncode == 0, out.stderr
    assert "0000:02:00.0 is back on e1000e" in out.stderr
    assert (NETWORK.driver, NVME.driver) == ("e1000e", "vfio-pci")
    assert list((NETWORK.path / "net").iterdir())
    machine.wait_for("guest: network: gone")
    listed = qlaunch("status", machine.name)
    assert "take 0000:02:00.0" not in listed.stdout
    assert "take 0000:03:00.0" in listed.stdout

    again = plug("attach", machine.name, "02:00.0")
    assert again.returncode == 0, again.stderr
    assert NETWORK.driver == "vfio-pci"
    machine.wait_for("guest: network: here", 2)

    out = plug("detach", machine.name, "pci[0]")
    assert out.returncode == 0, out.stderr
    assert NETWORK.driver == "e1000e"
    stopped = qlaunch("stop", machine.name, "--now")
    assert stopped.returncode == 0, stopped.stderr
    assert machine.run.wait() == 0, machine.run.said
    assert "is back on nvme" in machine.run.said
    assert "is back on e1000e" not in machine.run.said


@pytest.mark.nightly
def test_attached_again_then_launcher_and_qemu_are_killed(machine: Started) -> None:
    machine.wait_for("guest: network: here")
    assert plug("detach", machine.name, "02:00.0").returncode == 0
    assert plug("attach", machine.name, "02:00.0").returncode == 0
    machine.run.process.kill()
    machine.run.process.wait()
    out = plug("detach", machine.name, "02:00.0")  # also when nobody watches the machine
    assert out.returncode == 0, out.stderr
    assert NETWORK.driver == "e1000e"
    assert plug("attach", machine.name, "02:00.0").returncode == 0
    os.kill(qemu_of(machine.name), signal.SIGKILL)
    until(lambda: "left over" in qlaunch("ps").stdout, lambda: "both are gone")
    done = qlaunch("recover", machine.name)
    assert done.returncode == 0, done.stderr
    assert "0000:02:00.0 is back on e1000e" in done.stderr
    assert "0000:03:00.0 is back on nvme" in done.stderr
