"""An ordinary user's machine with a device that VFIO has from early on: nobody is asked for root.

What `host setup --early` and `--user` have done by then on a real host, plain sysfs does here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.users import AS_USER, UID

from .host import NUMA_NETWORK, wait_until_gone
from .machine import ROOT, Run, qemu_of, until

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("numa"), pytest.mark.usefixtures("nothing_left"),
]

MEMORY = 64 << 20
PROFILE = """\
name = "own"
[machine]
memory = "64M"
fw_cfg = {{ "opt/org.qlaunch/seconds" = "0" }}
[[disk]]
file = "{disk}"
[[pci]]
device = "{device}"
[stop]
timeout = "1s"
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
    with contextlib.suppress(ProcessLookupError):  # of a failed test; its device would not leave
        os.kill(qemu_of("own"), signal.SIGKILL)
    NUMA_NETWORK.give_back(driver)
    wait_until_gone(node)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the user may write, and everybody may look."""
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    place = tmp_path / "home"
    (place / "run").mkdir(parents=True)
    (place / "run").chmod(0o700)
    return place


def start(home: Path, profile: Path, memlock: int) -> Run:
    """`qlaunch run` as the user; the soft limit on locked memory is low, as after a login."""
    return Run(
        [
            "env", "-i", f"PATH={os.environ['PATH']}", f"HOME={home}", "LANG=C.UTF-8",
            f"XDG_RUNTIME_DIR={home}/run", f"PYTHONPATH={ROOT}",
            "prlimit", f"--memlock=65536:{memlock}", *AS_USER,
            sys.executable, "-m", "qlaunch", "run", str(profile),
        ],
        "own",
    )  # fmt: skip


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
        run.wait_for("the guest runs", timeout=300)
        of_qemu = Path(f"/proc/{qemu_of('own')}")
        assert early in [link.readlink() for link in (of_qemu / "fd").iterdir()]
        status = (of_qemu / "status").read_text()
        assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}" in status
        assert f"{enough}  " in (of_qemu / "limits").read_text()
        run.process.terminate()
        assert run.wait(timeout=300) == 0, run.said
    finally:
        run.end()
    assert "so nothing is done as root" in run.said
    assert "sudo" not in run.said.replace("with sudo", "")
    assert NUMA_NETWORK.driver == "vfio-pci"
    assert NUMA_NETWORK.alive
    assert early.stat().st_uid == UID
    left = [p for p in (home / "run/qlaunch").rglob("*") if p.is_file() and p.name != ".host.lock"]
    assert left == []
