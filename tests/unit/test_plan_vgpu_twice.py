"""Tables of one machine know of each other: nothing is given twice, and what one takes of a card is
missing for the next."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from msgspec.structs import replace

from qlaunch.facts.model import Holder, HostFacts, PciDevice
from qlaunch.facts.vgpu_model import (
    Mdev,
    MdevParent,
    MdevType,
    NvidiaType,
    NvidiaVf,
    Sriov,
    VgpuFacts,
)
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import CreateMdev, EnableVfs, SetVgpuType
from qlaunch.values import PciId
from tests.fake.plans import NET, VGA, device, host, planned, said
from tests.unit.test_plan_vgpu import options, sriov_host

GIB = 1 << 30
NIC = "8086:10fb"
TYPES = tuple(
    NvidiaType(number, f"NVIDIA RTX6000-Ada-{size}Q", size * GIB)
    for number, size in ((555, 2), (557, 8), (559, 16))
)


def nic(on: int = 2, *more: PciDevice, **own: Any) -> HostFacts:
    """An ixgbe card with so many of its 63 virtual functions on."""
    physical = device("61:00.0", NIC, NET, driver="ixgbe", group=60, sriov_total=63,
                      sriov_count=on, **own)
    functions = [
        device(f"61:1{n >> 2}.{n * 2 & 7}", "8086:10ed", NET, driver=None, group=70 + n,
               physfn=physical.address) for n in range(on)
    ]
    facts = VgpuFacts(sriov=(Sriov(address=physical.address, offset=128, stride=2,
                                   vf_id=PciId("8086:10ed")),))
    return host(physical, *functions, *more, vgpu=facts)


def cards(*names: str, types: tuple[NvidiaType, ...] = TYPES, made: int = 0) -> HostFacts:
    """NVIDIA cards with four functions each; `made` is the type on the first card's first."""
    devices: list[PciDevice] = []
    functions: list[NvidiaVf] = []
    for number, name in enumerate(names):
        card = device(f"{name}:00.0", "10de:26b1", VGA, driver="nvidia", group=40 + 10 * number,
                      sriov_total=4, sriov_count=4)
        devices.append(card)
        for n in range(4):
            one = device(f"{name}:00.{n + 4}", "10de:26b1", VGA, driver="nvidia",
                         group=41 + 10 * number + n, physfn=card.address)
            devices.append(one)
            has = made if number == n == 0 else 0
            functions.append(NvidiaVf(address=one.address, current=has,
                                      creatable=() if has else types))
    return host(*devices, vgpu=VgpuFacts(nvidia=tuple(functions)))


def given(plan: Plan) -> list[str]:
    return [line.split("host=")[1].split(",")[0] for line in options(plan)]


class TestWholeAndSlice:
    @pytest.mark.parametrize("table", [f'parent = "{NIC}"', f'any = [{{vf = "{NIC}"}}]'])
    def test_a_function_that_a_pci_table_names_is_taken(self, table: str) -> None:
        plan = planned(f'[[pci]]\ndevice = "61:10.0"\n[[vgpu]]\n{table}\n', nic())
        assert said(plan) == []
        assert sorted(given(plan)) == ["0000:61:10.0", "0000:61:10.2"]

    def test_one_that_goes_along_is_taken_as_well(self) -> None:
        for rest in ('functions = "all"', 'group = "take"'):
            facts = nic(6)
            if "group" in rest:
                pci = tuple(replace(d, iommu_group=70, driver="ixgbevf")
                            if d.address in ("0000:61:10.0", "0000:61:10.2") else d
                            for d in facts.pci or ())
                facts = replace(facts, pci=pci)
            plan = planned(f'[[pci]]\ndevice = "61:10.0"\n{rest}\n[[vgpu]]\nparent = "{NIC}"\n',
                           facts)
            assert said(plan) == []
            assert plan.vgpus[0].name == ("0000:61:11.0" if "all" in rest else "0000:61:10.4")

    def test_the_same_one_by_its_address(self) -> None:
        plan = planned('[[pci]]\ndevice = "61:10.0"\n[[vgpu]]\nparent = "61:10.0"\n', nic())
        assert said(plan) == ["vgpu[0]: no virtual function is free"]
        assert plan.problems[0].found == "0000:61:10.0 is another table's"

    def test_nobody_looked(self) -> None:
        table = '[[vgpu]]\nparent = "61:10.0"\n'
        for text in ('[[pci]]\ndevice = "61:10.0"\n' + table, table + table):
            plan = planned(text, host(pci=None))
            assert [t.split(": ", 1)[1] for t in said(plan)] == [
                "this virtual function is another table's"]

    def test_an_nvidia_function(self) -> None:
        plan = planned('[[pci]]\ndevice = "41:00.4"\n[[vgpu]]\ntype = "557"\n', cards("41"))
        assert said(plan) == []
        assert sorted(given(plan)) == ["0000:41:00.4", "0000:41:00.5"]

    @pytest.mark.parametrize("table", [
        f'[[vgpu]]\nparent = "{NIC}"\n', f'[[vgpu]]\nany = [{{vf = "{NIC}"}}]\n',
    ])
    def test_a_card_and_a_function_of_it(self, table: str) -> None:
        plan = planned('[[pci]]\ndevice = "61:00.0"\n' + table, nic(0))
        [problem] = [p for p in plan.problems if p.where.startswith("vgpu[0]")]
        assert problem.severity == "error"
        assert "0000:61:00.0 goes to the guest as a whole, by a [[pci]] table" in problem.found
        assert "drop one of the two tables" in problem.hint

    def test_another_card_is_sliced(self) -> None:
        second = device("62:00.0", NIC, NET, driver="ixgbe", group=90, sriov_total=63,
                        sriov_count=0)
        facts = nic(0, second)
        assert facts.vgpu is not None
        both = (*facts.vgpu.sriov, Sriov(address=second.address, offset=128, stride=2))
        facts = replace(facts, vgpu=replace(facts.vgpu, sriov=both))
        plan = planned(f'[[pci]]\ndevice = "61:00.0"\n[[vgpu]]\nparent = "{NIC}"\n', facts)
        assert said(plan) == []
        assert plan.vgpus[0].parent == "0000:62:00.0"

    def test_an_nvidia_card_and_a_function_of_it(self) -> None:
        text = '[[pci]]\ndevice = "41:00.0"\n[[vgpu]]\ntype = "557"\n'
        plan = planned(text, cards("41"))
        [problem] = [p for p in plan.problems if p.where == "vgpu[0]"]
        assert "0000:41:00.0 goes to the guest as a whole" in problem.found
        assert planned(text, cards("41", "81")).vgpus[0].name == "0000:81:00.4"

    def test_a_card_and_a_mediated_device_of_it(self) -> None:
        kind = MdevType(id="i915-GVTg_V5_4", api="vfio-pci", available=1)
        card = device("00:03.0", "8086:5917", driver="i915", group=3)
        facts = host(card, vgpu=VgpuFacts(parents=(
            MdevParent(name=card.address, address=card.address, types=(kind,)),)))
        text = '[[pci]]\ndevice = "00:03.0"\n[[vgpu]]\ntype = "GVTg_V5_4"\n'
        assert "vgpu[0]: 0000:00:03.0 goes to the guest as a whole, by a [[pci]] table" in said(
            planned(text, facts))
        uuid = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"
        there = Mdev(uuid=uuid, parent=card.address, type=kind.id)
        facts = replace(facts, vgpu=VgpuFacts(mdevs=(there,)))
        assert "vgpu[0]: 0000:00:03.0 goes to the guest as a whole, by a [[pci]] table" in said(
            planned(f'{text}uuid = "{uuid}"\n', facts))

    @pytest.mark.parametrize("wish", ["61:00.0", "61:10.0"])
    def test_a_wish_for_what_is_sliced_already(self, wish: str) -> None:
        plan = planned(f'[[vgpu]]\nparent = "61:10.0"\n[[vgpu]]\nany = [{{pci = "{wish}"}}, '
                       f'{{vf = "{NIC}"}}]\n', nic())
        assert said(plan) == []
        assert plan.cards == ()
        assert [v.name for v in plan.vgpus] == ["0000:61:10.0", "0000:61:10.2"]

    def test_a_wish_for_a_card_is_remembered(self) -> None:
        plan = planned(f'[[vgpu]]\nany = [{{pci = "61:10.0"}}]\n[[vgpu]]\nparent = "{NIC}"\n',
                       nic(6))
        assert said(plan) == []
        assert plan.vgpus[0].name == "0000:61:11.0"


class TestNvidiasMemory:
    BIG = '[[vgpu]]\ntype = "NVIDIA RTX6000-Ada-16Q"\n'
    SMALL = '[[vgpu]]\ntype = "557"\n'

    def test_the_second_goes_to_the_second_card(self) -> None:
        plan = planned(self.BIG * 2, cards("41", "81"))
        assert said(plan) == []
        assert [v.name for v in plan.vgpus] == ["0000:41:00.4", "0000:81:00.4"]

    def test_two_types_go_to_two_cards(self) -> None:
        plan = planned(self.SMALL + '[[vgpu]]\ntype = "555"\n' + self.SMALL, cards("41", "81"))
        assert [v.parent[5:7] for v in plan.vgpus] == ["41", "81", "41"]

    def test_one_card_has_no_room_for_two(self) -> None:
        plan = planned(self.BIG * 2, cards("41"))
        assert said(plan) == ["vgpu[1]: no card has room for this beside the machine's other vGPUs"]
        assert plan.problems[0].found == (
            "0000:41:00.0 has 16G, and is to make NVIDIA RTX6000-Ada-16Q")
        assert said(planned(self.SMALL * 2, cards("41"))) == []
        assert len(said(planned(self.SMALL * 3, cards("41")))) == 1

    def test_a_wish_goes_on(self) -> None:
        wish = '[[vgpu]]\nany = [{type = "559"}, {memory = ">=2G"}]\n'
        plan = planned(self.SMALL + wish, cards("41"))
        assert said(plan) == []
        assert [s.type for s in plan.steps if isinstance(s, SetVgpuType)] == [557, 557]

    def test_what_may_be_possible_is_not_refused(self) -> None:
        """How much more a card has that has made something is not told, nor by MIG's types; and
        of two sizes the driver may make both."""
        eight = (TYPES[1],)
        assert said(planned(self.SMALL * 2, cards("41", types=eight, made=557))) == []
        mig = (NvidiaType(700, "NVIDIA A100-1-5C", 5 * GIB),)
        assert said(planned('[[vgpu]]\ntype = "700"\n' * 2, cards("41", types=mig))) == []
        plan = planned(self.SMALL + '[[vgpu]]\ntype = "555"\n', cards("41"))
        assert said(plan) == []
        step = [s for s in plan.steps if isinstance(s, SetVgpuType)][1]
        assert "beside this machine's other type" in step.why

    def test_a_guess_prefers_another_card(self) -> None:
        facts = cards("41", "81", types=(TYPES[1],), made=557)
        plan = planned(self.SMALL * 2, facts)
        assert [v.parent[5:7] for v in plan.vgpus] == ["81", "41"]


class TestHowManyAreOn:
    NVME, VF = "1b36:0010", '[[vgpu]]\nkind = "vf"\nparent = "{}"\n'

    @pytest.mark.parametrize(("said_by", "count"), [
        ((1, 4), 4), ((4, 1), 4), ((1, None), 2), ((None, 1), 2), ((None, 3), 3), ((None, None), 4),
    ])
    def test_the_most_that_a_table_says(
        self, said_by: tuple[int | None, ...], count: int
    ) -> None:
        text = "".join(self.VF.format(self.NVME) + (f"vfs = {n}\n" if n else "") for n in said_by)
        plan = planned(text, sriov_host())
        assert said(plan) == []
        [step] = [s for s in plan.steps if isinstance(s, EnableVfs)]
        assert (step.count, [number for number, _ in step.uses]) == (count, [0, 1])
        fewer = [n for n, v in enumerate(said_by) if v and v < count]
        assert said(plan, "note") == [
            f"vgpu[{n}].vfs: {count} virtual functions of 0000:03:00.0 are switched on, because "
            "other tables want more" for n in fewer
        ]

    def test_one_is_not_enough_for_two(self) -> None:
        plan = planned((self.VF.format(self.NVME) + "vfs = 1\n") * 2, sriov_host())
        assert said(plan) == ["vgpu[1]: no virtual function is free"]

    def test_of_a_network_card_as_many_as_are_needed(self) -> None:
        for tables, more, count in ((1, "", 1), (2, "", 2), (1, "vfs = 8\n", 8)):
            plan = planned((self.VF.format(NIC) + more) * tables, nic(0))
            assert said(plan) == said(plan, "warning") == []
            [step] = [s for s in plan.steps if isinstance(s, EnableVfs)]
            assert step.count == count
            assert more or "as many as this machine needs" in step.why
        one = nic(0)
        assert one.vgpu is not None
        known = replace(one.vgpu.sriov[0], stride=0)  # is told once two are on
        one = replace(one, vgpu=replace(one.vgpu, sriov=(known,)))
        assert said(planned(self.VF.format(NIC), one)) == []
        assert "says where" in planned(self.VF.format(NIC) * 2, one).problems[0].found

    @pytest.mark.parametrize("kind", ["link", "route"])
    def test_the_hosts_own_link_may_go_down_for_a_moment(
        self, kind: Literal["link", "route"]
    ) -> None:
        used = (Holder(kind=kind, what="eno1, the default route"),)
        plan = planned(self.VF.format(NIC) * 2, nic(0, holders=used))
        assert said(plan) == []
        assert said(plan, "warning") == [
            "vgpu[0]: 0000:61:00.0 carries eno1, the default route; its link may be down for a "
            "moment when its virtual functions are switched on"
        ]
        assert said(planned(self.VF.format(NIC), nic(2, holders=used)), "warning") == []

    def test_who_comes_second_is_told_what_to_do(self) -> None:
        facts = nic(1)
        assert facts.vgpu is not None
        claims = {"0000:61:10.0": "first"}
        facts = replace(facts, vgpu=replace(facts.vgpu, claims=claims))
        [problem] = planned(self.VF.format(NIC), facts).problems
        assert problem.found == "0000:61:10.0 is in use by the machine first"
        assert "0000:61:00.0 has 1 of 63 on" in problem.hint

    def test_those_that_are_on_are_not_switched_on(self) -> None:
        plan = planned(self.VF.format(NIC), nic(2))
        [step] = [s for s in plan.steps if isinstance(s, EnableVfs)]
        assert str(step) == "keep the 2 virtual functions of 0000:61:00.0 that are on"


class TestWhatIsThere:
    UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"

    @pytest.mark.parametrize("parent", ["10de:2236", "41:00.0", "41:00.4", "10de:26b1"])
    def test_by_any_name_of_its_parent(self, parent: str) -> None:
        card = device("41:00.0", "10de:2236", VGA, driver="nvidia", group=40)
        one = device("41:00.4", "10de:26b1", VGA, driver="nvidia", group=41, physfn=card.address)
        kind = MdevType(id="nvidia-557", name="GRID A40-8Q", api="vfio-pci", available=0)
        facts = host(card, one, vgpu=VgpuFacts(
            parents=(MdevParent(name=one.address, address=one.address, types=(kind,)),),
            mdevs=(Mdev(uuid=self.UUID, parent=one.address, type=kind.id),),
        ))
        text = f'[[vgpu]]\ntype = "nvidia-557"\nuuid = "{self.UUID}"\nparent = "{{}}"\n'
        plan = planned(text.format(parent), facts)
        assert said(plan) == []
        assert [s.existing for s in plan.steps if isinstance(s, CreateMdev)] == [True]
        assert said(planned(text.format("81:00.0"), facts)) == [
            "vgpu[0]: a mediated device of this UUID is there already, and is another one"]
