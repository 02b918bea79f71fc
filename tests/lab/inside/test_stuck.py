"""A driver that cannot be taken off its device: somebody has it open, and the kernel waits for
them without an end and cannot be interrupted.

The holder is this test: it takes QEMU's own open vfio device over, as an inherited or passed file
would be held, and keeps it beyond QEMU's end.
"""

from __future__ import annotations

import ctypes
import os
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from qlaunch.errors import StuckError
from qlaunch.host import sysfs
from qlaunch.host.handler import Host

from .host import NETWORK, NVME
from .machine import ROOT, Run, qemu_of, qlaunch

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("nothing_left")]

IMPATIENT = (str(ROOT / "tests/fake/impatient.py"), "5")
PIDFD_GETFD = 438  # asm-generic/unistd.h
PROFILE = """\
name = "{name}"

[machine]
memory = "128M"
fw_cfg = {{ "opt/org.qlaunch/name" = "{name}", "opt/org.qlaunch/seconds" = "600" }}

[[disk]]
file = "{disk}"
read_only = true
boot = 0

[[pci]]
device = "{network}"

[[pci]]
device = "{nvme}"

[stop]
timeout = "3s"
"""


def also_opened(pid: int, address: str) -> int:
    """A second fd for the vfio device that a process has open.

    The group and the device look alike from outside, so all that are called after vfio are taken
    for it: the device's is anonymous (drivers/vfio/group.c: anon_inode "[vfio-device]").
    """
    target = os.pidfd_open(pid)
    libc = ctypes.CDLL(None, use_errno=True)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "[vfio-device]" not in os.readlink(entry):  # noqa: PTH115 - a link to no path
            continue
        fd = int(libc.syscall(PIDFD_GETFD, target, int(entry.name), 0))
        if fd < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        identity = os.pread(fd, 4, 7 << 40)  # VFIO_PCI_CONFIG_REGION_INDEX << VFIO_PCI_OFFSET_SHIFT
        if identity == (Path("/sys/bus/pci/devices") / address / "config").read_bytes()[:4]:
            os.close(target)
            return fd
        os.close(fd)
    raise LookupError(address)


def others_answer(profile: Path) -> None:
    """The device's lock is held for ever: no verb waits for it."""
    found = qlaunch("devices", NETWORK.address, NVME.address, timeout=100)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    stuck = [before for before, line in pairwise(lines) if "does not answer" in line]
    assert [line.split()[0] for line in stuck] == [NETWORK.address], found.stdout
    for words in (["ps"], ["plan", str(profile)], ["check", str(profile)], ["doctor"]):
        done = qlaunch(*words, timeout=100)
        assert done.returncode in (0, 1), (words, done.stderr)
        assert done.stdout, (words, done.stderr)


def write_that_hangs(profile: Path) -> None:
    """The same unbind without the look beforehand: a child waits, and we do not."""
    path = NETWORK.path / "driver/unbind"
    with pytest.raises(StuckError, match="did not return within 5 s"):
        sysfs.guarded_write(Host(deadline=5.0), path, NETWORK.address, "unbinding")
    others_answer(profile)
    again = qlaunch("recover", "stuck7", timeout=300, program=IMPATIENT)
    assert again.returncode == 3, again.stderr
    assert NETWORK.driver is None  # the link goes before the driver does (drivers/base/dd.c)


def test_a_device_that_somebody_has_open_does_not_hang_the_launcher(
    tmp_path: Path, boot_disk: Path
) -> None:
    profile = tmp_path / "stuck7.toml"
    profile.write_text(PROFILE.format(
        name="stuck7", disk=boot_disk, network=NETWORK.address, nvme=NVME.address
    ))
    run = Run([sys.executable, "-m", "qlaunch", "run", str(profile)], "stuck7")
    held = -1
    try:
        run.wait_for("the guest runs")
        held = also_opened(qemu_of("stuck7"), NETWORK.address)
        stopped = qlaunch("stop", "stuck7", "--now", timeout=300)
        code = run.wait(300)
        assert code == 3, f"{run.said}\n{stopped.stderr}"
        assert NVME.driver == "nvme"
        assert "0000:03:00.0 is back on nvme" in run.said
        assert NETWORK.driver == "vfio-pci"
        assert f"pid {os.getpid()}" in run.said
        assert "qlaunch recover 'stuck7'" in run.said
        assert "left over" in qlaunch("ps").stdout
        write_that_hangs(profile)
        os.close(held)
        held = -1
        done = qlaunch("recover", "stuck7", timeout=300)
        assert done.returncode == 0, done.stderr
        assert NETWORK.driver == "e1000e"
    finally:
        if held >= 0:
            os.close(held)
        run.end()
