"""Slices of devices for real: the kernel's sample mediated devices and an NVMe's virtual functions.

Each test compares the whole host before and after. A mediated device of somebody else's is there
all the time, and has to stay.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .host import Device
from .machine import Run, qlaunch, uid_of
from .screen_text import read_ppm
from .slices import (
    FOREIGN,
    FUNCTION,
    MDPY,
    Machine,
    ask,
    at_stage,
    create,
    end,
    left,
    nvme,
    wait_for,
    wait_still,
)
from .state import MDEVS

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("slices"),
    pytest.mark.usefixtures("samples", "nothing_left"),
]


def test_what_there_is_to_slice_is_listed() -> None:
    listed = qlaunch("devices", "--vgpu")
    assert listed.returncode == 0, listed.stderr
    assert "mdpy: mediated devices" in listed.stdout
    assert "mbochs-large: 4 left, 64M" in listed.stdout
    assert "mdpy-hd: " in listed.stdout
    assert "1920x1080" in listed.stdout
    assert f"{FOREIGN}  mdpy-hd" in listed.stdout
    assert "0 of 2 virtual functions on" in listed.stdout


def test_made_and_removed_by_hand() -> None:
    uuid = "22222222-2222-3333-4444-555555555555"
    made = qlaunch("vgpu", "create", "mtty", "mtty-1", "--uuid", uuid.upper())
    assert made.returncode == 0, made.stderr
    assert (MDEVS / uuid).exists()
    again = qlaunch("vgpu", "create", "mtty", "mtty-1", "--uuid", uuid)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    removed = qlaunch("vgpu", "remove", uuid)
    assert removed.returncode == 0, removed.stderr
    assert not (MDEVS / uuid).exists()


def assert_has_firmware_text(name: str, device: str) -> None:
    """QEMU has the frame buffer for the firmware, as this device's and nobody else's."""
    path = f"/machine/peripheral/{device}"
    said = {"type": "vfio-pci-nohotplug", "ramfb": True, "display": "on"}
    assert {k: ask(name, "qom-get", path=path, property=k) for k in said} == said
    listed = [one for bus in ask(name, "query-pci") for one in bus["devices"]]
    below = [one for two in listed for one in two.get("pci_bridge", {}).get("devices", ())]
    found = next(one for one in (*listed, *below) if one["qdev_id"] == device)
    assert (found["class_info"]["class"], found["id"]["vendor"]) == (0x0380, 0x1B36)
    roms = ask(name, "human-monitor-command", **{"command-line": "info roms"})
    assert "vgabios-ramfb.bin" in roms


@pytest.mark.parametrize("time_round", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_mediated_device_and_a_function_come_and_go(
    time_round: int, open_directory: Path, boot_disk: Path
) -> None:
    text = MDPY.replace("vga", "xga") + "display = true\nramfb = true\n" + FUNCTION
    run = Machine(open_directory, boot_disk, "labslice", text).start()
    try:
        wait_for(run, "qlaunch: done")
        assert "1b36:000f" in run.said, "the guest sees mdpy"
        assert "1b36:0010 class 0108" in run.said, "and the virtual function"
        ours = [p for p in MDEVS.iterdir() if p.name != FOREIGN]
        assert len(ours) == 1
        group = (ours[0] / "iommu_group").resolve().name
        assert Path("/dev/vfio", group).stat().st_uid == uid_of("labslice")
        function = Device((nvme().path / "virtfn0").resolve().name)
        assert function.driver == "vfio-pci"
        assert function.read("reset_method").startswith("flr")
        assert nvme().read("sriov_numvfs") == "2"
        assert "labslice" in qlaunch("devices", "--vgpu").stdout
        assert_has_firmware_text("labslice", "vgpu0")
        picture = open_directory / "out/vgpu.ppm"
        ask("labslice", "screendump", filename=str(picture), device="vgpu0")
        width, height, pixels = read_ppm(picture.read_bytes())
        assert (width, height) == (1024, 768)
        shades = [pixels[row * width * 3] for row in range(0, height, 96)]
        assert shades == sorted(shades), "the gradient that the kernel's driver begins with"
        assert shades[0] < 16
        assert shades[-1] > 192
        said = end(run)
        assert "is removed" in said
        assert "are off" in said
    finally:
        run.end()


def test_two_machines_on_one_parent_and_the_last_instance(
    open_directory: Path, boot_disk: Path
) -> None:
    large = '[[vgpu]]\ntype = "mbochs-large"\n'
    runs: list[Run] = []
    try:
        for name in ("labone", "labtwo"):
            runs.append(Machine(open_directory, boot_disk, name, large + FUNCTION).start())
            wait_for(runs[-1], "qlaunch: done")
            assert "1234:1111" in runs[-1].said
        assert left("mbochs", "mbochs-large") == 2
        assert left("mbochs", "mbochs-small") == 32, "types share what there is"
        functions = [Device((nvme().path / f"virtfn{n}").resolve().name) for n in (0, 1)]
        assert [f.driver for f in functions] == ["vfio-pci"] * 2
        third = Machine(open_directory, boot_disk, "labthree", FUNCTION)
        refused = qlaunch("run", str(third.path))
        assert refused.returncode == 1
        assert "no virtual function is free" in refused.stderr
        fourth = Machine(open_directory, boot_disk, "labfour", large)
        runs.append(fourth.start(at_stage(5)))
        wait_still(runs[-1])
        others = [f"{n:08x}-0000-0000-0000-000000000000" for n in (1, 2)]
        for uuid in others:  # it has been planned, and not made
            create("mbochs", "mbochs-large", uuid)
        runs[-1].process.send_signal(signal.SIGCONT)
        assert runs[-1].wait() == 1, runs[-1].said
        assert "did not make a mbochs-large" in runs[-1].said
        refused = qlaunch("run", str(fourth.path))
        assert refused.returncode == 1
        assert "no instance of this type is left" in refused.stderr
        for uuid in others:
            (MDEVS / uuid / "remove").write_text("1")
        said = end(runs[0])
        assert "stay on" in said, "the other machine has one"
        assert nvme().read("sriov_numvfs") == "2"
        assert "are off" in end(runs[1])
    finally:
        for run in runs:
            run.end()


def test_one_that_was_made_by_hand_is_used_and_stays(
    open_directory: Path, boot_disk: Path
) -> None:
    uuid = "44444444-2222-3333-4444-555555555555"
    create("mtty", "mtty-2", uuid)
    text = f'[[vgpu]]\ntype = "mtty-2"\nuuid = "{uuid}"\n'
    run = Machine(open_directory, boot_disk, "labused", text, seconds=1).start()
    try:
        assert run.wait() == 0, run.said
        assert "4348:3253" in run.said
        assert (MDEVS / uuid).exists()
    finally:
        run.end()
        (MDEVS / uuid / "remove").write_text("1")
