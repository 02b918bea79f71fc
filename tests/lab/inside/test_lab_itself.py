"""The lab is what the other tests take it for.

When one of these fails, every other failure in the lab means nothing. The last one is the proof
that real passthrough works here at all, without any code of qlaunch: a guest draws on the card.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .host import (
    AUDIO,
    GRAPHICS,
    GRAPHICS_PORT,
    NETWORK,
    NUMA_NETWORK,
    NVME,
    USB,
    Device,
    card_to_text_mode,
)
from .monitor import Monitor

pytestmark = pytest.mark.lab

VGABIOS = Path("/usr/share/seabios/vgabios-stdvga.bin")


@pytest.mark.parametrize(
    ("device", "kind", "driver"),
    [
        (GRAPHICS, "0x030000", "bochs-drm"),  # the module is bochs
        (AUDIO, "0x040300", "snd_hda_intel"),
        (GRAPHICS_PORT, "0x060400", "pcieport"),
        (NETWORK, "0x020000", "e1000e"),
        (NVME, "0x010802", "nvme"),
        (USB, "0x0c0330", "xhci_hcd"),
    ],
    ids=lambda value: value.address if isinstance(value, Device) else None,
)
def test_device_and_its_driver(device: Device, kind: str, driver: str) -> None:
    assert device.read("class") == kind
    assert device.driver == driver


def test_the_card_is_the_boot_display() -> None:
    assert GRAPHICS.read("boot_vga") == "1"


def test_groups() -> None:
    card = [GRAPHICS_PORT.address, GRAPHICS.address, AUDIO.address]
    assert GRAPHICS.group_members == card
    assert NVME.group_members == [NVME.address]
    assert NETWORK.group_members == [NETWORK.address]


def test_reset_methods() -> None:
    assert GRAPHICS.read("reset_method") == "bus"
    assert NVME.read("reset_method") == "flr bus"


def test_sriov_gives_virtual_functions() -> None:
    assert NVME.read("sriov_totalvfs") == "2"
    NVME.write("sriov_numvfs", "2")
    try:
        functions = [Device((NVME.path / f"virtfn{n}").resolve().name) for n in (0, 1)]
        assert len({device.group for device in (NVME, *functions)}) == 3
    finally:
        NVME.write("sriov_numvfs", "0")


def test_cpus_have_threads() -> None:
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").read_text()
    assert siblings.strip() == "0-1"


@pytest.mark.topology("numa")
def test_numa_nodes_with_hugepages() -> None:
    nodes = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))
    assert [(node / "cpulist").read_text().strip() for node in nodes] == ["0-3", "4-7"]
    pools = [node / "hugepages/hugepages-2048kB/nr_hugepages" for node in nodes]
    assert [int(pool.read_text()) for pool in pools] == [64, 64]
    assert NUMA_NETWORK.read("numa_node") == "1"


@contextmanager
def taken_over(*devices: Device) -> Iterator[None]:
    before = [device.driver or "" for device in devices]
    for device in devices:
        device.bind("vfio-pci")
    try:
        yield
    finally:
        for device, driver in zip(devices, before, strict=True):
            device.give_back(driver)


@pytest.mark.topology("card", "numa")
def test_takeover_and_return() -> None:
    network = NETWORK if NETWORK.path.exists() else NUMA_NETWORK
    with taken_over(network):
        assert network.driver == "vfio-pci"
        assert (Path("/dev/vfio") / network.group).exists()
        assert network.read("driver_override") == "vfio-pci"
    assert network.driver == "e1000e"
    assert network.read("driver_override") == "(null)"
    assert network.alive


@contextmanager
def guest(disk: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU by hand with the whole card, on the chipset and port the first launchers used."""
    argv = [
        *("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "128"),
        *("-nodefaults", "-display", "none", "-vga", "none"),
        *("-device", "ioh3420,bus=pcie.0,addr=1c.0,multifunction=on,port=1,chassis=1,id=root"),
        "-device",
        f"vfio-pci,host={GRAPHICS.address},bus=root,addr=00.0,multifunction=on,x-vga=on,"
        # Without a file the ROM is the host's shadow copy, and nothing is drawn.
        f"romfile={VGABIOS}",
        *("-device", f"vfio-pci,host={AUDIO.address},bus=root,addr=00.1"),
        *("-drive", f"file={disk},format=raw,if=virtio"),
        *("-fw_cfg", f"name=opt/org.qlaunch/name,string={name}"),
        *("-fw_cfg", "name=opt/org.qlaunch/seconds,string=600"),
    ]
    with subprocess.Popen(argv) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_guest_draws_on_the_card(
    monitor: Monitor,
    boot_disk: Path,
    screens: Path,
    record_property: Callable[[str, object], None],
) -> None:
    card_to_text_mode()
    with taken_over(GRAPHICS, AUDIO):
        started = time.monotonic()
        with guest(boot_disk, "labproof") as process:
            lines = monitor.wait_for_text("qlaunch: done", timeout=180)
            record_property("seconds_to_text", round(time.monotonic() - started, 1))
            assert process.poll() is None
            assert lines[0].rstrip() == "qlaunch: labproof cpus=1 memory=128M"
            shown = "\n".join(lines)
            assert "1234:1111 class 0300" in shown
            assert "8086:2668 class 0403" in shown
            picture = monitor.screendump(screens / "labproof.png")
            assert picture.read_bytes().startswith(b"\x89PNG")
    assert (GRAPHICS.driver, AUDIO.driver) == ("bochs-drm", "snd_hda_intel")
    assert GRAPHICS.alive
    assert AUDIO.alive
