"""PCI functions from recorded trees: ids, groups, overrides, what they carry, variant drivers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.facts.model import PciDevice
from qlaunch.facts.nodes import carriers
from qlaunch.facts.overrides import with_overrides
from qlaunch.facts.pci import match_variant, read_pci, read_variants
from qlaunch.values import parse_pci_address
from tests.fake.trees import PCI, Tree, card_on_ioh3420


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def only(tree: Tree) -> PciDevice:
    (device,) = read_pci(tree.root)
    return device


def test_card_and_audio_share_a_group_with_their_port(tree: Tree) -> None:
    card_on_ioh3420(tree)
    port, gpu, audio = read_pci(tree.root)
    assert [d.iommu_group for d in (port, gpu, audio)] == [5, 5, 5]
    assert [d.is_bridge for d in (port, gpu, audio)] == [True, False, False]
    assert (port.header_type, gpu.header_type) == (1, 0)  # without the multifunction bit
    assert (gpu.id, gpu.subsystem, gpu.class_code) == ("1234:1111", "1af4:1100", 0x030000)
    assert audio.subsystem is None  # 0000:0000
    assert (gpu.driver, audio.driver) == ("bochs-drm", "snd_hda_intel")
    assert (gpu.boot_vga, audio.boot_vga) == (True, None)
    assert (gpu.reset_methods, audio.reset_methods) == (("bus",), ("pm", "bus"))
    assert gpu.slot == audio.slot == "1"
    assert port.slot is None
    assert gpu.nodes == ("dri/card0", "dri/renderD128", "fb0")
    assert audio.nodes == ("snd/controlC1", "snd/pcmC1D3p")
    assert gpu.modalias == "pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00"


@pytest.mark.parametrize(
    ("text", "value"), [("(null)", None), ("", None), ("vfio-pci", "vfio-pci")]
)
def test_override(tree: Tree, text: str, value: str | None) -> None:
    tree.pci("0000:01:00.0", "10de:1200", 0x030000, override=text)
    device = only(tree)
    assert device.driver_override is None, "it takes a lock, so nobody looked"
    assert with_overrides(tree.root, [device]) == (replace(device, driver_override=value),)


def test_what_takes_the_devices_lock_is_not_read(tree: Tree) -> None:
    """Opening a pipe that nobody writes to sleeps as reading under a held lock does."""
    for number in range(1, 4):
        path = tree.pci(f"0000:0{number}:00.0", "10de:1200", 0x030000, sriov_totalvfs="2",
                        sriov_numvfs="1", override="vfio-pci" if number == 1 else "(null)")
        tree.link(f"{path}/virtfn0", "../0000:04:00.0")
    for name in ("driver_override", "sriov_numvfs", "uevent"):
        (tree.root / path / name).unlink()
        os.mkfifo(tree.root / path / name)
    signal.alarm(60)
    try:
        first, second, hung = read_pci(tree.root)
        found = with_overrides(tree.root, (first, second, hung), deadline=0.5)
    finally:
        signal.alarm(0)
        os.close(os.open(tree.root / path / "driver_override", os.O_RDWR))
    assert (first.id, first.sriov_count, hung.id, hung.sriov_count) == (hung.id, 1, first.id, 1)
    assert found == (
        replace(first, driver_override="vfio-pci"), second, replace(hung, stuck=True)
    )


def test_no_driver_no_group_no_reset_method(tree: Tree) -> None:
    tree.pci("0000:01:00.0", "10de:1200", 0x030000, reset=None)
    device = only(tree)
    assert (device.driver, device.iommu_group, device.reset_methods) == (None, None, None)
    assert (device.numa_node, device.sriov_total, device.physfn) == (None, None, None)


def test_an_empty_reset_method_is_not_a_missing_one(tree: Tree) -> None:
    tree.pci("0000:01:00.0", "10de:1200", 0x030000, reset="")
    assert only(tree).reset_methods == ()


def test_virtual_function(tree: Tree) -> None:
    tree.pci("0000:04:00.0", "1b36:0010", 0x010802, sriov_totalvfs="2", sriov_numvfs="1", numa=1)
    path = tree.pci("0000:04:00.1", "1b36:0010", 0x010802)
    tree.link(f"{path}/physfn", "../0000:04:00.0")
    tree.link(f"{PCI}/0000:04:00.0/virtfn0", "../0000:04:00.1")
    physical, virtual = read_pci(tree.root)
    assert (physical.sriov_total, physical.sriov_count, physical.numa_node) == (2, 1, 1)
    assert virtual.physfn == "0000:04:00.0"


@pytest.mark.parametrize("modalias", [True, False])
def test_ids_with_and_without_modalias(tree: Tree, modalias: bool) -> None:
    path = tree.pci("0000:01:00.0", "10de:1200", 0x030001, subsystem="1462:2380")
    other = "modalias" if not modalias else "vendor"
    (tree.root / path / other).unlink()
    device = only(tree)
    assert (device.id, device.subsystem) == ("10de:1200", "1462:2380")
    assert device.class_code == 0x030001


def test_a_sleeping_device_is_not_woken(tree: Tree) -> None:
    tree.pci("0000:01:00.0", "10de:1200", 0x030000, power="D3cold", header_type=1)
    device = only(tree)
    assert (device.power_state, device.header_type) == ("D3cold", None)
    assert not device.is_bridge  # told by its class then


def test_a_device_that_answers_all_ones(tree: Tree) -> None:
    path = tree.pci("0000:01:00.0", "10de:1200", 0x030000)
    tree.write(f"{path}/config", b"\xff" * 64)
    assert only(tree).header_type is None


def test_vanishing_and_failing_attributes(tree: Tree) -> None:
    path = tree.pci("0000:01:00.0", "10de:1200", 0x030000)
    tree.pci("0000:02:00.0", "10de:1201", 0x030000)
    tree.link("sys/bus/pci/devices/0000:03:00.0", "../../../gone")
    for name in ("power_state", "numa_node", "config", "revision"):
        (tree.root / path / name).unlink()
        tree.directory(f"{path}/{name}")  # reading it is EISDIR, as good as EIO
    first, second = read_pci(tree.root)
    assert (first.power_state, first.numa_node, first.header_type) == (None, None, None)
    assert second.id == "10de:1201"


def test_storage_behind_ahci_and_virtio(tree: Tree) -> None:
    sata = tree.pci("0000:00:11.0", "1002:4391", 0x010601, driver="ahci")
    tree.disk(f"{sata}/ata3/host2/target2:0:0/2:0:0:0", "sdc", "8:32", 100, {"sdc6": ("8:38", 10)})
    tree.char(f"{sata}/ata3/host2/target2:0:0/2:0:0:0/scsi_generic/sg2", "21:2")
    tree.char(f"{sata}/ata3/host2/target2:0:0/2:0:0:0/bsg/2:0:0:0", "251:2")
    virtio = tree.pci("0000:00:12.0", "1af4:1042", 0x018000, driver="virtio-pci")
    tree.disk(f"{virtio}/virtio1", "vda", "254:0", 100)
    first, second = read_pci(tree.root)
    assert first.nodes == ("sdc", "sdc6", "sg2")
    assert second.nodes == ("vda",)


@pytest.mark.parametrize("below", ["nvme0n1", "nvme0c1n1"])
def test_nvme_namespaces(tree: Tree, below: str) -> None:
    path = tree.pci("0000:04:00.0", "1b36:0010", 0x010802, driver="nvme")
    tree.char(f"{path}/nvme/nvme0", "244:0")
    tree.char(f"{path}/nvme/nvme0/ng0n1", "245:0")
    where = f"{path}/nvme/nvme0/{below}"
    tree.directory(where)
    tree.link(f"sys/class/block/{below}", f"../../../{where}")
    assert only(tree).nodes == ("ng0n1", "nvme0", "nvme0n1")


def test_usb_controller(tree: Tree) -> None:
    path = tree.pci("0000:00:14.0", "8086:a36d", 0x0C0330, driver="xhci_hcd")
    tree.char(f"{path}/usb1", "189:0")
    tree.char(f"{path}/usb1/1-4", "189:3")
    tree.char(f"{path}/usb2/2-1", "189:129")
    hid = f"{path}/usb1/1-4/1-4:1.0/0003:046D:C52B.0002"
    tree.char(f"{hid}/hidraw/hidraw1")
    tree.char(f"{hid}/input/input7/event3", "13:67")
    for name in ("usbmisc/hiddev0", "usbmisc/cdc-wdm0", "ttyUSB0/tty/ttyUSB0", "media0",
                 "dvb/dvb1.frontend0", "sound/card2/pcmC2D0c"):
        tree.char(f"{path}/usb1/1-4/1-4:1.1/{name}")
    tree.char("sys/devices/virtual/tty/tty1", "4:1")
    tree.link_up("enx1", 7, below=f"{path}/usb1/1-4/1-4:1.2")
    assert set(only(tree).nodes) == {
        "bus/usb/001/001", "bus/usb/001/004", "bus/usb/002/002", "hidraw1", "net/enx1",
        "input/event3", "usb/hiddev0", "cdc-wdm0", "ttyUSB0", "media0", "dvb/adapter1/frontend0",
        "snd/pcmC2D0c",
    }


@pytest.mark.parametrize(("target", "addresses"), [
    ("../../devices/pci0000:00/0000:00:1c.0/0000:03:00.0/host0/port-0:0", ("0000:03:00.0",)),
    ("../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme0",
     ("0000:00:0e.0", "10000:e1:00.0")),
    ("../../devices/virtual/block/dm-0", ()), ("../../devices/platform/x/0:0:0:0", ()), ("", ()),
])
def test_carriers(target: str, addresses: tuple[str, ...]) -> None:
    assert carriers(target) == addresses


def test_functions_below_a_bridge_are_not_its_own(tree: Tree) -> None:
    path = tree.pci("0000:00:01.0", "8086:0151", 0x060400, driver="pcieport", header_type=1)
    tree.char(f"{path}/0000:01:00.0/drm/card0")
    assert only(tree).nodes == ()


def test_nvidia_node(tree: Tree) -> None:
    path = tree.pci("0000:01:00.0", "10de:2204", 0x030000, driver="nvidia")
    tree.drm(path, 0)
    tree.write(
        "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t RTX\nDevice Minor: \t 1"
    )
    assert only(tree).nodes == ("dri/card0", "nvidia1")


ALIASES = """\
alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v000015B3d*sv*sd*bc*sc*i* other_vfio
alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci
alias vfio_pci:v00008086d00004940sv*sd*bc*sc*i* qat_vfio_pci"""


@pytest.mark.parametrize(
    ("device", "driver"),
    [("15b3:101e", "mlx5_vfio_pci"), ("15b3:9999", "other_vfio"), ("10de:1200", "vfio-pci"),
     ("8086:4940", "qat-vfio")],
)
def test_variant_driver(tree: Tree, device: str, driver: str) -> None:
    tree.write("lib/modules/6.1/modules.alias", ALIASES)
    tree.directory("sys/module/qat_vfio_pci/drivers/pci:qat-vfio")  # its driver's own name
    tree.pci("0000:01:00.0", device, 0x020000)
    (found,) = read_pci(tree.root, release="6.1")
    assert found.vfio_driver == driver
    modules = {"vfio-pci": "", "qat-vfio": "qat_vfio_pci"}
    assert found.vfio_module == modules.get(driver, driver)
    assert only(tree).vfio_driver == "vfio-pci"  # without a release nobody looked


@pytest.mark.parametrize("text", [None, b"", b"alias vfio_pci:", b"alias vfio_pci:v* \n"])
def test_no_or_garbled_modules_alias(tree: Tree, text: bytes | None) -> None:
    if text is not None:
        tree.write("lib/modules/6.1/modules.alias", text)
    modalias = "pci:v000010DEd00001200sv00000000sd00000000bc03sc00i00"
    variants = read_variants(tree.root, "6.1")
    assert match_variant(str(tree.root), variants, modalias) == ("vfio-pci", "")


def test_no_pci_at_all(tree: Tree) -> None:
    assert read_pci(tree.root) == ()


def test_this_host() -> None:
    for device in read_pci():
        assert parse_pci_address(device.address) == device.address
        assert device.id == device.id.lower()
