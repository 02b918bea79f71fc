"""What a Linux guest finds on each bus, and what stays when the machine has ended or was killed."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.run.info import find_supervisor
from tests.fake.guest import make_guest
from tests.qemu.test_verbs import Make, Vm, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu
MODULES = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "ahci", "nvme",
           "xhci_pci", "usb_storage")
LOOK = """\
for wait in 1 2 3 4 5 6 7 8; do
    test $(ls -d /sys/block/sd? | wc -l) -ge 3 && break
    sleep 1
done
cd /sys/block
for disk in vd? sd? nvme* sr?; do
    echo "disk $disk $(cat $disk/size) ro=$(cat $disk/ro)" \\
        "sector=$(cat $disk/queue/logical_block_size)" \\
        "rotates=$(cat $disk/queue/rotational) serial=$(cat $disk/serial $disk/device/serial)" \\
        "granularity=$(cat $disk/queue/discard_granularity) at $(readlink $disk)"
done
echo nvme0 at $(cat /sys/class/nvme/nvme0/address)
"""
WRITE = """\
dd if=/dev/vda of=/dev/null bs=4096 count=1
echo thrown | dd of=/dev/vda bs=512 conv=sync,fsync && sync
echo guest: has $(head -c 6 /dev/vda)
"""
KERNEL = '[kernel]\nfile = "{0.kernel}"\ninitrd = "{0.initrd}"\nappend = "{0.append}"\n'


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-guest-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def linux(vm: Vm, directory: Path, script: str, tables: str) -> None:
    """The machine with this guest and these disks alone."""
    text = vm.path.read_text().replace('memory = "64M"', 'memory = "256M"')
    before, _, rest = text.partition("[[disk]]")
    kernel = KERNEL.format(make_guest(directory, script, MODULES))
    vm.path.write_text(f"{before}{tables}[[serial]]{rest.partition('[[serial]]')[2]}{kernel}")


def test_a_guest_finds_its_disks(make: Make, both_qemus: str, directory: Path) -> None:
    vm = make()
    tables = """
[[disk]]
file = "a"
format = "qcow2"
create = { size = "8M", lazy_refcounts = true }
serial = "first"
logical_block_size = 4096
physical_block_size = 4096
discard = true
discard_granularity = 65536
iothread = true
[[disk]]
file = "b"
create = { size = "16M" }
bus = "scsi"
read_only = true
rotation_rate = 1
[[disk]]
file = "c"
create = { size = "24M" }
bus = "sata"
rotation_rate = 7200
iops = 1000
[[disk]]
file = "d"
create = { size = "32M" }
bus = "nvme"
serial = "fourth"
[[disk]]
file = "e"
create = { size = "40M", preallocation = "full" }
bus = "usb"
[[cdrom]]
bus = "scsi"
"""
    linux(vm, directory, LOOK, tables)
    done = qlaunch("run", str(vm.path), "--set", f"qemu.binary={both_qemus}")
    said = vm.serial.read_text()
    assert done.returncode == 0, done.stderr + said
    assert done.stderr.count("making a ") == 5
    disks = {line.split()[1]: line for line in said.splitlines() if line.startswith("disk ")}
    by_size = {int(line.split()[2]) >> 11: line for line in disks.values()}
    assert "sector=4096 rotates=1 serial=first granularity=65536" in by_size[8]
    assert "0000:00:08.0" in by_size[8]
    assert "ro=1 sector=512 rotates=0" in by_size[16]
    assert "0000:00:06.0" in by_size[16]
    assert "0:0:0:0/" in by_size[16]
    assert "ro=0 sector=512 rotates=1" in by_size[24]
    assert "0000:00:1f.2" in by_size[24]
    assert "serial=fourth" in by_size[32]
    assert "nvme0 at 0000:00:0f.0" in said
    assert "/usb" in by_size[40]
    assert "0:0:15:0/" in disks["sr0"]
    assert (vm.directory / "e").stat().st_size == 40 << 20


def test_what_a_throwaway_disk_was_written_is_gone(
    make: Make, both_qemus: str, directory: Path
) -> None:
    vm = make()
    image = vm.directory / "base"
    image.write_bytes(b"before".ljust(1 << 20, b"\0"))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    linux(vm, directory, WRITE + "while test -e /dev/vda; do sleep 1; done\n",
          '[[disk]]\nfile = "base"\nthrowaway = true\n')
    state = Path("/var/lib/qlaunch" if os.geteuid() == 0 else
                 Path.home() / ".local/state/qlaunch") / vm.name
    for end in ("stop", "kill QEMU", "kill the launcher"):
        vm.serial.unlink(missing_ok=True)
        done = qlaunch("run", str(vm.path), "--detach", "--set", f"qemu.binary={both_qemus}")
        assert done.returncode == 0, done.stderr
        until(lambda: vm.serial.exists() and "guest: has thrown" in vm.serial.read_text(),
              "the guest has written")
        links = [str(p.readlink()) for p in Path(f"/proc/{vm.qemu()}/fd").iterdir()]
        assert [x for x in links if x.startswith(f"{state}/") and x.endswith("(deleted)")], links
        if end == "stop":
            assert qlaunch("stop", vm.name, "--now").returncode == 0
        elif end == "kill QEMU":
            os.kill(vm.qemu(), signal.SIGKILL)
        else:
            launcher = find_supervisor(vm.runtime)
            assert launcher is not None
            os.kill(launcher, signal.SIGKILL)
            until(lambda: find_supervisor(vm.runtime) is None, "the launcher is gone")
            assert qlaunch("stop", vm.name, "--force").returncode == 0
        until(lambda: not Path(vm.runtime).exists(), "it has ended")
        assert hashlib.sha256(image.read_bytes()).hexdigest() == digest, end
        assert {p.name for p in state.iterdir()} <= {"qlaunch.log", "qemu.log", "last", "uid"}
