"""Addresses and VLANs of a network card's virtual functions, with the kernel's own igb driver.

What they are is asked of iproute2, so that what we say over netlink is not checked by ourselves.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .host import PCI, Device
from .machine import until
from .slices import Machine, end, wait_for

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("network"), pytest.mark.nightly,
    pytest.mark.usefixtures("nothing_left"),
]

FUNCTION = '''[[vgpu]]
kind = "vf"
parent = "8086:10c9"
vfs = 2
mac = "52:54:00:00:00:07"
vlan = 12
'''


def card() -> Device:
    """The physical function."""
    path = next(p for p in sorted((PCI / "devices").iterdir()) if (p / "sriov_totalvfs").exists())
    return Device(path.name)


def link() -> str:
    """The name of its link, once udev has given it the one that stays."""
    found = card().path / "net"
    until(lambda: found.is_dir() and list(found.iterdir()), lambda: f"no {found}")
    return next(found.iterdir()).name


def functions() -> list[tuple[str, int]]:
    """MAC address and VLAN of each, as iproute2 tells."""
    done = subprocess.run(
        ["ip", "-j", "-d", "link", "show", "dev", link()], capture_output=True, text=True,
        check=True,
    )
    listed: list[dict[str, Any]] = json.loads(done.stdout)[0].get("vfinfo_list", [])
    return [
        (one.get("mac") or one["address"], one.get("vlan_list", [{}])[0].get("vlan", 0))
        for one in listed
    ]


def test_switched_on_for_the_run(open_directory: Path, boot_disk: Path) -> None:
    run = Machine(open_directory, boot_disk, "labnet", FUNCTION).start()
    try:
        wait_for(run, "qlaunch: done")
        assert "8086:10ca" in run.said, "the guest sees it"
        assert functions()[0] == ("52:54:00:00:00:07", 12)
        assert functions()[1] != ("52:54:00:00:00:07", 12)
        assert "are off" in end(run)
    finally:
        run.end()


def test_those_of_somebody_else_get_back_what_they_had(
    open_directory: Path, boot_disk: Path
) -> None:
    physical = card()
    (physical.path / "sriov_drivers_autoprobe").write_text("0")
    (physical.path / "sriov_numvfs").write_text("2")
    try:
        for number in ("0", "1"):
            subprocess.run(
                ["ip", "link", "set", "dev", link(), "vf", number, "mac",
                 f"02:00:00:00:00:0{number}", "vlan", f"{int(number) + 5}"], check=True,
            )
        before = functions()
        assert before == [("02:00:00:00:00:00", 5), ("02:00:00:00:00:01", 6)]
        run = Machine(open_directory, boot_disk, "labnet", FUNCTION, seconds=1).start()
        try:
            wait_for(run, "the guest runs")
            assert functions() == [("52:54:00:00:00:07", 12), before[1]]
            assert run.wait(300) == 0, run.said
        finally:
            run.end()
        assert functions() == before
        assert physical.read("sriov_numvfs") == "2"
    finally:
        (physical.path / "sriov_numvfs").write_text("0")
        (physical.path / "sriov_drivers_autoprobe").write_text("1")
