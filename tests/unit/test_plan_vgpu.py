"""Which slice a table gets, why the others were not taken, and what is done for it on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import plan_options
from qlaunch.facts.model import Holder, HolderKind, HostFacts, Iommu, Kernel, PciDevice
from qlaunch.facts.probe import read_snapshot
from qlaunch.facts.vgpu_model import Mdev, MdevParent, MdevType, Sriov, VgpuFacts
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import CreateMdev, EnableVfs, LoadModule, SetVfNet, SetVgpuType, TakeDevice
from qlaunch.plan.vgpu_vf import vf_address
from qlaunch.values import PciAddress, PciId
from tests.fake.plans import NET, VGA, device, host, planned, said

DATA = Path(__file__).parents[1] / "data/facts"
MIB = 1 << 20
UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"


@pytest.fixture(scope="module")
def laptop() -> HostFacts:
    return read_snapshot(DATA / "gvt-laptop.json")


@pytest.fixture(scope="module")
def server() -> HostFacts:
    return read_snapshot(DATA / "ada-server.json")


def kinds(plan: Plan) -> list[str]:
    return [type(s).__name__ for s in plan.steps]


def options(plan: Plan, flag: str = "-device vfio") -> list[str]:
    lines = [" ".join(o.words) for o in plan_options(plan)]
    return [line for line in lines if line.startswith(flag)]


def changed(facts: HostFacts, **more: Any) -> HostFacts:
    """The host with other vGPU facts."""
    assert facts.vgpu is not None
    return replace(facts, vgpu=replace(facts.vgpu, **more))


class TestMediatedDevices:
    def test_gvt_g_as_its_source_has_it(self, laptop: HostFacts) -> None:
        plan = planned(
            f'guest = "windows10"\n[[vgpu]]\nkind = "mdev"\nparent = "00:02.0"\n'
            f'type = "i915-GVTg_V5_4"\nuuid = "{UUID.upper()}"\ndisplay = true\nramfb = true\n'
            'igd_opregion = true\nrom = false\n[display]\ntype = "spice"\n', laptop,
        )
        assert said(plan) == []
        assert said(plan, "warning") == []
        assert options(plan) == [
            f"-device vfio-pci-nohotplug,sysfsdev=/sys/bus/mdev/devices/{UUID},id=vgpu0,"
            "bus=pcie.0,addr=14.0,display=on,ramfb=on,x-igd-opregion=on,rombar=0"
        ]
        assert kinds(plan) == ["LoadModule", "CreateMdev", "OwnDeviceGroup"]
        assert plan.fd("claim", UUID)
        assert plan.memlock == (2 << 30) + (1 << 30)
        assert "gl=on" in options(plan, "-spice")[0]

    def test_the_uuid_is_derived_and_stays_the_same(self, laptop: HostFacts) -> None:
        text = '[[vgpu]]\ntype = "GVTg_V5_8"\n'
        first = planned(text, laptop).vgpus[0].name
        assert first == planned(text, laptop).vgpus[0].name == first.lower()
        two = planned(text + text, laptop)
        assert two.vgpus[0].name == first != two.vgpus[1].name
        assert two.vgpus[0].place != two.vgpus[1].place

    @pytest.mark.parametrize(
        ("wish", "kind"),
        [('memory = ">=512M"', "i915-GVTg_V5_4"), ('memory = ">=256M"', "i915-GVTg_V5_8"),
         ('resolution = ">=1920x1080"', "i915-GVTg_V5_4"), ('type = "GVTg_V5_8"', "i915-GVTg_V5_8"),
         ('memory = ">=256M"\nresolution = ">=1024x768"', "i915-GVTg_V5_8")],
    )
    def test_the_smallest_type_that_will_do(
        self, laptop: HostFacts, wish: str, kind: str
    ) -> None:
        plan = planned(f"[[vgpu]]\n{wish}\n", laptop)
        assert said(plan) == []
        assert plan.vgpus[0].type == kind

    def test_a_parent_alone_is_asked_which_type(self, laptop: HostFacts) -> None:
        plan = planned('[[vgpu]]\nparent = "00:02.0"\n', laptop)
        assert said(plan) == ["vgpu[0]: a slice of which type? 0000:00:02.0 makes several"]
        assert "i915-GVTg_V5_4" in plan.problems[0].found

    def test_too_much_is_wished(self, laptop: HostFacts) -> None:
        plan = planned('[[vgpu]]\nmemory = ">=4G"\n', laptop)
        assert said(plan) == ["vgpu[0]: no device of this host makes such a vGPU"]
        assert "i915-GVTg_V5_4 of 0000:00:02.0" in plan.problems[0].found
        assert plan.problems[0].allowed == "memory >=4096M"

    def test_the_last_instance_is_given_once(self, laptop: HostFacts) -> None:
        table = '[[vgpu]]\ntype = "i915-GVTg_V5_4"\n'
        plan = planned(table + table, laptop)
        assert said(plan) == ["vgpu[1]: no instance of this type is left"]

    def test_two_parents_share_the_load(self, laptop: HostFacts) -> None:
        def parent(name: str, left: int) -> MdevParent:
            kind = MdevType(id="mdpy-vga", api="vfio-pci", available=left, width=640, height=480)
            return MdevParent(name=name, types=(kind,))

        facts = changed(laptop, parents=(parent("a", 1), parent("b", 3)))
        plan = planned('[[vgpu]]\ntype = "mdpy-vga"\n', facts)
        assert plan.vgpus[0].parent == "b"
        plan = planned('[[vgpu]]\ntype = "mdpy-vga"\nparent = "a"\n', facts)
        assert plan.vgpus[0].parent == "a"

    def test_two_types_of_one_machine_go_to_two_parents(self, laptop: HostFacts) -> None:
        def parent(name: str, *left: int) -> MdevParent:
            return MdevParent(name=name, types=tuple(
                MdevType(id=f"mbochs-{n}", api="vfio-pci", available=count)
                for n, count in enumerate(left)
            ))

        two = '[[vgpu]]\ntype = "mbochs-0"\n[[vgpu]]\ntype = "mbochs-1"\n'
        facts = changed(laptop, parents=(parent("a", 16, 4), parent("b", 4, 4)))
        assert [v.parent for v in planned(two, facts).vgpus] == ["a", "b"]
        alone = planned(two, changed(laptop, parents=(parent("a", 16, 4),)))
        assert said(alone) == []
        step = [s for s in alone.steps if isinstance(s, CreateMdev)][1]
        assert step.why.endswith("beside this machine's other type, a can make about 3")
        full = planned(two, changed(laptop, parents=(parent("a", 4, 1),)))
        assert said(full) == ["vgpu[1]: no instance of this type is left"]

    def test_one_that_is_there_is_used(self, laptop: HostFacts) -> None:
        there = Mdev(uuid=UUID, parent="0000:00:02.0", type="i915-GVTg_V5_4", group=12)
        facts = changed(laptop, mdevs=(there,), parents=())
        text = f'[[vgpu]]\ntype = "i915-GVTg_V5_4"\nuuid = "{UUID}"\n'
        plan = planned(text, facts)
        [step] = [s for s in plan.steps if isinstance(s, CreateMdev)]
        assert step.existing
        plan = planned(text.replace("V5_4", "V5_8"), facts)
        assert said(plan) == [
            "vgpu[0]: a mediated device of this UUID is there already, and is another one"
        ]

    @pytest.mark.parametrize(
        ("parameters", "modules", "message", "hint"),
        [
            ({"i915.enable_gvt": "Y", "i915.enable_guc": "3"}, ("i915",),
             "GVT-g does not work with GuC submission", "i915.enable_guc=0"),
            ({"i915.enable_gvt": "N", "i915.enable_guc": "0"}, ("i915",),
             "GVT-g is switched off", "i915.enable_gvt=1"),
            ({}, ("i915",), "this kernel's i915 has no GVT-g", "CONFIG_DRM_I915_GVT"),
            ({"i915.enable_gvt": "Y"}, ("i915", "kvmgt"), "makes no vGPU although", "5th to 10th"),
        ],
    )
    def test_which_switch_of_gvt_g_is_missing(
        self, laptop: HostFacts, parameters: dict[str, str], modules: tuple[str, ...],
        message: str, hint: str,
    ) -> None:
        facts = changed(laptop, parents=(), parameters=parameters, modules=modules)
        plan = planned('[[vgpu]]\ntype = "i915-GVTg_V5_4"\n', facts)
        [problem] = plan.problems
        assert message in problem.message
        assert hint in problem.hint

    def test_kvmgt_is_loaded_when_that_is_all_that_is_missing(self, laptop: HostFacts) -> None:
        facts = changed(laptop, parents=(), parameters={"i915.enable_gvt": "Y"}, modules=("i915",))
        plan = planned('[[vgpu]]\ntype = "GVTg_V5_4"\n', facts)
        assert said(plan) == []
        assert [s.module for s in plan.steps if isinstance(s, LoadModule)] == [
            "vfio_iommu_type1", "kvmgt",
        ]
        assert plan.vgpus[0].type == "i915-GVTg_V5_4"

    @pytest.mark.parametrize(
        ("wish", "name"),
        [('memory = ">=512M"', "V5_4"), ('memory = ">=1G"', "V5_2"), ('memory = ">=1M"', "V5_8"),
         ('resolution = ">=1920x1080"', "V5_4")],
    )
    def test_a_wish_is_met_before_kvmgt_is_loaded_as_it_is_after(
        self, laptop: HostFacts, wish: str, name: str
    ) -> None:
        facts = changed(laptop, parents=(), parameters={"i915.enable_gvt": "Y"}, modules=("i915",))
        plan = planned(f"[[vgpu]]\n{wish}\n", facts)
        assert said(plan) == []
        assert "kvmgt" in [s.module for s in plan.steps if isinstance(s, LoadModule)]
        assert plan.vgpus[0].type == f"i915-GVTg_{name}"
        older = tuple(replace(d, id=PciId("8086:1616")) if d.id == "8086:5917" else d
                      for d in facts.pci or ())
        assert planned(f"[[vgpu]]\n{wish}\n", replace(facts, pci=older)).vgpus[0].type == (
            f"i915-GVTg_{name.replace('V5', 'V4')}"
        )
        plan = planned('[[vgpu]]\nresolution = ">=2560x1440"\n', facts)
        assert said(plan) == ["vgpu[0]: GVT-g has no type as large"]

    def test_every_switch_is_told_at_once(self, laptop: HostFacts) -> None:
        """Each costs a reboot."""
        facts = changed(laptop, parents=(), modules=("i915",), parameters={
            "i915.enable_gvt": "0", "i915.enable_guc": "3", "kvm.ignore_msrs": "N"})
        facts = replace(facts, iommu=Iommu(enabled=False, reason="intel_iommu=on is missing"))
        wish = 'type = "i915-GVTg_V5_4"'
        for text in (wish, f"any = [{{{wish}}}]", 'memory = ">=512M"'):
            plan = planned(f'guest = "windows10"\n[[vgpu]]\n{text}\n', facts)
            [problem] = [p for p in plan.problems if p.severity == "error"]
            told = f"{problem.message} {problem.found} {problem.hint}"
            assert "switched off" in told
            assert "GuC" in told
            assert "enable_gvt=0 i915.enable_guc=3" in told
            assert text != wish or "put i915.enable_gvt=1 i915.enable_guc=0 on" in problem.hint
            warned = said(plan, "warning")
            assert any("kvm.ignore_msrs" in text for text in warned)
            assert any("without an IOMMU" in text for text in warned)

    @pytest.mark.parametrize(("driver", "hint"), [
        (None, "modprobe i915"), ("vfio-pci", "qlaunch unbind 0000:00:02.0"),
    ])
    def test_another_driver_has_the_card(
        self, laptop: HostFacts, driver: str | None, hint: str
    ) -> None:
        pci = tuple(replace(d, driver=driver) if d.id == "8086:5917" else d
                    for d in laptop.pci or ())
        facts = replace(changed(laptop, parents=(), modules=()), pci=pci)
        [problem] = planned('[[vgpu]]\ntype = "i915-GVTg_V5_4"\n', facts).problems
        assert problem.message == (
            f"GVT-g is i915's, and 0000:00:02.0 is on {driver or 'no driver'}")
        assert problem.hint.startswith(hint)

    @pytest.mark.parametrize(("ident", "driver", "total", "hint"), [
        ("8086:46a6", "i915", 7, 'parent = "8086:46a6"'),  # Alder Lake
        ("8086:46a6", "xe", 7, 'parent = "8086:46a6"'),
        ("8086:a7a0", "i915", None, 'display.vga = "virtio-gl"'),  # Raptor Lake
        ("8086:8a52", "i915", None, 'display.vga = "virtio-gl"'),  # Ice Lake
        ("8086:0412", "i915", None, 'display.vga = "virtio-gl"'),  # Haswell
    ])
    def test_a_generation_without_gvt_g(
        self, laptop: HostFacts, ident: str, driver: str, total: int | None, hint: str
    ) -> None:
        """No switch of the kernel helps, so none is told, and the next wish has its turn."""
        pci = tuple(
            replace(d, id=PciId(ident), driver=driver, sriov_total=total)
            if d.id == "8086:5917" else d for d in laptop.pci or ()
        )
        for enabled in "YN":
            facts = changed(laptop, parents=(), parameters={"i915.enable_gvt": enabled},
                            modules=("i915",))
            facts = replace(facts, pci=pci, iommu=Iommu(enabled=False, reason="off"))
            plan = planned('guest = "windows10"\n[[vgpu]]\ntype = "i915-GVTg_V5_4"\n', facts)
            assert said(plan) == ["vgpu[0]: 0000:00:02.0 is of a generation that has no GVT-g"]
            assert hint in plan.problems[0].hint
            assert said(plan, "warning") == []
        text = '[[vgpu]]\nany = [{type = "i915-GVTg_V5_4"}, {vf = "1b36:0010"}]\n'
        card = next(d for d in pci if d.id == ident)
        facts = replace(sriov_host(), pci=(card, *(sriov_host().pci or ())[1:]))
        assert planned(text, facts).vgpus[0].kind == "vf"

    @pytest.mark.parametrize("ident", [
        "8086:1616", "8086:1912", "8086:5912", "8086:5a84", "8086:3e92", "8086:3ea0", "8086:87ca",
        "8086:9bc5",
    ])
    def test_a_generation_with_gvt_g(self, laptop: HostFacts, ident: str) -> None:
        facts = changed(laptop, parents=(), parameters={"i915.enable_gvt": "Y"}, modules=("i915",))
        newer = device("03:00.0", "8086:56a0", driver="i915")
        pci = tuple(replace(d, id=PciId(ident)) if d.id == "8086:5917" else d
                    for d in laptop.pci or ())
        plan = planned('[[vgpu]]\ntype = "GVTg_V5_4"\n', replace(facts, pci=(newer, *pci)))
        assert said(plan) == []
        assert plan.vgpus[0].parent == "0000:00:02.0"

    def test_a_wish_for_memory_is_not_only_gvt_gs(self, laptop: HostFacts) -> None:
        card = device("00:02.0", "8086:46a6", driver="i915")
        nvidia = device("41:00.0", "10de:2236", driver="nvidia", sriov_total=8, sriov_count=0)
        facts = replace(changed(laptop, parents=(), modules=("i915",)), pci=(card, nvidia))
        plan = planned('[[vgpu]]\nmemory = ">=1G"\n', facts)
        assert "sriov-manage -e 0000:41:00.0" in plan.problems[0].hint
        plan = planned('[[vgpu]]\nmemory = ">=1G"\n', replace(facts, pci=(card,)))
        assert said(plan) == ["vgpu[0]: 0000:00:02.0 is of a generation that has no GVT-g"]

    def test_types_that_are_there_are_believed(self, laptop: HostFacts) -> None:
        pci = tuple(replace(d, id=PciId("8086:46a6")) if d.id == "8086:5917" else d
                    for d in laptop.pci or ())
        assert said(planned('[[vgpu]]\ntype = "GVTg_V5_4"\n', replace(laptop, pci=pci))) == []

    def test_an_old_kernel_needs_vfio_mdev(self, laptop: HostFacts) -> None:
        facts = replace(laptop, kernel=Kernel(release="5.15.0-91-generic"))
        plan = planned('[[vgpu]]\ntype = "GVTg_V5_4"\n', facts)
        assert [s.module for s in plan.steps if isinstance(s, LoadModule)] == [
            "vfio_iommu_type1", "vfio_mdev",
        ]

    def test_windows_wants_ignore_msrs_and_everyone_an_iommu(self, laptop: HostFacts) -> None:
        facts = changed(laptop, parameters={"kvm.ignore_msrs": "N"})
        facts = replace(facts, iommu=Iommu(enabled=False, reason="intel_iommu=on is missing"))
        plan = planned('guest = "windows10"\n[[vgpu]]\ntype = "GVTg_V5_4"\n', facts)
        warned = said(plan, "warning")
        assert any("kvm.ignore_msrs" in text for text in warned)
        assert any("without an IOMMU" in text for text in warned)
        assert not any("ignore_msrs" in t for t in said(planned(
            'guest = "linux"\n[[vgpu]]\ntype = "GVTg_V5_4"\n', facts), "warning"))

    def test_a_host_with_nothing(self) -> None:
        plan = planned('[[vgpu]]\ntype = "x"\n', host(vgpu=VgpuFacts(), pci=()))
        assert said(plan) == ["vgpu[0]: no driver of this host offers mediated devices"]

    def test_nobody_looked(self) -> None:
        plan = planned('[[vgpu]]\ntype = "i915-GVTg_V5_4"\nparent = "00:02.0"\n')
        assert said(plan) == []
        assert plan.vgpus[0].kind == "mdev"


class TestScreens:
    TEXT = '[[vgpu]]\ntype = "GVTg_V5_4"\ndisplay = true\nigd_opregion = true\n'

    @pytest.mark.parametrize("shown", ["none", "vnc"])
    def test_a_dma_buffer_needs_opengl(self, laptop: HostFacts, shown: str) -> None:
        plan = planned(f'{self.TEXT}[display]\ntype = "{shown}"\n', laptop)
        assert "DMA buffer" in said(plan)[0]
        assert plan.problems[0].where == "vgpu[0].display"

    def test_opengl_that_is_switched_off(self, laptop: HostFacts) -> None:
        plan = planned(f'{self.TEXT}[display]\ntype = "spice"\ngl = false\n', laptop)
        assert "DMA buffer" in said(plan)[0]

    def test_memory_that_is_copied_needs_none(self, laptop: HostFacts) -> None:
        kind = MdevType(id="mdpy-vga", api="vfio-pci", available=1)
        facts = changed(laptop, parents=(MdevParent(name="mdpy", types=(kind,)),))
        plan = planned('[[vgpu]]\ntype = "mdpy-vga"\ndisplay = true\nxres = 800\nyres = 600\n'
                       '[display]\ntype = "vnc"\n', facts)
        assert said(plan) == []
        assert "display=on,xres=800,yres=600" in options(plan)[0]

    def test_cirrus_is_behind_the_vgpu(self, laptop: HostFacts) -> None:
        text = '[[vgpu]]\ntype = "GVTg_V5_4"\n{}[display]\nvga = "cirrus"\n'
        plan = planned(text.format(""), laptop)
        assert said(plan) == []
        where = plan.places["vgpu0"].addr, plan.places["vga"].addr
        assert where == ("14.0", "17.0")
        plan = planned(text.format('addr = "19"\n'), laptop)
        assert "a vGPU behind a Cirrus card crashes the guest" in said(plan)[0]

    def test_without_an_opregion_there_is_no_screen(self, laptop: HostFacts) -> None:
        plan = planned('[[vgpu]]\ntype = "GVTg_V5_4"\ndisplay = true\n[display]\ntype = "spice"\n',
                       laptop)
        assert any("OpRegion" in text for text in said(plan, "warning"))


NVME = 0x010802


def sriov_host(count: int = 0, *vfs: PciDevice, **more: Any) -> HostFacts:
    physical = device("03:00.0", "1b36:0010", NVME, driver="nvme", group=3, sriov_total=4,
                      sriov_count=count, **more)
    facts = VgpuFacts(sriov=(
        Sriov(address=physical.address, offset=1, stride=1, vf_id=PciId("1b36:0010")),
    ))
    return host(physical, *vfs, vgpu=facts)


def function(number: int, **more: Any) -> PciDevice:
    return device(f"03:00.{number + 1}", "1b36:0010", NVME, group=30 + number,
                  physfn=PciAddress("0000:03:00.0"), **({"driver": None} | more))


HELD = Holder(kind="vfio", what="/dev/vfio/30", pid=7, command="qemu")


class TestVirtualFunctions:
    TEXT = '[[vgpu]]\nkind = "vf"\nparent = "1b36:0010"\n'

    @pytest.mark.parametrize(
        ("physical", "offset", "stride", "number", "expected"),
        [("0000:03:00.0", 1, 1, 0, "0000:03:00.1"), ("0000:03:00.0", 4, 1, 4, "0000:03:01.0"),
         ("0000:3b:00.1", 128, 2, 5, "0000:3b:11.3"), ("10000:00:1f.7", 1, 1, 0, "10000:01:00.0")],
    )
    def test_where_a_function_will_be(
        self, physical: str, offset: int, stride: int, number: int, expected: str
    ) -> None:
        known = Sriov(address=PciAddress(physical), offset=offset, stride=stride)
        assert vf_address(PciAddress(physical), known, number) == expected

    def test_switched_on_taken_reset(self) -> None:
        plan = planned(self.TEXT, sriov_host())
        assert said(plan) == []
        assert kinds(plan) == [
            "LoadModule", "LoadModule", "EnableVfs", "TakeDevice", "ResetDevices",
            "OwnDeviceGroup",
        ]
        [enable] = [s for s in plan.steps if isinstance(s, EnableVfs)]
        assert (enable.address, enable.count, enable.uses) == (
            "0000:03:00.0", 4, ((0, "0000:03:00.1"),)
        )
        [take] = [s for s in plan.steps if isinstance(s, TakeDevice)]
        assert (take.address, take.id, take.driver) == ("0000:03:00.1", "1b36:0010", "vfio-pci")
        assert options(plan) == [
            "-device vfio-pci,host=0000:03:00.1,id=vgpu0,bus=pcie.0,addr=14.0"
        ]

    def test_fewer_are_switched_on_when_the_profile_says_so(self) -> None:
        plan = planned(self.TEXT + "vfs = 2\n", sriov_host())
        [enable] = [s for s in plan.steps if isinstance(s, EnableVfs)]
        assert enable.count == 2

    def test_two_tables_have_two_functions_of_one_step(self) -> None:
        plan = planned(self.TEXT + self.TEXT, sriov_host())
        [enable] = [s for s in plan.steps if isinstance(s, EnableVfs)]
        assert [a for _, a in enable.uses] == ["0000:03:00.1", "0000:03:00.2"]
        assert len({v.name for v in plan.vgpus}) == 2

    def test_one_that_nobody_uses_is_taken(self) -> None:
        vfs = (function(0, driver="vfio-pci", holders=(HELD,)), function(1, driver="nvme"),
               function(2, driver="vfio-pci"), function(3))
        for left, name in ((4, "0000:03:00.4"), (3, "0000:03:00.2")):
            plan = planned(self.TEXT, sriov_host(left, *vfs[:left]))
            assert plan.vgpus[0].name == name, "one without a driver, then one of the host's"
            assert said(plan) == []

    @pytest.mark.parametrize(
        "text", [TEXT, '[[vgpu]]\nany = [{vf = "1b36:0010"}, {type = "none-such"}]\n'],
        ids=["table", "wish"],
    )
    def test_one_whose_group_cannot_leave_the_host_is_passed_over(self, text: str) -> None:
        mate = device("04:00.0", "8086:10d3", NET, group=30, driver="e1000e")
        vfs = [function(n) for n in range(4)]
        facts = sriov_host(4, *vfs)
        plan = planned(text, replace(facts, pci=(*(facts.pci or ()), mate)))
        assert plan.vgpus[0].name == "0000:03:00.2"
        assert said(plan) == said(plan, "note") == []

    def test_where_none_can_the_best_ones_fault_is_told(self) -> None:
        vfs = [replace(function(n), iommu_group=3) for n in range(4)]
        plan = planned(self.TEXT, sriov_host(4, *vfs))
        assert plan.vgpus[0].name == "0000:03:00.1"
        assert said(plan) != []

    def test_what_another_machine_has_claimed_is_passed_over(self) -> None:
        """Before its QEMU has opened it; one of our own name is that of a hook's second look."""
        facts = sriov_host(4, *(function(n) for n in range(4)))
        claims = {"0000:03:00.1": "other", "0000:03:00.2": "vm"}
        plan = planned(self.TEXT, changed(facts, claims=claims))
        assert plan.vgpus[0].name == "0000:03:00.2"
        claims |= {f"0000:03:00.{n}": "other" for n in range(1, 5)}
        plan = planned(self.TEXT, changed(facts, claims=claims))
        assert "is in use by the machine other" in plan.problems[0].found

    def test_none_is_free(self) -> None:
        vfs = [function(n, driver="vfio-pci", holders=(HELD,)) for n in range(4)]
        plan = planned(self.TEXT, sriov_host(4, *vfs))
        assert said(plan) == ["vgpu[0]: no virtual function is free"]
        assert "qemu (pid 7)" in plan.problems[0].found
        assert not any(isinstance(s, EnableVfs) for s in plan.steps)

    @pytest.mark.parametrize(
        ("count", "text", "offset", "stride", "words"),
        [
            (0, "", 0, 0, "echo 4 | sudo tee /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs, "),
            (0, "vfs = 2\n", 1, 0, "echo 2 | sudo tee "),
            (0, "vfs = 1\n", 1, 0, ""),  # with one there is no stride
            (1, "", 1, 0, ""),
            (4, "", 0, 0, "does not say where its virtual functions are"),
        ],
    )
    def test_a_card_that_says_where_they_are_once_they_are_on(
        self, count: int, text: str, offset: int, stride: int, words: str
    ) -> None:
        facts = sriov_host(count, *(function(n) for n in range(count)))
        physical = Sriov(address=PciAddress("0000:03:00.0"), offset=offset, stride=stride,
                         vf_id=PciId("1b36:0010"))
        plan = planned(self.TEXT + text, changed(facts, sriov=(physical,)))
        assert [words in p.found for p in plan.problems] == ([True] if words else [])

    def test_one_function_by_its_address(self) -> None:
        vfs = tuple(function(n) for n in range(4))
        plan = planned('[[vgpu]]\nparent = "03:00.3"\n', sriov_host(4, *vfs))
        assert plan.vgpus[0].name == "0000:03:00.3"
        [enable] = [s for s in plan.steps if isinstance(s, EnableVfs)]
        assert enable.why.endswith("rule: they are on already, and this one is named")

    def test_the_variant_driver_is_used(self) -> None:
        vfs = (function(0, vfio_driver="mlx5_vfio_pci"),)
        plan = planned(self.TEXT, sriov_host(1, *vfs))
        [take] = [s for s in plan.steps if isinstance(s, TakeDevice)]
        assert take.driver == "mlx5_vfio_pci"

    def test_the_node_of_the_vcpus_comes_first(self) -> None:
        near = device("83:00.0", "1b36:0010", NVME, driver="nvme", group=8, sriov_total=2,
                      sriov_count=0, numa_node=1)
        facts = sriov_host(numa_node=0)
        assert facts.vgpu is not None
        assert facts.cpus is not None
        cpus = tuple(replace(c, node=c.id // 2) for c in facts.cpus)
        second = Sriov(address=near.address, offset=1, stride=1)
        facts = replace(
            facts, pci=(*(facts.pci or ()), near), cpus=cpus,
            vgpu=replace(facts.vgpu, sriov=(*facts.vgpu.sriov, second)),
        )
        assert planned(self.TEXT, facts).vgpus[0].parent == "0000:03:00.0"
        pinned = planned(self.TEXT + '[cpu]\npin = {vcpus = ["2"]}\n', facts)
        assert pinned.vgpus[0].parent == "0000:83:00.0"

    def test_what_stands_against_a_card(self) -> None:
        for change, words in (
            ({"driver": None}, "has no driver"), ({"driver": "vfio-pci"}, "is on vfio-pci"),
            ({"driver": "nvidia"}, "sriov-manage -e 0000:03:00.0"),
        ):
            facts = sriov_host()
            pci = tuple(
                replace(d, **change) if d.address == "0000:03:00.0" else d
                for d in facts.pci or ()
            )
            plan = planned(self.TEXT, replace(facts, pci=pci))
            assert words in plan.problems[0].found

    def test_the_least_used_card_is_taken(self) -> None:
        """Used is what somebody has open, what a machine has claimed, and our own other tables'."""
        more = device("83:00.0", "1b36:0010", NVME, driver="nvme", group=8, sriov_total=4,
                      sriov_count=0)
        facts = sriov_host()
        assert facts.vgpu is not None
        second = Sriov(address=more.address, offset=1, stride=1)
        facts = replace(facts, pci=(*(facts.pci or ()), more),
                        vgpu=replace(facts.vgpu, sriov=(*facts.vgpu.sriov, second)))
        plan = planned(self.TEXT * 3, facts)
        assert [v.name for v in plan.vgpus] == ["0000:03:00.1", "0000:83:00.1", "0000:03:00.2"]
        claimed = changed(facts, claims={"0000:03:00.4": "other"})
        assert planned(self.TEXT, claimed).vgpus[0].name == "0000:83:00.1"

    def test_a_card_that_a_machine_has_as_a_whole(self) -> None:
        plan = planned(self.TEXT, changed(sriov_host(), claims={"0000:03:00.0": "other"}))
        assert "0000:03:00.0 is in use by the machine other" in plan.problems[0].found

    def test_how_many_are_on(self) -> None:
        plan = planned(self.TEXT + "vfs = 9\n", sriov_host())
        assert said(plan) == ["vgpu[0].vfs: 0000:03:00.0 can have 4 virtual functions"]
        plan = planned(self.TEXT + "vfs = 2\n", sriov_host(4, *(function(n) for n in range(4))))
        assert said(plan) == []
        assert said(plan, "note") == [
            "vgpu[0].vfs: 4 virtual functions of 0000:03:00.0 are on, and stay so many"
        ]

    def test_memory_is_divided_among_all_that_are_on(self) -> None:
        facts = sriov_host()
        pci = tuple(replace(d, class_code=VGA) if d.address == "0000:03:00.0" else d
                    for d in facts.pci or ())
        cards = replace(facts, pci=pci)
        warning = ("vgpu[0].vfs: all 4 virtual functions of 0000:03:00.0 are switched on, and each "
                   "has that part of the card's memory")
        assert said(planned(self.TEXT, cards), "warning") == [warning]
        assert said(planned(self.TEXT + "vfs = 2\n", cards), "warning") == []
        assert said(planned(self.TEXT, facts), "warning") == [], "no card"
        on = replace(sriov_host(1, function(0)), pci=(
            *(replace(d, class_code=VGA, sriov_count=1) for d in pci[1:2]), function(0)))
        assert said(planned(self.TEXT, on), "warning") == [], "they were on"

    def test_a_slice_of_intels_graphics_has_no_opregion(self) -> None:
        facts = sriov_host()
        pci = tuple(replace(d, id=PciId("8086:56c0"), class_code=VGA)
                    if d.address == "0000:03:00.0" else d for d in facts.pci or ())
        facts = replace(facts, pci=pci)
        text = '[[vgpu]]\nkind = "vf"\nparent = "8086:56c0"\n'
        assert "x-igd-opregion=off" in options(planned(text, facts))[0]
        plan = planned(text + "igd_opregion = true\n", facts)
        assert said(plan) == [
            "vgpu[0].igd_opregion: only a mediated device of Intel's graphics has an OpRegion"
        ]
        assert "opregion" not in options(planned(self.TEXT, sriov_host()))[0]

    def test_a_screen_is_left_out_where_there_is_none(self) -> None:
        text = ('[[vgpu]]\nany = [{type = "x"}, {vf = "1b36:0010"}]\ndisplay = true\n'
                "ramfb = true\nxres = 800\nyres = 600\n")
        plan = planned(text, sriov_host())
        assert said(plan) == []
        assert "vgpu[0].display: a virtual function has no screen" in said(plan, "warning")[0]
        assert options(plan) == [
            "-device vfio-pci,host=0000:03:00.1,id=vgpu0,bus=pcie.0,addr=14.0"
        ]

    def test_vcpus_go_to_the_cards_node(self) -> None:
        facts = sriov_host(numa_node=1)
        assert facts.cpus is not None
        cpus = tuple(replace(c, online=True, core=c.id, node=c.id // 2) for c in facts.cpus)
        plan = planned(self.TEXT + '[cpu]\npin = "auto"\n', replace(facts, cpus=cpus))
        assert plan.pins is not None
        assert {cpu for pins in plan.pins.vcpus for cpu in pins} <= {2, 3}

    def test_a_node_that_nobody_knows_is_not_far(self) -> None:
        facts = sriov_host(numa_node=-1)
        plan = planned(self.TEXT + '[cpu]\npin = {vcpus = ["2"]}\n', facts)
        assert said(plan) == []

    def test_memory_from_one_node_wants_a_card_there(self) -> None:
        near = device("83:00.0", "1b36:0010", NVME, driver="nvme", group=8, sriov_total=2,
                      sriov_count=0, numa_node=1)
        facts = sriov_host(numa_node=0)
        assert facts.vgpu is not None
        second = Sriov(address=near.address, offset=1, stride=1)
        facts = replace(facts, pci=(*(facts.pci or ()), near),
                        vgpu=replace(facts.vgpu, sriov=(*facts.vgpu.sriov, second)))
        numa = '[[numa]]\ncpus = "0"\nmemory = "1G"\nhost_nodes = "1"\n'
        plan = planned(self.TEXT + '[machine]\nmemory = "1G"\n' + numa, facts)
        assert plan.vgpus[0].parent == "0000:83:00.0"

    def test_nobody_looked(self) -> None:
        facts = host()
        assert planned('[[vgpu]]\nparent = "03:00.3"\n', facts).vgpus[0].name == "0000:03:00.3"
        assert "nobody looked" in said(planned(self.TEXT, facts))[0]

    def test_no_such_card(self) -> None:
        plan = planned('[[vgpu]]\nkind = "vf"\nparent = "8086:56c0"\n', sriov_host())
        assert said(plan) == ["vgpu[0]: this host has no such device with virtual functions"]

    def test_a_group_mate_on_a_host_driver(self) -> None:
        mate = device("04:00.0", "8086:10d3", NET, driver="e1000e", group=30)
        plan = planned(self.TEXT, sriov_host(1, function(0), mate))
        assert "IOMMU group 30 of 0000:03:00.1 also holds 0000:04:00.0" in said(plan)[0]

    @pytest.mark.parametrize(("kind", "what", "named"), [
        ("link", "eth1, which is up and has an address", True),
        ("link", "eth1, a port of br0", True),
        ("namespace", "a link that is in another network namespace", False),
    ])
    def test_one_whose_link_the_host_uses_is_not_free(
        self, kind: HolderKind, what: str, named: bool
    ) -> None:
        """Of any it is none; the profile may name it, unless a container has it."""
        used = function(0, driver="igbvf", holders=(Holder(kind=kind, what=what, remedy="x"),))
        both = sriov_host(2, used, function(1, driver="igbvf"))
        assert planned(self.TEXT, both).vgpus[0].name == "0000:03:00.2"
        assert said(planned(self.TEXT, sriov_host(1, used))) == [
            "vgpu[0]: no virtual function is free"
        ]
        for text in ('[[vgpu]]\nkind = "vf"\nparent = "03:00.1"\n',
                     '[[vgpu]]\nany = [{vf = "03:00.1"}]\n'):
            plan = planned(text, both)
            assert [v.name for v in plan.vgpus] == (["0000:03:00.1"] if named else [])
            assert (said(plan) == []) is named
            assert any(what in text for text in said(plan, "warning")) is named

    def test_no_iommu_no_function(self) -> None:
        facts = replace(sriov_host(), iommu=Iommu(enabled=False, reason="off in the BIOS"))
        assert any("IOMMU is off" in text for text in said(planned(self.TEXT, facts)))

    def test_a_network_cards_address(self) -> None:
        text = self.TEXT + 'mac = "52:54:00:00:00:07"\nvlan = 12\n'
        assert said(planned(text, sriov_host())) == [
            "vgpu[0].mac: 0000:03:00.0 is no network card, and its functions have no mac"
        ]
        facts = sriov_host()
        pci = tuple(replace(d, class_code=NET) for d in facts.pci or ())
        plan = planned(text, replace(facts, pci=pci))
        assert said(plan) == []
        [step] = [s for s in plan.steps if isinstance(s, SetVfNet)]
        assert (step.address, step.number, step.mac, step.vlan) == (
            "0000:03:00.0", 0, "52:54:00:00:00:07", 12
        )
        steps = kinds(plan)  # undone backwards: a host driver that probes it finds its own address
        assert steps.index("TakeDevice") < steps.index("ResetDevices") < steps.index("SetVfNet")


class TestNvidia:
    def test_a_type_by_name_number_or_memory(self, server: HostFacts) -> None:
        for text in ('type = "NVIDIA RTX6000-Ada-8Q"', 'type = "557"', 'memory = ">=4G"',
                     'type = "RTX6000-Ada-8Q"'):
            plan = planned(f"[[vgpu]]\n{text}\n", server)
            assert said(plan) == []
            [step] = [s for s in plan.steps if isinstance(s, SetVgpuType)]
            assert (step.address, step.type) == ("0000:41:00.5", 557), "00.4 has a vGPU"
            assert step.existing == 0
            assert not any(isinstance(s, TakeDevice) for s in plan.steps), "it is not rebound"
        assert options(plan) == [
            "-device vfio-pci,host=0000:41:00.5,id=vgpu0,bus=pcie.0,addr=14.0"
        ]
        assert options(plan, "-uuid")

    def test_two_tables_two_functions(self, server: HostFacts) -> None:
        plan = planned('[[vgpu]]\ntype = "557"\n[[vgpu]]\ntype = "557"\n', server)
        assert [v.name for v in plan.vgpus] == ["0000:41:00.5", "0000:41:00.6"]

    def test_one_that_somebody_made_is_taken_by_its_address_only(self, server: HostFacts) -> None:
        """Nobody may have it open, and it is no less somebody's."""
        assert server.vgpu is not None
        only = tuple(v for v in server.vgpu.nvidia if v.current)
        only = (replace(only[0], creatable=server.vgpu.nvidia[1].creatable),)
        facts = changed(server, nvidia=only)
        unseen = replace(
            facts, pci=tuple(replace(d, holders=None) for d in facts.pci or ())
        )
        plain, named = '[[vgpu]]\ntype = "557"\n', '[[vgpu]]\ntype = "557"\nparent = "41:00.4"\n'
        assert said(planned(named, facts)) == []
        for text, host_ in ((plain, facts), (plain, unseen), (named, unseen)):
            assert said(planned(text, host_)) == [
                "vgpu[0]: no virtual function can be given this type now"
            ]

    def test_a_resolution_is_nothing_that_its_files_say(self, server: HostFacts) -> None:
        for text in ('resolution = ">=1920x1080"', 'memory = ">=4G"\nresolution = ">=1920x1080"'):
            plan = planned(f"[[vgpu]]\n{text}\n", server)
            assert said(plan) == ["vgpu[0]: NVIDIA's files do not say what resolution a type has"]
            assert "leave resolution out" in plan.problems[0].hint

    def test_one_that_was_made_by_hand_is_used(self, server: HostFacts) -> None:
        """Its type is listed by the functions that could be given it, not by itself."""
        for kind in ("559", "NVIDIA RTX6000-Ada-16Q"):
            plan = planned(f'[[vgpu]]\ntype = "{kind}"\nparent = "41:00.4"\n', server)
            assert said(plan) == []
            [step] = [s for s in plan.steps if isinstance(s, SetVgpuType)]
            assert (step.address, step.type, step.existing) == ("0000:41:00.4", 559, 559)
        assert planned('[[vgpu]]\ntype = "559"\n', server).vgpus[0].name == "0000:41:00.5"

    def test_mistyped(self, server: HostFacts, laptop: HostFacts) -> None:
        plan = planned('[[vgpu]]\ntype = "NVIDIA RTX6000-Ada-9Q"\n', server)
        assert plan.problems[0].hint == "did you mean NVIDIA RTX6000-Ada-8Q?"
        plan = planned('[[vgpu]]\ntype = "i915-GVTg_V5_3"\n', laptop)
        assert plan.problems[0].hint.startswith("did you mean i915-GVTg_V5_")

    def test_older_drivers_make_them_on_functions_that_are_off(self, server: HostFacts) -> None:
        pci = tuple(replace(d, sriov_count=0) for d in server.pci or () if d.physfn is None)
        facts = changed(replace(server, pci=pci), nvidia=(), modules=("nvidia", "mdev"))
        plan = planned('[[vgpu]]\ntype = "nvidia-557"\n', facts)
        assert "none is switched on" in said(plan)[0]
        assert "sriov-manage -e 0000:41:00.0" in plan.problems[0].hint

    def test_older_drivers_make_one_mediated_device_on_a_function(self, server: HostFacts) -> None:
        """Types are listed by each function, and whichever is made uses it up."""
        kinds_ = tuple(MdevType(id=f"nvidia-{n}", name=f"GRID A40-{n}Q", api="vfio-pci",
                                available=1) for n in (557, 559))
        functions = [d.address for d in server.pci or () if d.physfn]
        facts = changed(server, nvidia=(), modules=("nvidia", "mdev"), parents=tuple(
            MdevParent(name=a, address=a, types=kinds_) for a in functions))
        text = "".join(f'[[vgpu]]\ntype = "nvidia-{n}"\n' for n in (557, 559, 557))
        plan = planned(text, facts)
        assert said(plan) == []
        assert [(v.kind, v.parent, v.type) for v in plan.vgpus] == [
            ("mdev", "0000:41:00.4", "nvidia-557"), ("mdev", "0000:41:00.5", "nvidia-559"),
            ("mdev", "0000:41:00.6", "nvidia-557"),
        ]
        assert [s.parent for s in plan.steps if isinstance(s, CreateMdev)] == functions[:3]
        one = '[[vgpu]]\ntype = "{}"\nparent = "41:00.4"\n'
        assert said(planned(one.format("nvidia-557") + one.format("nvidia-559"), facts)) == [
            "vgpu[1]: no instance of this type is left"
        ]

    def test_they_are_no_mediated_devices(self, server: HostFacts) -> None:
        plan = planned('[[vgpu]]\nkind = "mdev"\ntype = "557"\n', server)
        assert "on virtual functions" in plan.problems[0].hint

    def test_another_makers_type_is_not_one_that_cannot_be_made_now(
        self, server: HostFacts
    ) -> None:
        plan = planned('[[vgpu]]\ntype = "i915-GVTg_V5_4"\n', server)
        assert said(plan) == ["vgpu[0]: no device of this host makes such a vGPU"]
        card = device("00:02.0", "8086:5917", driver="i915")
        both = replace(changed(server, parameters={"i915.enable_gvt": "0"}),
                       pci=(card, *(server.pci or ())))
        plan = planned('[[vgpu]]\ntype = "i915-GVTg_V5_4"\n', both)
        assert said(plan) == ["vgpu[0]: GVT-g is switched off for 0000:00:02.0"]

    def test_a_type_that_cannot_be_made(self, server: HostFacts) -> None:
        plan = planned('[[vgpu]]\nkind = "nvidia-vf"\ntype = "NVIDIA A40-48C"\n', server)
        assert "NVIDIA RTX6000-Ada-16Q" in plan.problems[0].found
        assert "0000:41:00.4 has NVIDIA RTX6000-Ada-16Q" in plan.problems[0].found

    def test_a_whole_function_needs_a_type(self, server: HostFacts) -> None:
        plan = planned('[[vgpu]]\nkind = "vf"\nparent = "10de:26b1"\n', server)
        assert "name a type" in plan.problems[0].found

    def test_a_host_without_its_driver(self, laptop: HostFacts) -> None:
        plan = planned('[[vgpu]]\nkind = "nvidia-vf"\ntype = "557"\n', laptop)
        assert "sriov-manage" in plan.problems[0].hint


class TestWishes:
    TEXT = (
        '[[vgpu]]\nany = [{pci = "10de:2684"}, {type = "i915-GVTg_V5_4"}, {vf = "1b36:0010"}, '
        '{memory = ">=2G"}, {virtio = "virtio-gl"}]\n[display]\ntype = "gtk"\n'
    )

    def test_each_host_gives_what_it_has(self, laptop: HostFacts, server: HostFacts) -> None:
        granted = {
            "laptop": planned(self.TEXT, laptop), "server": planned(self.TEXT, server),
            "nvme": planned(self.TEXT, sriov_host()),
        }
        assert {k: (p.vgpus[0].kind, said(p)) for k, p in granted.items()} == {
            "laptop": ("mdev", []), "server": ("nvidia-vf", []), "nvme": ("vf", []),
        }
        [note] = [p for p in granted["laptop"].problems if p.where == "vgpu[0].any"]
        assert note.severity == "note"
        assert note.message == 'wish 2 was granted: type = "i915-GVTg_V5_4"'
        assert note.found == 'pci = "10de:2684": this host has no such device'

    def test_the_first_is_granted_without_a_word(self) -> None:
        card = device("01:00.0", "10de:2684", VGA, group=7)
        audio = device("01:00.1", "10de:22ba", 0x040300, group=7, driver="snd_hda_intel")
        facts = replace(sriov_host(), pci=(*(sriov_host().pci or ()), card, audio))
        plan = planned(self.TEXT, facts)
        assert said(plan) == said(plan, "note") == []
        assert [c.address for c in plan.cards] == ["0000:01:00.0", "0000:01:00.1"]
        assert plan.vgpus == ()

    def test_a_card_in_use_is_passed_over(self) -> None:
        xorg = Holder(kind="process", what="/dev/dri/card0", pid=5, command="Xorg")
        card = device("01:00.0", "10de:2684", VGA, group=7, holders=(xorg,))
        facts = replace(sriov_host(), pci=(*(sriov_host().pci or ()), card))
        plan = planned(self.TEXT, facts)
        assert plan.vgpus[0].kind == "vf"
        assert "Xorg (pid 5)" in next(p.found for p in plan.problems if p.severity == "note")

    def test_a_card_is_given_once(self) -> None:
        card = device("01:00.0", "10de:2684", VGA, group=7)
        facts = replace(sriov_host(), pci=(*(sriov_host().pci or ()), card))
        text = '[[vgpu]]\nany = [{pci = "10de:2684"}, {vf = "1b36:0010"}]\n'
        plan = planned(text * 2, facts)
        assert said(plan) == []
        assert [c.address for c in plan.cards] == ["0000:01:00.0"]
        assert [v.key for v in plan.vgpus] == ["vgpu[1]"]
        plan = planned('[[pci]]\ndevice = "01:00.0"\n' + text, facts)
        assert [v.key for v in plan.vgpus] == ["vgpu[0]"]
        plan = planned(text, changed(facts, claims={"0000:01:00.0": "other"}))
        assert plan.cards == ()
        assert "machine other" in next(p.found for p in plan.problems if p.severity == "note")

    def test_there_is_one_emulated_card(self) -> None:
        facts = host(vgpu=VgpuFacts())
        assert facts.qemu is not None
        qemu = replace(facts.qemu, devices=(*facts.qemu.devices, "virtio-vga-gl"))
        text = '[[vgpu]]\nany = [{virtio = "virtio-gl"}]\n'
        plan = planned(text * 2 + '[display]\ntype = "gtk"\n', replace(facts, qemu=qemu))
        assert said(plan) == ["vgpu[1].any: this host can give none of these"]
        assert "a machine has one such card" in plan.problems[-1].found

    def test_the_last_resort_is_an_emulated_card(self) -> None:
        facts = host(vgpu=VgpuFacts())
        assert facts.qemu is not None
        qemu = replace(facts.qemu, devices=(*facts.qemu.devices, "virtio-vga-gl"))
        plan = planned(self.TEXT, replace(facts, qemu=qemu))
        assert said(plan) == []
        assert plan.profile.display.vga == "virtio-gl"
        assert options(plan, "-device virtio-vga-gl")
        [note] = [p for p in plan.problems if p.severity == "note" and p.where == "vgpu[0].any"]
        assert note.message.startswith("wish 5 was granted")
        assert note.found.count(";") >= 3

    def test_an_emulated_card_needs_a_display_that_draws(self) -> None:
        """With -display none QEMU would end: opengl is not available."""
        facts = host(vgpu=VgpuFacts())
        assert facts.qemu is not None
        qemu = replace(facts.qemu, devices=(*facts.qemu.devices, "virtio-vga-gl"))
        for shown in ("", '[display]\ntype = "gtk"\ngl = false\n'):
            plan = planned('[[vgpu]]\nany = [{virtio = "virtio-gl"}]\n' + shown,
                           replace(facts, qemu=qemu))
            assert said(plan) == ["vgpu[0].any: this host can give none of these"]
            assert "needs a display with OpenGL" in plan.problems[0].found
            assert "egl-headless" in plan.problems[0].hint

    def test_a_card_that_this_qemu_lacks_is_told_with_its_package(self) -> None:
        plan = planned('[[vgpu]]\nany = [{type = "x"}, {virtio = "rutabaga"}]\n'
                       '[display]\ntype = "gtk"\n', host(vgpu=VgpuFacts()))
        assert "(Fedora)" in plan.problems[0].hint

    def test_none_comes_true(self) -> None:
        plan = planned('[[vgpu]]\nany = [{pci = "10de:2684"}, {vf = "8086:56c0"}]\n',
                       host(vgpu=VgpuFacts()))
        assert said(plan) == ["vgpu[0].any: this host can give none of these"]

    def test_the_place_does_not_depend_on_the_wish(self, laptop: HostFacts) -> None:
        plain = '[[vgpu]]\ntype = "GVTg_V5_8"\n'
        first = planned(plain + plain, laptop).vgpus[1]
        wish = '[[vgpu]]\nany = [{type = "none-such"}]\n'
        second = planned(wish + plain, laptop).vgpus[0]
        assert (first.name, first.place) == (second.name, second.place)
