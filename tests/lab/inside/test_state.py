"""The comparison of before and after sees what it is there to see: each kind of change is made by
hand, and told.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from .slices import create
from .state import MDEVS, changed, host_state

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("slices"),
    pytest.mark.usefixtures("samples", "nothing_left"),
]

UUID = "66666666-2222-3333-4444-555555555555"
SHARED = Path("/dev/shm/lab")
DIRECTORY = Path("/run/qlaunch/lab-directory")
NODE = Path("/dev/vfio/vfio")


def test_each_change_is_told() -> None:
    pool = Path("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")
    mask = Path("/proc/irq/default_smp_affinity")
    earlier, mode = mask.read_text(), NODE.stat().st_mode & 0o7777
    before = host_state()
    with contextlib.ExitStack() as stack:
        undo = stack.callback
        create("mtty", "mtty-1", UUID)
        undo((MDEVS / UUID / "remove").write_text, "1")
        for line in ("link add lab-br type bridge", "link add lab-port type dummy",
                     "link set lab-port master lab-br"):
            ip(line)
        undo(ip, "link del lab-port")
        undo(ip, "link del lab-br")
        subprocess.run(["nft", "add", "table", "inet", "lab"], check=True)
        undo(subprocess.run, ["nft", "delete", "table", "inet", "lab"], check=True)
        for path, text, back in ((pool, "1", pool.read_text()), (mask, "1", earlier)):
            path.write_text(text)
            undo(path.write_text, back)
        SHARED.write_text("")
        undo(SHARED.unlink)
        DIRECTORY.mkdir(parents=True)
        undo(DIRECTORY.rmdir)
        NODE.chmod(0o640)
        undo(NODE.chmod, mode)
        after = host_state()
    told = changed(before, after)
    expected = {
        f"mdev {UUID}", "links", "link lab-port", "firewall", str(pool), "new interrupts",
        str(SHARED), str(DIRECTORY), str(NODE),
    }
    assert expected <= set(told)
    assert any(key.endswith("mtty-1/available_instances") for key in told)
    assert after["link lab-port"].endswith(" lab-br")


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)
