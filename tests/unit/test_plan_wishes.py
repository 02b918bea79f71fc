"""A list of wishes takes the first that can be planned without a fault, and says of a slice only
what QEMU takes for it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from qlaunch.facts.model import HostFacts, Iommu, PciDevice
from qlaunch.facts.probe import read_snapshot
from qlaunch.facts.vgpu_model import MdevParent, MdevType, VgpuFacts
from qlaunch.plan.model import Plan
from tests.fake.plans import VGA, device, host, planned, said
from tests.fake.snapshots import qemu100
from tests.unit.test_plan_vgpu import DATA, NVME, changed, options, sriov_host


@pytest.fixture(scope="module")
def laptop() -> HostFacts:
    return read_snapshot(DATA / "gvt-laptop.json")


@pytest.fixture(scope="module")
def server() -> HostFacts:
    return read_snapshot(DATA / "ada-server.json")


def note(plan: Plan) -> str:
    """Why the wishes before the granted one were refused."""
    [found] = [p.found for p in plan.problems
               if p.where == "vgpu[0].any" and p.severity == "note"]
    return found


def with_devices(facts: HostFacts, *more: PciDevice) -> HostFacts:
    return replace(facts, pci=(*(facts.pci or ()), *more))


class TestTheNextHasItsTurn:
    def test_a_function_without_an_iommu(self) -> None:
        facts = replace(sriov_host(), iommu=Iommu(enabled=False, reason="off in the BIOS"),
                        qemu=qemu100())
        plan = planned('[[vgpu]]\nany = [{vf = "1b36:0010"}, {virtio = "venus"}]\n'
                       '[display]\ntype = "gtk"\n', facts)
        assert said(plan) == []
        assert plan.vgpus == ()
        assert plan.profile.display.vga == "venus"
        assert "this host's IOMMU is off" in note(plan)

    def test_a_function_that_shares_its_group(self) -> None:
        mate = device("04:00.0", "8086:10d3", 0x020000, driver="e1000e", group=30)
        vf = device("03:00.1", "1b36:0010", NVME, group=30, driver=None,
                    physfn=device("03:00.0").address)
        facts = replace(sriov_host(1, vf, mate), qemu=qemu100())
        plan = planned('[[vgpu]]\nany = [{vf = "1b36:0010"}, {virtio = "venus"}]\n'
                       '[display]\ntype = "gtk"\n', facts)
        assert said(plan) == []
        assert "IOMMU group 30 of 0000:03:00.1 also holds 0000:04:00.0" in note(plan)

    def test_a_card_that_shares_its_group(self, laptop: HostFacts) -> None:
        card = device("01:00.0", "10de:2684", VGA, group=70)
        disk = device("05:00.0", "144d:a808", NVME, group=70, driver="nvme")
        text = '[[vgpu]]\nany = [{pci = "10de:2684"}, {type = "i915-GVTg_V5_4"}]\n'
        plan = planned(text, with_devices(laptop, card, disk))
        assert said(plan) == []
        assert [v.type for v in plan.vgpus] == ["i915-GVTg_V5_4"]
        assert "also holds 0000:05:00.0" in note(plan)
        plan = planned(text, with_devices(laptop, card))
        assert [c.address for c in plan.cards] == [card.address]

    @pytest.mark.parametrize("shown", ["vnc", "none"])
    def test_a_screen_that_cannot_be_shown(self, laptop: HostFacts, shown: str) -> None:
        kind = MdevType(id="mdpy-vga", api="vfio-pci", available=1)
        assert laptop.vgpu is not None
        facts = changed(laptop, parents=(*laptop.vgpu.parents,
                                         MdevParent(name="mdpy", types=(kind,))))
        text = ('[[vgpu]]\nany = [{type = "GVTg_V5_4"}, {type = "mdpy-vga"}]\ndisplay = true\n'
                f'[display]\ntype = "{shown}"\n')
        plan = planned(text, facts)
        assert said(plan) == []
        assert [v.type for v in plan.vgpus] == ["mdpy-vga"]
        assert "DMA buffer" in note(plan)
        assert plan.vgpus[0].display == "on"

    def test_a_device_that_this_qemu_lacks(self, laptop: HostFacts) -> None:
        """ramfb is another of QEMU's devices."""
        assert laptop.qemu is not None
        devices = {*laptop.qemu.devices} - {"vfio-pci-nohotplug"}
        facts = replace(laptop, qemu=replace(laptop.qemu, devices=tuple(devices)))
        card = device("01:00.0", "10de:2684", VGA, group=70)
        plan = planned('[[vgpu]]\nany = [{type = "GVTg_V5_4"}, {pci = "10de:2684"}]\n'
                       'display = true\nramfb = true\n[display]\ntype = "spice"\n',
                       with_devices(facts, card))
        assert said(plan) == []
        assert [c.address for c in plan.cards] == [card.address]
        assert "no device vfio-pci-nohotplug" in note(plan)

    def test_what_is_refused_is_left_for_other_tables(self, laptop: HostFacts) -> None:
        """The only instance of its type was not used up by the refused wish."""
        text = ('[[vgpu]]\nany = [{type = "GVTg_V5_4"}]\ndisplay = true\n'
                '[[vgpu]]\ntype = "GVTg_V5_4"\n[display]\ntype = "vnc"\n')
        plan = planned(text, laptop)
        assert [v.key for v in plan.vgpus] == ["vgpu[1]"]
        assert said(plan) == ["vgpu[0].any: this host can give none of these"]

    def test_a_fault_of_something_else_refuses_no_wish(self, laptop: HostFacts) -> None:
        text = ('[[pci]]\ndevice = "1234:5678"\n[[vgpu]]\nany = [{type = "GVTg_V5_4"}, '
                '{type = "GVTg_V5_8"}]\n')
        plan = planned(text, laptop)
        assert said(plan) == ["pci[0].device: this host has no such PCI device"]
        assert [v.type for v in plan.vgpus] == ["i915-GVTg_V5_4"]


class TestTwins:
    TEXT = '[[vgpu]]\nany = [{pci = "10de:2684"}, {vf = "1b36:0010"}]\n'
    FIRST = device("01:00.0", "10de:2684", VGA, group=70)
    SECOND = device("02:00.0", "10de:2684", VGA, group=71)
    MATE = device("05:00.0", "144d:a808", NVME, group=70, driver="nvme")

    def test_the_first_that_is_free(self) -> None:
        plan = planned(self.TEXT, with_devices(sriov_host(), self.FIRST, self.SECOND))
        assert said(plan) == []
        assert [c.address for c in plan.cards] == [self.FIRST.address]
        plan = planned(self.TEXT, with_devices(sriov_host(), self.FIRST, self.SECOND, self.MATE))
        assert said(plan) == []
        assert [c.address for c in plan.cards] == [self.SECOND.address]
        plan = planned(self.TEXT * 2, with_devices(sriov_host(), self.FIRST, self.SECOND))
        assert [c.address for c in plan.cards] == [self.FIRST.address, self.SECOND.address]

    def test_virtual_functions_of_the_cards_id_are_none(self, server: HostFacts) -> None:
        """They are NVIDIA's driver's, which makes vGPUs on them."""
        plan = planned('[[vgpu]]\nany = [{pci = "10de:26b1"}, {type = "557"}]\n', server)
        assert said(plan) == []
        assert [v.kind for v in plan.vgpus] == ["nvidia-vf"]
        assert note(plan).endswith("0000:41:00.0 has 8 virtual functions switched on")

    def test_none_is_free(self) -> None:
        mate = replace(self.MATE, iommu_group=71)
        facts = with_devices(sriov_host(), self.FIRST, self.SECOND, mate)
        plan = planned(self.TEXT, changed(facts, claims={self.FIRST.address: "other"}))
        assert [v.kind for v in plan.vgpus] == ["vf"]
        assert "none of the 2 such devices can be had" in note(plan)
        assert "0000:01:00.0: it is in use by the machine other" in note(plan)
        assert "0000:02:00.0: IOMMU group 71" in note(plan)


class TestKeysOfTheScreen:
    KEYS = 'display = true\nramfb = true\nigd_opregion = true\nxres = 1920\nyres = 1080\n'
    SHOWN = '[display]\ntype = "spice"\n'

    def planned(self, wishes: str, facts: HostFacts) -> Plan:
        return planned(f"[[vgpu]]\n{wishes}\n{self.KEYS}{self.SHOWN}", facts)

    def left_out(self, plan: Plan) -> set[str]:
        return {p.where for p in plan.problems if p.severity == "note" and "left out" in p.message}

    def test_gvt_g_takes_all(self, laptop: HostFacts) -> None:
        plan = self.planned('any = [{type = "GVTg_V5_4"}]', laptop)
        assert self.left_out(plan) == set()
        assert "display=on,ramfb=on,x-igd-opregion=on,xres=1920,yres=1080" in options(plan)[0]

    def test_a_virtual_function_takes_none(self) -> None:
        plan = self.planned('any = [{type = "x"}, {vf = "1b36:0010"}]', sriov_host())
        assert said(plan) == []
        assert self.left_out(plan) == {"vgpu[0].igd_opregion"}
        assert options(plan) == [
            "-device vfio-pci,host=0000:03:00.1,id=vgpu0,bus=pcie.0,addr=14.0"
        ]

    def test_nvidias_function_may_have_a_console(self, server: HostFacts) -> None:
        plan = self.planned('any = [{type = "x"}, {type = "557"}]', server)
        assert said(plan) == []
        assert self.left_out(plan) == {
            "vgpu[0].igd_opregion", "vgpu[0].ramfb", "vgpu[0].xres"}
        assert options(plan) == [
            "-device vfio-pci,host=0000:41:00.5,id=vgpu0,bus=pcie.0,addr=14.0,display=auto"
        ]
        direct = planned(f'[[vgpu]]\ntype = "557"\ndisplay = true\nramfb = true\n{self.SHOWN}',
                         server)
        assert said(direct) == []
        assert "display=auto,ramfb=on" in options(direct)[0]

    def test_only_intels_mediated_devices_have_an_opregion(
        self, laptop: HostFacts, server: HostFacts
    ) -> None:
        kind = MdevType(id="mdpy-vga", api="vfio-pci", available=1)
        facts = changed(laptop, parents=(MdevParent(name="mdpy", types=(kind,)),))
        plan = self.planned('any = [{type = "mdpy-vga"}]', facts)
        assert self.left_out(plan) == {"vgpu[0].igd_opregion", "vgpu[0].xres"}
        assert "display=on,ramfb=on" in options(plan)[0]
        assert "xres" not in options(plan)[0]
        for text, on in (('type = "mdpy-vga"', facts), ('type = "557"', server)):
            plan = planned(f"[[vgpu]]\n{text}\nigd_opregion = true\n", on)
            assert said(plan) == [
                "vgpu[0].igd_opregion: only a mediated device of Intel's graphics has an OpRegion"
            ]
            assert not any("x-igd-opregion=on" in line for line in options(plan))

    def test_nobody_looked(self) -> None:
        plan = planned('[[vgpu]]\ntype = "i915-GVTg_V5_4"\nigd_opregion = true\n',
                       replace(host(), pci=None))
        assert said(plan) == []
        assert "x-igd-opregion=on" in options(plan)[0]

    def test_a_wish_without_hardware_has_no_keys(self) -> None:
        facts = host(vgpu=VgpuFacts(), qemu=qemu100())
        plan = planned(f'[[vgpu]]\nany = [{{virtio = "virtio-gl"}}]\n{self.KEYS}'
                       '[display]\ntype = "gtk"\n', facts)
        assert said(plan) == []
        assert options(plan) == []
