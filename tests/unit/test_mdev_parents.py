"""A card that mediated devices were made on stays with its driver, which would take them along."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.cli.devices import group_text
from qlaunch.errors import HostError, StuckError
from qlaunch.facts.holders import is_vital, with_holders
from qlaunch.facts.model import Holder, HostFacts, PciDevice
from qlaunch.facts.pci import read_pci
from qlaunch.facts.probe import read_snapshot
from qlaunch.host.pci import TakeDeviceHandler, bind_to, release_device
from qlaunch.host.sysfs import guarded_write
from qlaunch.plan.handover import groups, obstacles
from qlaunch.plan.steps import TakeDevice
from qlaunch.run import manual
from qlaunch.values import PciAddress, PciId
from tests.fake.kernel_tree import snapshot
from tests.fake.kernel_vgpu import VgpuKernel
from tests.fake.plans import device, host, planned, said
from tests.fake.trees import PCI, Tree
from tests.fake.vgpu_hosts import gvt

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

DATA = Path(__file__).parents[1] / "data/facts"
GPU = PciAddress("0000:00:02.0")
UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"
TAKE = TakeDevice(address=GPU)
HANDLER = TakeDeviceHandler()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[VgpuKernel]:
    kernel = VgpuKernel(tmp_path / "root")
    kernel.add_driver("vfio-pci")
    kernel.add_driver("xe")
    kernel.add_device(GPU, ids="8086:5917", driver="i915", matches="xe")
    kernel.add_parent(GPU, {"i915-GVTg_V5_8": 1}, pool=2)
    yield kernel
    kernel.release()


def make(kernel: VgpuKernel) -> None:
    path = kernel.device(GPU) / "mdev_supported_types/i915-GVTg_V5_8/create"
    kernel.write(path, UUID.encode())


class TestTheFakeUnbind:
    PATH = "sys/bus/pci/drivers/i915/unbind"

    def test_takes_an_idle_one_with_it(self, kernel: VgpuKernel) -> None:
        make(kernel)
        kernel.write(kernel.root / self.PATH, GPU.encode())
        assert kernel.mdevs() == []
        assert not (kernel.device(GPU) / "mdev_supported_types").exists()
        kernel.write(kernel.root / "sys/bus/pci/drivers/i915/bind", GPU.encode())
        make(kernel)
        assert kernel.mdevs() == [UUID]

    def test_waits_for_one_that_is_open(self, kernel: VgpuKernel) -> None:
        make(kernel)
        group = kernel.group_of(UUID)
        kernel.open_group(group)
        with pytest.raises(StuckError):
            guarded_write(kernel.host(deadline=0.3), kernel.root / self.PATH, GPU, "unbinding")
        assert kernel.driver_of(GPU) == "i915"
        kernel.close_group(group)


class TestTaking:
    @pytest.mark.parametrize("opened", [False, True])
    def test_one_that_came_since_the_plan_keeps_the_card(
        self, kernel: VgpuKernel, opened: bool
    ) -> None:
        make(kernel)
        if opened:
            kernel.open_group(kernel.group_of(UUID))
        before, there = snapshot(kernel.root), kernel.host()
        captured = HANDLER.capture(there, TAKE)
        with pytest.raises(HostError, match="mediated devices were made on it") as caught:
            HANDLER.apply(there, TAKE, captured)
        assert UUID in str(caught.value)
        hint = f"qlaunch devices {GPU} tells" if opened else f"qlaunch vgpu remove {UUID}"
        assert hint in str(caught.value)
        assert snapshot(kernel.root) == before

    def test_by_hand(self, kernel: VgpuKernel, tmp_path: Path,
                     monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manual, "telling", lambda _: kernel.host())
        make(kernel)
        kernel.write(kernel.device(GPU) / "driver_override", b"i915")
        before = snapshot(kernel.root, ("sys/bus", "sys/devices"))
        card = device("00:02.0", "8086:5917", driver="i915", subsystem=PciId("1af4:1100"))
        for act in (
            lambda: manual.bind(str(tmp_path / "base"), [card], print),
            lambda: manual.unbind(str(tmp_path / "base"), [card], "xe", print),
            lambda: release_device(kernel.host(), GPU, "xe"),
        ):
            with pytest.raises(HostError, match="mediated devices"):
                act()
            assert snapshot(kernel.root, ("sys/bus", "sys/devices")) == before

    def test_whatever_unbinds_it_looks_again(self, kernel: VgpuKernel) -> None:
        make(kernel)
        with pytest.raises(HostError, match="mediated devices"):
            bind_to(kernel.host(), GPU, "xe")
        assert kernel.driver_of(GPU) == "i915"

    def test_without_one_it_goes_and_comes_back(self, kernel: VgpuKernel) -> None:
        before, there = snapshot(kernel.root), kernel.host()
        captured = HANDLER.capture(there, TAKE)
        HANDLER.apply(there, TAKE, captured)
        assert kernel.driver_of(GPU) == "vfio-pci"
        HANDLER.undo(there, TAKE, captured)
        assert snapshot(kernel.root) == before


IDLE = Holder(kind="mdev", what=f"{UUID} (i915-GVTg_V5_8)",
              remedy=f"when nothing needs it: qlaunch vgpu remove {UUID}")
OPEN = replace(IDLE, pid=812, command="qemu-system-x86", remedy="qlaunch stop win10")


def card(*holders: Holder, looked: bool = True) -> HostFacts:
    found = device("04:00.0", "8086:5917", group=9, mdevs=(UUID,), holders=holders)
    return host(found if looked else replace(found, holders=None))


class TestPlanning:
    @pytest.mark.parametrize(("facts", "message", "hint"), [
        (card(IDLE), f"{UUID} (i915-GVTg_V5_8)", f"qlaunch vgpu remove {UUID}"),
        (card(OPEN), f"{UUID} (i915-GVTg_V5_8), which qemu-system-x86 (pid 812) has open",
         "qlaunch stop win10"),
        (card(looked=False), UUID, f"qlaunch vgpu remove {UUID}"),
    ])
    def test_it_is_refused_by_name(self, facts: HostFacts, message: str, hint: str) -> None:
        plan = planned('[[pci]]\ndevice = "04:00.0"\n', facts)
        (problem,) = (p for p in plan.problems if p.severity == "error")
        assert problem.message == f"0000:04:00.0 carries the mediated device {message}"
        assert hint in problem.hint
        found = facts.device("0000:04:00.0")
        assert found is not None
        assert [p.message for p in obstacles(facts, [found], force=True)
                if p.severity == "error"] == [problem.message]
        (text,) = (t for t in map(group_text, groups(facts)) if t.startswith("group 9:"))
        assert "cannot be handed over" in text

    def test_a_wish_for_the_whole_card_is_passed_over(self) -> None:
        laptop = read_snapshot(DATA / "gvt-laptop.json")
        facts = replace(laptop, pci=tuple(
            replace(d, holders=(IDLE,), mdevs=(UUID,)) if d.address == GPU else d
            for d in laptop.pci or ()
        ))
        wish = '[[vgpu]]\nany = [{pci = "8086:5917"}, {type = "GVTg_V5_4"}]\n'
        plan = planned(wish, facts)
        assert said(plan) == []
        assert (plan.cards, [v.kind for v in plan.vgpus]) == ((), ["mdev"])
        (note,) = (p for p in plan.problems if p.where == "vgpu[0].any")
        assert f"carries the mediated device {UUID}" in note.found


def made(tree: Tree) -> None:
    """As i915 has it, in a group of its own."""
    path = f"{PCI}/{GPU}/{UUID}"
    tree.link(f"{path}/mdev_type", "../mdev_supported_types/i915-GVTg_V5_8")
    tree.link(f"{path}/iommu_group", "../../../../kernel/iommu_groups/51")
    tree.link(f"sys/bus/mdev/devices/{UUID}", f"../../../../{path}")


def looked(tree: Tree) -> PciDevice:
    return next(d for d in with_holders(tree.root, read_pci(tree.root)) if d.address == GPU)


class TestFacts:
    def test_an_idle_one(self, tmp_path: Path) -> None:
        tree = gvt(tmp_path)
        assert looked(tree).mdevs == ()
        made(tree)
        found = looked(tree)
        assert found.mdevs == (UUID,)
        assert IDLE in (found.holders or ())
        assert not is_vital(IDLE)

    def test_a_guest_has_it_open(self, tmp_path: Path) -> None:
        tree = gvt(tmp_path)
        made(tree)
        tree.process(812, "qemu-system-x86", "/", ["/dev/vfio/51"])
        (holder,) = (h for h in looked(tree).holders or () if h.kind == "mdev")
        assert (holder.pid, holder.what) == (812, IDLE.what)
        assert "shut down the machine" in holder.remedy

    def test_a_machine_has_claimed_it(self, tmp_path: Path) -> None:
        """Before its QEMU has it open, and when that cannot be seen."""
        tree = gvt(tmp_path)
        made(tree)
        claim = tree.write(f"run/qlaunch/.claims/{UUID}", '{"name":"win10","pid":7}')
        with claim.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (holder,) = (h for h in looked(tree).holders or () if h.kind == "mdev")
            assert holder.what == f"{IDLE.what} of the machine win10"
            assert holder.remedy == "qlaunch stop win10"
        (holder,) = (h for h in looked(tree).holders or () if h.kind == "mdev")
        assert holder.what == f"{IDLE.what} that win10 left"
        assert holder.remedy == "qlaunch recover win10"
