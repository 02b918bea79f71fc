"""A Linux guest is asked whether it has what its profile says, not only QEMU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.guest import make_guest

pytestmark = [
    pytest.mark.qemu, pytest.mark.skipif(os.geteuid() != 0, reason="keeps its state as root's"),
]

SCRIPT = """
echo "guest: tpm: $(cat /sys/class/tpm/tpm0/tpm_version_major)"
echo "guest: product: $(cat /sys/class/dmi/id/product_name)"
echo "guest: nodes: $(ls -d /sys/devices/system/node/node* | wc -l)"
echo "guest: cpus: $(grep -c ^processor /proc/cpuinfo)"
mount -t 9p -o trans=virtio,version=9p2000.L work /mnt
echo "guest: folder: $(cat /mnt/from-host)"
for port in /sys/class/virtio-ports/*; do echo "guest: port: $(cat $port/name)"; done
echo "guest: rng: $(cat /sys/class/misc/hw_random/rng_current)"
echo "guest: disk: $(cat /sys/block/vda/serial) $(cat /sys/block/vda/queue/logical_block_size)"
echo "guest: discard: $(cat /sys/block/vda/queue/discard_max_bytes)"
"""
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "virtio_console", "virtio_rng", "virtio_blk")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where QEMU's account can read: pytest's own directories are root's alone."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-guest-") as path:
        Path(path).chmod(0o755)
        yield Path(path)
    shutil.rmtree("/var/lib/qlaunch/qlaunch-asked", ignore_errors=True)


def test_the_guest_sees_the_machine_of_its_profile(place: Path) -> None:
    guest = make_guest(place, SCRIPT, MODULES, packed=True)
    folder = place / "folder"
    folder.mkdir()
    (folder / "from-host").write_text("read")
    serial = place / "serial"
    profile = place / "asked.toml"
    profile.write_text(f"""\
name = "qlaunch-asked"
guest = "linux"

[machine]
accel = "tcg"
memory = "512M"

[cpu]
cores = 2

[[numa]]
cpus = "0"
memory = "256M"

[[numa]]
cpus = "1"
memory = "256M"

[kernel]
file = "{guest.kernel}"
initrd = "{guest.initrd}"
append = "{guest.append}"

[smbios]
system = {{ product = "a box, of mine" }}

[tpm]

[[share]]
path = "{folder}"
tag = "work"
type = "9p"

[agent]

[rng]

[[disk]]
file = "{place}/disk.qcow2"
format = "qcow2"
create = {{ size = "64M" }}
serial = "asked"
logical_block_size = 4096
physical_block_size = 4096
discard = true

[[serial]]
file = "{serial}"
""")
    done = subprocess.run(
        [sys.executable, "-m", "qlaunch", "run", str(profile)], capture_output=True, text=True,
        check=False, timeout=150,
    )
    assert done.returncode == 0, done.stderr
    said = serial.read_text(errors="replace")
    for line in (
        "tpm: 2", "product: a box, of mine", "nodes: 2", "cpus: 2", "folder: read",
        "port: org.qemu.guest_agent.0", "disk: asked 4096",
    ):
        assert f"guest: {line}" in said, said
    assert "guest: rng: virtio" in said
    assert "guest: discard: 0" not in said
