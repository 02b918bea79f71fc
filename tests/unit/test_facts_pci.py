"""PCI functions from recorded trees: ids, groups, overrides, what they carry, variant drivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.facts.model import PciDevice
from qlaunch.facts.pci import match_variant, read_pci, read_variants
from qlaunch.values import parse_pci_address
from tests.fake.trees import Tree, card_on_ioh3420


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
    assert only(tree).driver_override == value


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
    physical, virtual = read_pci(tree.root)
    assert (physical.sriov_total, physical.sriov_count, physical.numa_node) == (2, 1, 1)
    assert virtual.physfn == "0000:04:00.0"


def test_ids_without_uevent(tree: Tree) -> None:
    tree.pci("0000:01:00.0", "10de:1200", 0x030000, subsystem="1462:2380", uevent=False)
    device = only(tree)
    assert (device.id, device.subsystem) == ("10de:1200", "1462:2380")
    assert device.class_code == 0x030000
    assert device.modalias.startswith("pci:v000010DEd00001200")


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
    tree.directory(f"{sata}/ata3/host2/target2:0:0/2:0:0:0/scsi_generic/sg2")
    virtio = tree.pci("0000:00:12.0", "1af4:1042", 0x018000, driver="virtio-pci")
    tree.disk(f"{virtio}/virtio1", "vda", "254:0", 100)
    first, second = read_pci(tree.root)
    assert first.nodes == ("sdc", "sdc6", "sg2")
    assert second.nodes == ("vda",)


@pytest.mark.parametrize(
    ("below", "node"), [("nvme0n1", "nvme0n1"), ("nvme0c1n1", "nvme0n1"), ("nvme12", "nvme12")]
)
def test_nvme_namespaces(tree: Tree, below: str, node: str) -> None:
    path = tree.pci("0000:04:00.0", "1b36:0010", 0x010802, driver="nvme")
    tree.directory(f"{path}/nvme/nvme0/{below}/{below}p1")
    assert only(tree).nodes == tuple(sorted(("nvme0", node, f"{below}p1")))


def test_usb_controller(tree: Tree) -> None:
    path = tree.pci("0000:00:14.0", "8086:a36d", 0x0C0330, driver="xhci_hcd")
    tree.write(f"{path}/usb1/uevent", "DEVTYPE=usb_device\nDEVNAME=bus/usb/001/001")
    tree.write(f"{path}/usb1/1-4/uevent", "DEVNAME=bus/usb/001/004")
    tree.write(f"{path}/usb1/1-4/1-4:1.0/uevent", "DEVNAME=not/a/node")
    tree.directory(f"{path}/usb1/1-4/1-4:1.0/0003:046D:C52B.0002/hidraw/hidraw1")
    tree.directory(f"{path}/usb1/1-4/1-4:1.1/net/enx1")
    tree.directory(f"{path}/usb1/1-4/power/hidraw/hidraw9")  # not a way the kernel takes
    assert only(tree).nodes == ("bus/usb/001/001", "bus/usb/001/004", "hidraw1", "net/enx1")


def test_functions_below_a_bridge_are_not_its_own(tree: Tree) -> None:
    path = tree.pci("0000:00:01.0", "8086:0151", 0x060400, driver="pcieport", header_type=1)
    tree.directory(f"{path}/0000:01:00.0/drm/card0")
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
        assert device.driver_override != "(null)"
        assert device.id == device.id.lower()
