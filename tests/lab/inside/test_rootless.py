"""An ordinary user's machine with a device that VFIO has from early on: nobody is asked for root.

What `host setup --early` and `--user` have done by then on a real host, plain sysfs does here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.users import AS_USER, UID

from .host import NUMA_NETWORK, wait_until_gone
from .machine import ROOT, until

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("numa"), pytest.mark.usefixtures("nothing_left"),
]

MEMORY = 64 << 20
PROFILE = """\
name = "own"
[machine]
memory = "64M"
fw_cfg = {{ "opt/org.qlaunch/seconds" = "5" }}
[[disk]]
file = "{disk}"
[[pci]]
device = "{device}"
"""


@pytest.fixture
def early() -> Iterator[Path]:
    """The NIC is VFIO's, and its group's node the user's."""
    driver = NUMA_NETWORK.driver
    assert driver is not None
    NUMA_NETWORK.bind("vfio-pci")
    node = Path("/dev/vfio", NUMA_NETWORK.group)
    until(node.exists, f"{node} is made")
    os.chown(node, UID, UID)
    yield node
    NUMA_NETWORK.give_back(driver)
    wait_until_gone(node)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the user may write, and everybody may look."""
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    place = tmp_path / "home"
    (place / "run").mkdir(parents=True, mode=0o700)
    (place / "run").chmod(0o700)
    return place


def start(home: Path, profile: Path, memlock: int) -> subprocess.Popen[str]:
    """`qlaunch run` as the user; the soft limit on locked memory is low, as after a login."""
    command = (
        "prlimit", f"--memlock=65536:{memlock}",
        *AS_USER, sys.executable, "-m", "qlaunch", "run", str(profile),
    )
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": str(home / "run"), "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, cwd="/", env=environment,
    )


def test_a_device_that_is_the_users(early: Path, home: Path, boot_disk: Path) -> None:
    disk = home / "guest.img"
    shutil.copyfile(boot_disk, disk)
    profile = home / "own.toml"
    profile.write_text(PROFILE.format(disk=disk, device=NUMA_NETWORK.address))
    for path in (home, *home.rglob("*")):
        os.chown(path, UID, UID)
    enough = MEMORY + (1 << 30)
    run = start(home, profile, enough)
    try:
        holder = user_of(early, run)
        status = Path(f"/proc/{holder}/status").read_text()
        assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}" in status
        assert "CapEff:\t0000000000000004" in status  # AS_USER's, to read this checkout
        assert f"{enough}  " in Path(f"/proc/{holder}/limits").read_text()
        said = run.communicate(timeout=300)[0]
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 0, said
    assert "so nothing is done as root" in said
    assert "sudo" not in said.replace("with sudo", "")
    assert NUMA_NETWORK.driver == "vfio-pci"
    assert NUMA_NETWORK.alive
    assert early.stat().st_uid == UID
    left = [p for p in (home / "run/qlaunch").rglob("*") if p.is_file() and p.name != ".host.lock"]
    assert left == []


def user_of(node: Path, run: subprocess.Popen[str]) -> int:
    """The pid of whoever has the node open."""
    found: list[int] = []

    def look() -> bool:
        assert run.poll() is None, run.communicate()[0]
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                if link.readlink() == node:
                    found.append(int(link.parts[2]))
            except OSError:  # closed, or ended, meanwhile
                continue
        return bool(found)

    until(look, f"somebody opens {node}")
    return found[0]
