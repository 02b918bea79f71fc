"""Several machines on one card: what the tree says is planned, run on it, and read again.

The types that a card can make change with what is made of it, as i915's and NVIDIA's do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli
from msgspec.structs import replace

from qlaunch.errors import HostError
from qlaunch.facts.model import HostFacts
from qlaunch.facts.pci import read_pci
from qlaunch.facts.vgpu import read_vgpu
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import LoadModule, Step
from qlaunch.profile.tables import build
from qlaunch.run.engine import Engine
from tests.fake.kernel_tree import snapshot
from tests.fake.kernel_vgpu import VgpuKernel
from tests.fake.plans import host
from tests.fake.scripted import MemoryLog
from tests.fake.vgpu_hosts import GVT_TEXT

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

INTEL, NVME, NVIDIA = "0000:00:02.0", "0000:03:00.0", "0000:41:00.0"
ADA = [(555, "NVIDIA RTX6000-Ada-2Q", 2), (557, "NVIDIA RTX6000-Ada-8Q", 8),
       (559, "NVIDIA RTX6000-Ada-16Q", 16)]


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[VgpuKernel]:
    kernel = VgpuKernel(tmp_path)
    kernel.add_driver("vfio-pci")
    kernel.add_device(INTEL, ids="8086:5917", driver="i915", group=1)
    kernel.add_parent(INTEL, {"i915-GVTg_V5_4": 2, "i915-GVTg_V5_8": 1}, pool=2, driver="i915",
                      text=GVT_TEXT.format(64, 384, "1024x768", 2))
    kernel.add_device(NVME, ids="1b36:0010", driver="nvme", group=3, methods="flr")
    kernel.add_sriov(NVME, 2, matches="nvme")
    kernel.add_device(NVIDIA, ids="10de:26b1", driver="nvidia", group=40, methods="bus")
    kernel.add_sriov(NVIDIA, 3, offset=4, vf="26b1", matches="nvidia")
    kernel.write(kernel.device(NVIDIA) / "sriov_numvfs", b"3")
    kernel.add_nvidia(NVIDIA, ADA, pool=16)
    yield kernel
    kernel.release()


def facts(kernel: VgpuKernel) -> HostFacts:
    devices = tuple(replace(d, holders=()) for d in read_pci(kernel.root))
    return host(pci=devices, vgpu=read_vgpu(kernel.root))


def plan(kernel: VgpuKernel, name: str, *lines: str) -> Plan:
    table = tomli.loads("\n".join(lines))
    return make_plan(build({"name": name, "vgpu": [table]}), facts(kernel))


def faults(made: Plan) -> list[str]:
    return [p.message for p in made.problems if p.severity == "error"]


def begin(kernel: VgpuKernel, made: Plan) -> Engine:
    """Stage 5, as whoever runs the tests."""
    assert faults(made) == []
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply([_as_us(s) for s in made.steps if not isinstance(s, LoadModule)])
    return engine


def _as_us(step: Step) -> Step:
    if not hasattr(step, "uid"):
        return step
    return replace(step, uid=os.geteuid(), gid=os.getegid())


def end(engine: Engine) -> tuple[str, ...]:
    outcome = engine.undo_all()
    assert outcome.left == ()
    return outcome.sentences


def test_gvt_g_gives_what_is_left(kernel: VgpuKernel) -> None:
    before = snapshot(kernel.root)
    first = begin(kernel, plan(kernel, "a", 'memory = ">=256M"', 'resolution = ">=1024x768"'))
    assert faults(plan(kernel, "b", 'type = "i915-GVTg_V5_4"')) == [
        "no instance of this type is left"
    ]
    second = begin(kernel, plan(kernel, "b", 'type = "GVTg_V5_8"'))
    assert len(kernel.mdevs()) == 2
    assert faults(plan(kernel, "c", 'type = "GVTg_V5_8"')) == ["no instance of this type is left"]
    end(first)
    third = begin(kernel, plan(kernel, "c", 'type = "GVTg_V5_8"'))
    end(second)
    end(third)
    assert snapshot(kernel.root) == before
    assert faults(plan(kernel, "b", 'type = "i915-GVTg_V5_4"')) == []


def test_the_last_one_goes_to_whoever_makes_it_first(kernel: VgpuKernel) -> None:
    """Both plans were made while there was one."""
    before = snapshot(kernel.root)
    plans = [plan(kernel, name, 'type = "i915-GVTg_V5_4"') for name in "ab"]
    first = begin(kernel, plans[0])
    middle = snapshot(kernel.root)
    with pytest.raises(HostError, match=r"did not make a i915-GVTg_V5_4[^~]*another machine"):
        begin(kernel, plans[1])
    assert snapshot(kernel.root) == middle
    end(first)
    assert snapshot(kernel.root) == before


def test_nvidias_vgpus_decide_what_else_can_be_made(kernel: VgpuKernel) -> None:
    before = snapshot(kernel.root)
    late = plan(kernel, "late", 'type = "559"')
    first = begin(kernel, plan(kernel, "a", 'type = "NVIDIA RTX6000-Ada-8Q"'))
    assert kernel.read("0000:41:00.4", "nvidia/current_vgpu_type") == "557"
    refused = plan(kernel, "b", 'memory = ">=16G"')
    assert faults(refused) == ["no virtual function can be given this type now"]
    assert "0000:41:00.4 has NVIDIA RTX6000-Ada-8Q" in refused.problems[0].found
    late = replace(late, steps=tuple(
        replace(s, address="0000:41:00.5") if hasattr(s, "name") else s for s in late.steps
    ))
    with pytest.raises(HostError, match="cannot be set to 559"):
        begin(kernel, late)
    second = begin(kernel, plan(kernel, "b", 'memory = ">=1G"'))
    assert kernel.read("0000:41:00.5", "nvidia/current_vgpu_type") == "557", "of one size"
    assert faults(plan(kernel, "c", 'memory = ">=1G"')) != [], "the card is full"
    end(first)
    assert faults(plan(kernel, "c", 'memory = ">=1G"')) == []
    end(second)
    assert snapshot(kernel.root) == before
    assert faults(plan(kernel, "late", 'type = "559"')) == []


def test_functions_are_shared_and_switched_off_by_the_last(kernel: VgpuKernel) -> None:
    before = snapshot(kernel.root)
    wish = ('kind = "vf"', 'parent = "1b36:0010"')
    plans = [plan(kernel, "a", *wish)]
    first = begin(kernel, plans[0])
    plans.append(plan(kernel, "b", *wish))
    second = begin(kernel, plans[1])
    assert [p.vgpus[0].name for p in plans] == ["0000:03:00.1", "0000:03:00.2"]
    assert any("stay on" in text for text in end(first))
    assert any("are off" in text for text in end(second))
    assert snapshot(kernel.root) == before


def test_two_vgpus_of_one_machine_find_room_on_two_cards(kernel: VgpuKernel) -> None:
    """The kernel refuses the second on a card that the first fills (EINVAL)."""
    second = "0000:81:00.0"
    kernel.add_device(second, ids="10de:26b1", driver="nvidia", group=80, methods="bus")
    kernel.add_sriov(second, 3, offset=4, vf="26b1", matches="nvidia")
    kernel.write(kernel.device(second) / "sriov_numvfs", b"3")
    kernel.add_nvidia(second, ADA, pool=16)
    before = snapshot(kernel.root)
    tables = [{"type": "NVIDIA RTX6000-Ada-16Q"}] * 3
    made = make_plan(build({"name": "a", "vgpu": tables[:2]}), facts(kernel))
    engine = begin(kernel, made)
    assert {v.parent for v in made.vgpus} == {NVIDIA, second}
    end(engine)
    assert snapshot(kernel.root) == before
    assert faults(make_plan(build({"name": "a", "vgpu": tables}), facts(kernel))) == [
        "no card has room for this beside the machine's other vGPUs"
    ]
