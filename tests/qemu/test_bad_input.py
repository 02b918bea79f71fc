"""What only a run can refuse: QEMU's own refusals, and places that cannot be written.

Each is one message with a hint, exit code 1, and the machine leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.users import Stage

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes mounts and starts machines as root"),
    pytest.mark.skipif(
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
        reason="needs mount namespaces",
    ),
]
TOP = Path(__file__).parents[2]
MACHINE = """\
[machine]
memory = "64M"
accel = "tcg"
[[disk]]
file = "disk.img"
[stop]
timeout = "1s"
"""
SHORT = " --set 'machine.fw_cfg={\"opt/org.qlaunch/seconds\"=\"1\"}' --set disk[0].boot=0"


@pytest.fixture
def desk() -> Iterator[Stage]:
    """Root's own machines, in a world of their own."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-bad-") as name:
        directory = Path(name)
        made = Stage(directory)
        os.chown(made.home, 0, 0)
        image = (TOP / "qlaunch/data/bootsector.bin").read_bytes().ljust(1 << 20, b"\0")
        for file, data in (("disk.img", image), ("vm.toml", MACHINE.encode()),
                           ("rival.toml", MACHINE.encode())):
            (made.home / file).write_bytes(data)
        yield made


LEFT = (
    "; code=$?; [ -L /run/qlaunch ] || find /run/qlaunch -mindepth 1 -maxdepth 1 -type d "
    "-not -name '.*' -printf 'LEFT %p\\n' >&2; exit $code"
)


def refused(desk: Stage, script: str, says: str, *, hint: str = "", code: int = 1) -> str:
    """Run it, and judge what was said; the text."""
    done = desk.run(script + LEFT)
    assert done.returncode == code, done
    assert "LEFT" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "internal fault" not in done.stderr
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert says in done.stderr, done.stderr
    hints = [line for line in lines if line.startswith("hint: ")]
    assert len(hints) >= 1, done.stderr
    assert hint in hints[-1], done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("setting", "says", "hint"),
    [
        ('qemu.args=["-device","sound-of-the-future"]',
         "'sound-of-the-future' is not a valid device model name", "too old for it"),
        ('qemu.args=["-future"]', "-future: invalid option", "too old for it"),
        ('qemu.set={"disk0.future"=1}', "Property 'virtio-blk-pci.future' not found",
         "qlaunch plan"),
        ('disk[0].format="qcow2"', "this is no qcow2 image", "qemu-img info"),
        ('machine.memory="900T"', "are more than this host has", "machine.memory"),
        ('qemu.binary="qemu-system-none"', "QEMU is not installed", "install "),
        ('qemu.binary="/etc/passwd"', "there is no such program", "name a QEMU"),
        ('qemu.binary="/bin/true"', "does not answer as QEMU does", "try it by hand"),
        ('qemu.binary="/bin/false"', "does not answer as QEMU does", "try it by hand"),
        ('disk[0].file="/gone.img"', "no such file", "qemu-img create -f raw '/gone.img'"),
        ('disk[0].file="/etc"', "this is a directory", "name a disk image"),
        ('cpu.pin.vcpus=["8000"]', "this host has no CPU 8000", "lscpu"),
        ('qemu.user="nobodi"', "there is no user nobodi", "did you mean nobody?"),
    ],
)  # fmt: skip
def test_what_qemu_or_the_host_refuses(
    desk: Stage, setting: str, says: str, hint: str
) -> None:
    if 'vcpus=["8000"]' in setting and len(os.sched_getaffinity(0)) > 8000:
        pytest.skip("this host has them all")
    for detach in ("", " --detach"):
        refused(desk, f"q run vm{detach} --set '{setting}'", says, hint=hint)


def test_a_disk_that_another_machine_has(desk: Stage) -> None:
    script = "q run vm --detach >/dev/null 2>&1; q run rival; code=$?; q stop vm --force 2>&1; "
    text = refused(desk, script + "(exit $code)", "another QEMU has this disk open")
    assert "the machine vm (pid " in text


def test_a_disk_that_another_qemu_has(desk: Stage) -> None:
    """One that is not ours."""
    other = (
        "qemu-system-x86_64 -display none -monitor none -S -drive "
        "file=disk.img,format=raw,if=virtio & sleep 2; "
    )
    script = other + "q run vm; code=$?; kill %1; wait 2>/dev/null; (exit $code)"
    refused(desk, script, "another QEMU has this disk open")


def test_a_machine_that_runs(desk: Stage) -> None:
    script = "q run vm --detach >/dev/null 2>&1; q run vm; code=$?; q stop vm --force 2>&1; "
    refused(desk, script + "(exit $code)", "vm is running", hint="qlaunch stop 'vm'")


def root_device() -> str | None:
    """The block device that / is on."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == "/":
            device = words[words.index("-") + 2]
            return device if device.startswith("/dev/") and Path(device).exists() else None
    return None


def test_a_disk_that_is_mounted(desk: Stage) -> None:
    device = root_device()
    if device is None:
        pytest.skip("/ is on no block device here")
    setting = f"disk[0].file=\"{device}\""
    refused(desk, f"q run vm --set '{setting}'", "the host has this block device mounted",
            hint="the host runs from it")
    done = desk.run(f"q check vm --set '{setting}' --set disk[0].read_only=true")
    assert done.returncode == 0, done  # read-only is the user's to decide


def test_a_loop_device_that_is_mounted(desk: Stage) -> None:
    image = desk.home / "fs.img"
    if not shutil.which("mkfs.ext4") or not shutil.which("losetup"):
        pytest.skip("needs mkfs.ext4 and losetup")
    image.write_bytes(bytes(4 << 20))
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    found = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        pytest.skip(f"no loop devices here: {found.stderr.strip()}")
    loop = found.stdout.strip()
    try:
        script = f"mkdir m; mount {loop} m && q run vm --set 'disk[0].file=\"{loop}\"'"
        refused(desk, script, "the host has this block device mounted",
                hint=f"umount {desk.home}/m")
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


PLACES = [
    ("mount -t tmpfs -o ro none /run", "/run/qlaunch: the directory cannot be made: Read-only",
     "findmnt"),
    ("mkdir /run/qlaunch; mount -t tmpfs -o ro none /run/qlaunch", "Read-only file system",
     "findmnt"),
    ("mkdir /run/qlaunch; mount -t tmpfs -o size=4k none /run/qlaunch; "
     "head -c 8192 /dev/zero >/run/qlaunch/.full",
     "/run/qlaunch/vm/supervisor: the lock cannot be written", "df -h"),
    ("mkdir /run/qlaunch; mount -t tmpfs -o nr_inodes=3 none /run/qlaunch",
     "No space left on device", "df -i"),
    ("touch /run/qlaunch", "/run/qlaunch: the directory cannot be made: Not a directory", "namei"),
    ("ln -s /tmp /run/qlaunch", "/run/qlaunch: the directory cannot be made: Not a directory",
     "namei"),
    ("mkdir /run/qlaunch; chown 12345 /run/qlaunch", "the directory belongs to somebody else",
     "ls -ld"),
    ("mount -t tmpfs -o ro none /var/lib", "/var/lib/qlaunch: the directory cannot be made",
     "findmnt"),
    ("touch /var/lib/qlaunch", "/var/lib/qlaunch", "namei"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "says", "hint"), PLACES, ids=[p[0] for p in PLACES])
def test_places_that_cannot_be_written(desk: Stage, place: str, says: str, hint: str) -> None:
    refused(desk, f"{place} 2>/dev/null; q run vm", says, hint=hint)


def test_full_state_is_no_reason_not_to_run(desk: Stage) -> None:
    """The log is lost, and the guest runs; QEMU's answers are not cached."""
    for directory in ("/var/lib", "/var/cache"):
        done = desk.run(
            f"mount -t tmpfs -o size=4k none {directory}; "
            f"head -c 8192 /dev/zero >{directory}/full 2>/dev/null; q run vm{SHORT}{LEFT}"
        )
        assert done.returncode == 0, done
        assert "the guest powered off" in done.stderr
        assert "Traceback" not in done.stderr


def test_verbs_of_places_that_cannot_be_read(desk: Stage) -> None:
    done = desk.run(
        "mount -t tmpfs -o ro none /run; q ps; q recover --all; q status vm; q logs vm; "
        "q stop vm; echo $?"
    )
    assert done.stdout == "no machine runs\n1\n"
    assert done.stderr.count("error: ") == 3
    assert "Traceback" not in done.stderr


def test_garbage_in_the_runtime_directory(desk: Stage) -> None:
    """A journal that says nothing may stand for a changed host: the machine waits for a person."""
    done = desk.run(
        "mkdir -p /run/qlaunch/vm /run/qlaunch/x; chmod 711 /run/qlaunch; "
        "for d in vm x; do echo garbage >/run/qlaunch/$d/journal; "
        "echo '{' >/run/qlaunch/$d/run.json; done; q ps; q status x; "
        f"q run vm{SHORT}; echo run $?; q recover x; echo recover $?; "
        f"rm /run/qlaunch/*/journal; q run vm{SHORT}; echo again $?"
    )
    assert "Traceback" not in done.stderr
    assert "internal fault" not in done.stderr
    assert "/run/qlaunch/vm/journal: line(s) 1 cannot be read" in done.stderr
    assert "hint: once this is read: rm '/run/qlaunch/vm/journal'" in done.stderr
    assert {"run 3", "recover 3", "again 0"} <= set(done.stdout.splitlines()), done
    assert "the guest powered off" in done.stderr, done
    assert "x     left over" in done.stdout
    assert "hint: qlaunch recover 'x'" in done.stdout
