"""What a Linux guest makes of its machine: its TPM answers, its shares can be read and written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.facts.own_uid import own_uid
from tests.fake.linux import image, initramfs
from tests.qemu.test_share import needs_virtiofsd
from tests.qemu.test_verbs import Make, make, qlaunch

__all__ = ["make"]
pytestmark = [pytest.mark.qemu, needs_virtiofsd]

SCRIPT = """\
exec >/dev/ttyS0 2>&1
echo tpm $(cat /sys/class/tpm/tpm0/tpm_version_major)
echo pcr $(cat /sys/class/tpm/tpm0/pcr-sha256/0)
mkdir -p /mnt/v /mnt/p /mnt/r
mount -t virtiofs fast /mnt/v && echo virtiofs mounted
mount -t 9p -o trans=virtio,version=9p2000.L slow /mnt/p && echo 9p mounted
mount -t 9p -o trans=virtio,version=9p2000.L fixed /mnt/r && echo fixed mounted
cat /mnt/v/hello /mnt/p/hello
echo by virtiofs >/mnt/v/made-v
echo by 9p >/mnt/p/made-p
echo no >/mnt/r/made-r
sync
echo done
"""
TABLES = """\
[kernel]
file = "{kernel}"
initrd = "{directory}/initrd"
append = "console=ttyS0 panic=-1 quiet"
[tpm]
[[share]]
path = "{directory}/shared"
tag = "fast"
[[share]]
path = "{directory}/shared"
tag = "slow"
type = "9p"
[[share]]
path = "{directory}/shared"
tag = "fixed"
type = "9p"
read_only = true
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that QEMU's account can reach, with a directory to be shared."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-guest-") as name:
        path = Path(name)
        path.chmod(0o755)
        shared = path / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        (shared / "hello").write_text("hello from the host\n")
        yield path


def test_tpm_and_shares_work_inside(make: Make, both_qemus: str, directory: Path) -> None:
    initramfs(directory / "initrd", SCRIPT, ["virtio_pci", "virtiofs", "9p", "9pnet_virtio"])
    vm = make()
    text = vm.path.read_text().replace('memory = "64M"', 'memory = "256M"')
    text = text.replace("boot = 0", "")
    vm.path.write_text(text + TABLES.format(kernel=image(), directory=directory))
    done = qlaunch("run", str(vm.path), "--set", f"qemu.binary={both_qemus}")
    said = vm.serial.read_text()
    assert done.returncode == 0, done.stderr
    assert "done" in said
    assert "tpm 2" in said
    (pcr,) = (line.split()[1] for line in said.splitlines() if line.startswith("pcr "))
    assert len(pcr) == 64
    assert {"virtiofs mounted", "9p mounted", "fixed mounted"} <= set(said.splitlines())
    assert said.count("hello from the host") == 2
    shared = directory / "shared"
    assert (shared / "made-v").read_text() == "by virtiofs\n"
    assert (shared / "made-p").read_text() == "by 9p\n"
    owner = own_uid(vm.name) if os.geteuid() == 0 else os.geteuid()
    assert (shared / "made-v").stat().st_uid == (shared / "made-p").stat().st_uid == owner
    assert not (shared / "made-r").exists()
