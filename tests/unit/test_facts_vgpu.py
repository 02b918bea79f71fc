"""What sysfs says of mediated devices, virtual functions and NVIDIA's types, on recorded trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.codec import from_json, to_json
from qlaunch.facts.vgpu import nvidia_memory, read_vgpu
from qlaunch.facts.vgpu_model import MdevType, NvidiaType, VgpuFacts
from qlaunch.run.claims import Owner, drop_claims, take_claims
from tests.fake.trees import Tree
from tests.fake.vgpu_hosts import ada, gvt, mdev_type

MIB, GIB = 1 << 20, 1 << 30


def test_a_host_without_any_of_it(tmp_path: Path) -> None:
    assert read_vgpu(tmp_path) == VgpuFacts()


def test_a_laptop_with_gvt_g(tmp_path: Path) -> None:
    gvt(tmp_path)
    facts = read_vgpu(tmp_path)
    [parent] = facts.parents
    assert (parent.name, parent.address) == ("0000:00:02.0", "0000:00:02.0")
    four = next(t for t in parent.types if t.id == "i915-GVTg_V5_4")
    assert four == MdevType(
        id="i915-GVTg_V5_4", name="GVTg_V5_4", api="vfio-pci", available=1,
        description=four.description, memory=640 * MIB, heads=1, width=1920, height=1200,
    )
    assert facts.parameters == {
        "i915.enable_gvt": "Y", "i915.enable_guc": "0", "kvm.ignore_msrs": "Y",
    }
    assert {"i915", "kvmgt", "mdev"} <= set(facts.modules)
    assert from_json(to_json(facts), VgpuFacts) == facts


def test_an_ada_server(tmp_path: Path) -> None:
    ada(tmp_path)
    facts = read_vgpu(tmp_path)
    assert facts.parents == ()
    card = next(s for s in facts.sriov if s.address == "0000:41:00.0")
    assert (card.offset, card.stride, card.vf_id) == (4, 1, "10de:26b1")
    first = facts.nvidia[0]
    assert (first.address, first.current) == ("0000:41:00.4", 559)
    assert first.creatable == ()
    assert NvidiaType(559, "NVIDIA RTX6000-Ada-16Q", 16 * GIB) in facts.nvidia[1].creatable


@pytest.mark.parametrize(
    ("description", "memory", "heads", "size"),
    [
        ("num_heads=4, frl_config=60, framebuffer=2048M, max_resolution=5120x2880, "
         "max_instance=12", 2 * GIB, 4, (5120, 2880)),
        ("virtual display, 1920x1080 framebuffer", None, 1, (1920, 1080)),
        ("virtual display, 16 MB video memory", 16 * MIB, None, (None, None)),
        (None, None, None, (None, None)),
    ],
)
def test_each_drivers_own_words(
    tmp_path: Path, description: str | None, memory: int | None, heads: int | None,
    size: tuple[int | None, int | None],
) -> None:
    tree = Tree(tmp_path)
    mdev_type(tree, "sys/devices/virtual/x/x", "x-1", 3, description=description)
    tree.link("sys/class/mdev_bus/x", "../../devices/virtual/x/x")
    [kind] = read_vgpu(tmp_path).parents[0].types
    assert (kind.memory, kind.heads, (kind.width, kind.height)) == (memory, heads, size)
    assert kind.name == "x-1"
    assert kind.available == 3


def test_a_device_that_is_there(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    uuid = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"
    mdev_type(tree, "sys/devices/virtual/mdpy/mdpy", "mdpy-vga", 3)
    tree.link("sys/class/mdev_bus/mdpy", "../../devices/virtual/mdpy/mdpy")
    made = f"sys/devices/virtual/mdpy/mdpy/{uuid}"
    tree.link(f"{made}/mdev_type", "../mdev_supported_types/mdpy-vga")
    tree.link(f"{made}/iommu_group", "../../../../../kernel/iommu_groups/7")
    tree.link(f"sys/bus/mdev/devices/{uuid}", f"../../../../{made}")
    [found] = read_vgpu(tmp_path).mdevs
    assert (found.uuid, found.parent, found.type, found.group) == (uuid, "mdpy", "mdpy-vga", 7)


@pytest.mark.parametrize(
    ("name", "memory"),
    [("NVIDIA RTX6000-Ada-8Q", 8 * GIB), ("GRID M60-0B", GIB // 2), ("NVIDIA A40-48C", 48 * GIB),
     ("NVIDIA L4-2B4", 2 * GIB), ("mdpy-hd", None), ("NVIDIA RTX6000-Ada", None)],
)
def test_the_memory_in_nvidias_names(name: str, memory: int | None) -> None:
    assert nvidia_memory(name) == memory


def test_functions_get_the_variant_driver_that_modules_alias_names(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("proc/sys/kernel/osrelease", "6.8.0")
    tree.pci("0000:05:00.0", "15b3:101d", 0x020000, driver="mlx5_core", group=5,
             sriov_totalvfs="4", sriov_numvfs="0", sriov_offset="2", sriov_stride="1",
             sriov_vf_device="101e")
    tree.write(
        "lib/modules/6.8.0/modules.alias",
        "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n"
        "alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci",
    )
    [found] = read_vgpu(tmp_path).sriov
    assert found.vfio_driver == "mlx5_vfio_pci"
    assert found.vf_id == "15b3:101e"


def test_what_living_machines_have_claimed(tmp_path: Path) -> None:
    """A dead one's claim is no obstacle: it is recovered at the next start; but it is known."""
    base = tmp_path / "run/qlaunch"
    base.mkdir(parents=True)
    claims = take_claims(str(base), Owner("win10", 7), ["0000:41:00.5", "0000:41:00.6"])
    assert read_vgpu(tmp_path).claims == {"0000:41:00.5": "win10", "0000:41:00.6": "win10"}
    assert read_vgpu(tmp_path).left == {}
    drop_claims(claims, keep_files=True)
    assert read_vgpu(tmp_path).claims == {}
    assert read_vgpu(tmp_path).left == {"0000:41:00.5": "win10", "0000:41:00.6": "win10"}
    drop_claims(take_claims(str(base), Owner("win10", 7), ["0000:41:00.5"]))
    assert read_vgpu(tmp_path).left == {"0000:41:00.6": "win10"}
