"""CPUs of a guest's own: what the plan says of them, and what leaves them for whom and how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.errors import HostError
from qlaunch.facts.cgroup_model import CgroupLevel, CpuPolicy, Tuning
from qlaunch.facts.model import Cpu, HostFacts
from qlaunch.facts.tuning import read_tuning
from qlaunch.host.cpuset import IsolateCpusHandler
from qlaunch.host.governor import SetGovernorHandler
from qlaunch.host.irqs import DEFAULT, MoveIrqsHandler, cpus_of, mask_of
from qlaunch.plan.cpu_steps import IsolateCpus, MoveIrqs, SetGovernor
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import MakeCgroup, Step
from qlaunch.profile.check import check_profile
from qlaunch.run.account import group_of
from qlaunch.values import CpuSet, parse_cpu_set
from tests.fake.kernel_cpus import CPUFREQ, WORK, CpuKernel
from tests.fake.kernel_tree import Fault, snapshot
from tests.fake.plans import USER, host, planned, profile, said

ALL = ("memory", "pids", "cpuset")
SLICE = CgroupLevel(path="/user.slice", has=ALL, on=ALL, root=True)
TOP = CgroupLevel(path="", has=ALL, top=True, root=True)
POLICY = CpuPolicy(cpus=CpuSet((0, 1)), governor="schedutil", offered=("performance", "schedutil"))
ISOLATE = '[cpu]\nisolate = true\ncores = 2\npin = { vcpus = ["1", "2"] }\n'
GOVERNOR = '[cpu]\ngovernor = "performance"\npin = { vcpus = ["1"] }\n'


def facts(*levels: CgroupLevel, **more: Any) -> HostFacts:
    return host(cgroup=levels or (SLICE, TOP), tuning=Tuning(systemd=True), **more)


def kinds(plan: Plan) -> list[type[Step]]:
    return [type(step) for step in plan.steps]


# -- plan


def test_steps_and_a_group_beside_those_that_leave() -> None:
    plan = planned(ISOLATE, facts())
    assert said(plan) == said(plan, "warning") == said(plan, "note") == []
    assert kinds(plan) == [IsolateCpus, MoveIrqs, MakeCgroup]
    assert plan.cgroup == "/qlaunch-vm"
    assert [str(step) for step in plan.steps] == [
        "keep the host's tasks off CPU 1-2", "keep device interrupts off CPU 1-2",
        "make the cgroup /qlaunch-vm",
    ]
    assert {step.why for step in plan.steps} == {"cpu.isolate"}
    assert plan.pins is not None
    assert plan.pins.emulator == (0,)
    assert "QEMU's own threads leave isolated CPUs" in plan.pins.why
    assert group_of(plan) == "/qlaunch-vm"  # it is not done without


def test_pins_that_are_said_stay() -> None:
    plan = planned(ISOLATE.replace('"2"] }', '"2"], emulator = "0-1" }'), facts())
    assert plan.pins is not None
    assert plan.pins.emulator == (0, 1)


def test_other_machines_that_run() -> None:
    """Their CPUs are none of our threads', and to be had by one only."""
    plan = planned(ISOLATE, facts(
        cpus=tuple(Cpu(id=n) for n in range(6)),
        pinned={"vm": CpuSet((1, 2)), "other": CpuSet((2, 4)), "third": CpuSet((5,))},
    ))
    assert plan.pins is not None
    assert plan.pins.emulator == (0, 3)
    assert said(plan, "warning") == [
        "cpu.isolate: vCPUs of other run on CPU 2, and lose it or share it"
    ]


@pytest.mark.parametrize("pin", ['"auto"', '{ vcpus = ["1"] }'])
def test_a_session_that_is_kept_off_them_may_start_it(pin: str) -> None:
    """As by the machine itself, which runs: its group is beside the session's."""
    narrow = facts(cpus=tuple(Cpu(id=n, allowed=n != 1) for n in range(2)))
    plan = planned(f"[cpu]\nisolate = true\npin = {pin}\n", narrow)
    assert said(plan) == []
    assert plan.pins is not None
    assert plan.pins.vcpus == ((1,),)
    assert said(planned(f"[cpu]\npin = {pin}\n", narrow)) + said(
        planned(f"[cpu]\npin = {pin}\n", narrow), "warning") != []


def test_limits_go_with_it() -> None:
    plan = planned(ISOLATE + "[limits]\npids = 100\n", facts(SLICE, replace(TOP, on=("memory",))))
    step = plan.steps[-1]
    assert isinstance(step, MakeCgroup)
    assert (step.path, step.pids, step.enable) == ("/qlaunch-vm", 100, ("pids",))


def test_an_ordinary_user_has_root_do_it() -> None:
    plan = planned(ISOLATE, replace(facts(), invoker=USER))
    assert (plan.needs_root, said(plan), plan.cgroup) == (True, [], "/qlaunch-vm")
    assert planned(GOVERNOR, replace(facts(), invoker=USER)).needs_root is False  # no cpufreq


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (facts(SLICE), "this host's control groups do not limit cpuset"),
        (facts(SLICE, replace(TOP, has=("memory", "pids"))),
         "this host's control groups do not limit cpuset"),
        (facts(SLICE, replace(TOP, root=False)), "the control groups are read-only here"),
        (host(cgroup=()), "this host's control groups cannot keep tasks off CPUs"),
        (facts(cpus=tuple(Cpu(id=n) for n in (1, 2))), "no CPU would be left to the host"),
    ],
)
def test_a_host_that_cannot(where: HostFacts, message: str) -> None:
    assert said(planned(ISOLATE, where)) == [f"cpu.isolate: {message}"]


def test_pins_that_come_to_nothing() -> None:
    plan = planned('[cpu]\ncores = 9\npin = "auto"\nisolate = true\n', facts())
    assert said(plan) == ["cpu.isolate: no vCPU is pinned, so that there are no CPUs for this"]
    assert kinds(plan) == [MakeCgroup]


def test_who_would_undo_it_is_told_of() -> None:
    found = planned(ISOLATE, replace(facts(), tuning=Tuning(irqbalance=812)))
    assert said(found, "warning") == [
        "cpu.isolate: irqbalance runs, and moves interrupts onto CPU 1-2 again"
    ]
    hint = next(p.hint for p in found.problems if p.severity == "warning")
    assert "IRQBALANCE_BANNED_CPULIST=1-2 " in hint
    assert said(found, "note")[0].startswith("cpu.isolate: only what is in a control group leaves")


def test_a_governor() -> None:
    tuned = Tuning(policies=(POLICY,))
    plan = planned(GOVERNOR, replace(facts(), tuning=tuned))
    assert said(plan) == []
    assert kinds(plan) == [SetGovernor, MakeCgroup]
    assert str(plan.steps[0]) == "run CPU 1 by the governor performance"
    wrong = planned(GOVERNOR.replace("performance", "turbo"), replace(facts(), tuning=tuned))
    assert said(wrong) == ["cpu.governor: this host has no governor turbo for CPU 0-1"]
    assert wrong.problems[0].allowed == "performance, schedutil"
    virtual = planned(GOVERNOR, facts())
    assert (said(virtual), kinds(virtual)) == ([], [MakeCgroup])
    assert len(said(virtual, "warning")) == 1


@pytest.mark.parametrize("pin", ["", 'pin = { emulator = "0" }\n'])
def test_they_are_about_pinned_cpus(pin: str) -> None:
    text = f'[cpu]\nisolate = true\ngovernor = "performance"\n{pin}'
    found = [(f.path, f.problem.found) for f in check_profile(profile(text))
             if f.path[:1] == ("cpu",)]
    assert found == [
        (("cpu", "isolate"), "isolate = true"), (("cpu", "governor"), "governor = performance")
    ]


# -- the host


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[CpuKernel]:
    kernel = CpuKernel(tmp_path)
    kernel.add_cpus()
    kernel.add_cgroups()
    kernel.add_group("services", tasks="88\n")
    kernel.add_group("users")
    yield kernel
    kernel.release()


def shown(kernel: CpuKernel, path: str) -> str:
    return (kernel.root / path).read_text().strip()


def cpusets(kernel: CpuKernel) -> dict[str, str]:
    files = (kernel.root / "sys/fs/cgroup").glob("*/cpuset.cpus")
    return {path.parent.name: path.read_text().strip() for path in files}


def isolated(machine: str, cpus: str) -> IsolateCpus:
    return IsolateCpus(machine=machine, cpus=parse_cpu_set(cpus))


def moved(machine: str, cpus: str) -> MoveIrqs:
    return MoveIrqs(machine=machine, cpus=parse_cpu_set(cpus))


def governed(machine: str, cpus: str, governor: str) -> SetGovernor:
    return SetGovernor(machine=machine, cpus=parse_cpu_set(cpus), governor=governor)


def notes(kernel: CpuKernel) -> list[str]:
    folder = kernel.root / "run/qlaunch"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_tasks_leave_the_cpus_of_both_machines(kernel: CpuKernel) -> None:
    """The one that began first ends first; neither's own group is narrowed."""
    kernel.write(kernel.root / "sys/fs/cgroup/cgroup.subtree_control", b"+memory")
    before, handler, where = snapshot(kernel.root), IsolateCpusHandler(), kernel.host()
    for name in ("qlaunch-a", "qlaunch-b"):
        kernel.add_group(name)
    a, b = isolated("a", "2"), isolated("b", "3")
    handler.apply(where, a, handler.capture(where, a))
    assert cpusets(kernel) == {
        "services": "0-1,3", "users": "0-1,3", "qlaunch-a": "", "qlaunch-b": "0-1,3"
    }
    assert shown(kernel, WORK) == "b"
    handler.apply(where, b, {})
    assert (cpusets(kernel)["users"], shown(kernel, WORK)) == ("0-1", "3")
    handler.undo(where, a, {})
    assert (cpusets(kernel)["users"], shown(kernel, WORK)) == ("0-2", "7")
    handler.undo(where, a, {})  # once more, by a recovery
    assert cpusets(kernel)["users"] == "0-2"
    for name in ("qlaunch-a", "qlaunch-b"):
        kernel.rmdir(kernel.root / "sys/fs/cgroup" / name)
    handler.undo(where, b, {})
    assert snapshot(kernel.root) == before
    assert notes(kernel) == []


def test_a_list_of_before_comes_back_and_the_controller_stays_on(kernel: CpuKernel) -> None:
    control = kernel.root / "sys/fs/cgroup/cgroup.subtree_control"
    kernel.write(control, b"+cpuset")
    kernel.write(kernel.root / "sys/fs/cgroup/users/cpuset.cpus", b"2-3")
    kernel.write(kernel.root / "sys/fs/cgroup/services/cpuset.cpus", b"2")
    handler, where, step = IsolateCpusHandler(), kernel.host(), isolated("a", "2")
    handler.apply(where, step, {})
    assert cpusets(kernel) == {"users": "3", "services": "0-1,3"}
    handler.undo(where, step, {})
    assert cpusets(kernel) == {"users": "2-3", "services": "2"}
    assert control.read_text() == "cpuset\n"


def test_what_cannot_be_emptied_gets_all_cpus(kernel: CpuKernel) -> None:
    """Where somebody else has the controller on: it does not go away with us."""
    kernel.write(kernel.root / "sys/fs/cgroup/cgroup.subtree_control", b"+cpuset")
    handler, where, step = IsolateCpusHandler(), kernel.host(), isolated("a", "2")
    for _ in range(2):
        handler.apply(where, step, {})
        assert cpusets(kernel) == {"users": "0-1,3", "services": "0-1,3"}
        handler.undo(where, step, {})
        assert cpusets(kernel) == {"users": "", "services": "0-3"}
        handler.undo(where, step, {})
    assert notes(kernel) == []


def test_what_others_have_set_since_stays(kernel: CpuKernel) -> None:
    handler, where, step = IsolateCpusHandler(), kernel.host(), isolated("a", "2")
    handler.apply(where, step, {})
    kernel.write(kernel.root / "sys/fs/cgroup/users/cpuset.cpus", b"1")
    (kernel.root / "sys/fs/cgroup/services/cgroup.procs").write_text("")
    kernel.rmdir(kernel.root / "sys/fs/cgroup/services")
    handler.undo(where, step, {})
    assert cpusets(kernel) == {"users": "1"}  # so that the controller is in use
    assert notes(kernel) == []


def test_a_group_that_hands_the_controller_on_keeps_it(kernel: CpuKernel) -> None:
    handler, where, step = IsolateCpusHandler(), kernel.host(), isolated("a", "2")
    handler.apply(where, step, {})
    kernel.write(kernel.root / "sys/fs/cgroup/users/cgroup.subtree_control", b"+cpuset")
    handler.undo(where, step, {})
    assert cpusets(kernel) == {"users": "", "services": "0-3"}


def test_two_machines_leave_the_host_a_cpu(kernel: CpuKernel) -> None:
    before = IsolateCpusHandler(), kernel.host()
    handler, where = before
    handler.apply(where, isolated("a", "0-1"), {})
    with pytest.raises(HostError, match="no CPU would be left") as found:
        handler.apply(where, isolated("b", "2-3"), {})
    assert found.value.problems[0].where == "a, b"
    handler.undo(where, isolated("b", "2-3"), {})
    assert cpusets(kernel)["users"] == "2-3"
    handler.undo(where, isolated("a", "0-1"), {})
    assert notes(kernel) == []


def test_systemd_is_asked_for_its_units(kernel: CpuKernel) -> None:
    kernel.add_systemd(init_scope="", system_slice="", user_slice="1-2")
    kernel.add_group("boot.mount")
    handler, where = IsolateCpusHandler(), kernel.host()
    a, b = isolated("a", "2"), isolated("b", "3")
    handler.apply(where, a, {})
    units = ("init.scope", "system.slice", "user.slice")
    assert [kernel.allowed(unit) for unit in units] == ["0-1,3", "0-1,3", "1"]
    assert cpusets(kernel)["services"] == "0-1,3"  # Docker's, say
    assert cpusets(kernel)["boot.mount"] == ""
    handler.apply(where, b, {})
    handler.undo(where, a, {})
    assert [kernel.allowed(unit) for unit in units] == ["0-2", "0-2", "1-2"]
    handler.undo(where, b, {})
    assert [kernel.allowed(unit) for unit in units] == ["", "", "1-2"]
    assert cpusets(kernel) == {
        "init.scope": "0-3", "system.slice": "0-3", "user.slice": "1-2", "services": "0-3",
        "users": "", "boot.mount": "",
    }
    assert notes(kernel) == []


def test_units_that_have_ended(kernel: CpuKernel) -> None:
    """A scope is forgotten with its group; a slice is known without one."""
    kernel.add_systemd(init_scope="", x_scope="", user_slice="")
    handler, where = IsolateCpusHandler(), kernel.host()
    a, b = isolated("a", "2"), isolated("b", "3")
    handler.apply(where, a, {})
    for unit in ("x.scope", "user.slice"):
        (kernel.root / "sys/fs/cgroup" / unit / "cgroup.procs").write_text("")
        kernel.rmdir(kernel.root / "sys/fs/cgroup" / unit)
    (kernel.root / ".model/units/x.scope").unlink()
    handler.apply(where, b, {})
    handler.undo(where, a, {})
    handler.undo(where, b, {})
    assert (kernel.allowed("init.scope"), kernel.allowed("user.slice")) == ("", "")
    assert notes(kernel) == []


def test_systemd_refuses(kernel: CpuKernel) -> None:
    """What it has done before goes back all the same."""
    kernel.add_systemd(init_scope="", system_slice="")
    kernel.faults = [Fault("system.slice", 1)]
    handler, where, step = IsolateCpusHandler(), kernel.host(), isolated("a", "2")
    with pytest.raises(HostError, match="systemd does not set AllowedCPUs=0-1,3") as found:
        handler.apply(where, step, {})
    assert found.value.problems[0].found.startswith("Failed to set unit properties")
    kernel.faults = []
    handler.undo(where, step, {})
    assert (kernel.allowed("init.scope"), cpusets(kernel)["init.scope"]) == ("", "0-3")
    assert notes(kernel) == []


def test_systemd_that_does_nothing_is_found_out(kernel: CpuKernel) -> None:
    kernel.add_systemd(system_slice="")
    file = kernel.root / "sys/fs/cgroup/system.slice/cpuset.cpus"
    kernel.after_write = lambda path, _: file.unlink() if path == "system.slice" else None
    with pytest.raises(HostError, match="systemd has not narrowed the group"):
        IsolateCpusHandler().apply(kernel.host(), isolated("a", "2"), {})


# -- interrupts


def lists(kernel: CpuKernel) -> dict[int, str]:
    files = (kernel.root / "proc/irq").glob("*/smp_affinity_list")
    return {int(path.parent.name): path.read_text().strip() for path in files}


def test_interrupts_leave_and_come_back(kernel: CpuKernel) -> None:
    for number, cpus in ((1, "0-3"), (2, "2"), (3, "0")):
        kernel.add_irq(number, cpus)
    kernel.add_irq(4, "2", managed=True)
    before, handler, where = snapshot(kernel.root), MoveIrqsHandler(), kernel.host()
    a, b = moved("a", "2"), moved("b", "3")
    handler.apply(where, a, handler.capture(where, a))
    assert lists(kernel) == {1: "0-1,3", 2: "0-1,3", 3: "0", 4: "2"}
    assert shown(kernel, f"proc/irq/{DEFAULT}") == "b"
    kernel.add_irq(5, "0-1,3")  # requested meanwhile
    handler.apply(where, b, {})
    assert lists(kernel) == {1: "0-1", 2: "0-1", 3: "0", 4: "2", 5: "0-1"}
    handler.undo(where, a, {})
    assert lists(kernel) == {1: "0-2", 2: "2", 3: "0", 4: "2", 5: "0-2"}
    kernel.add_irq(6, "0-2")
    handler.undo(where, b, {})
    assert (lists(kernel).pop(5), lists(kernel).pop(6)) == ("0-3", "0-3")
    after = snapshot(kernel.root)
    assert {key: after[key] for key in before} == before
    assert notes(kernel) == []


def test_an_interrupt_that_somebody_else_moves_is_theirs(kernel: CpuKernel) -> None:
    kernel.add_irq(1, "0-3")
    kernel.add_irq(2, "0-3")
    handler, where, step = MoveIrqsHandler(), kernel.host(), moved("a", "2")
    handler.apply(where, step, {})
    kernel.write(kernel.root / "proc/irq/1/smp_affinity_list", b"1")
    for path in sorted((kernel.root / "proc/irq/2").iterdir()):
        path.unlink()
    handler.undo(where, step, {})
    assert lists(kernel) == {1: "1"}
    assert shown(kernel, f"proc/irq/{DEFAULT}") == "f"


def test_masks_of_many_cpus() -> None:
    for text in ("0", "3,31", "32", "0-63", "0-1,70"):
        cpus = parse_cpu_set(text)
        assert cpus_of(mask_of(cpus)) == cpus
    assert mask_of(parse_cpu_set("0,33")) == "00000002,00000001"
    assert mask_of(parse_cpu_set("0-7")) == "ff"


# -- governors


def governors(kernel: CpuKernel) -> list[str]:
    return [shown(kernel, f"{CPUFREQ}/policy{n}/scaling_governor") for n in (0, 2)]


def test_governors_by_policy_and_machine(kernel: CpuKernel) -> None:
    handler, where = SetGovernorHandler(), kernel.host()
    a, b = governed("a", "1-2", "performance"), governed("b", "3", "powersave")
    handler.apply(where, a, handler.capture(where, a))
    assert governors(kernel) == ["performance", "performance"]
    handler.apply(where, b, {})
    assert governors(kernel) == ["performance", "powersave"]
    handler.undo(where, a, {})
    assert governors(kernel) == ["schedutil", "powersave"]
    handler.undo(where, b, {})
    assert governors(kernel) == ["schedutil", "schedutil"]
    assert notes(kernel) == []


def test_a_governor_that_was_changed_since_stays(kernel: CpuKernel) -> None:
    handler, where, step = SetGovernorHandler(), kernel.host(), governed("a", "0-3", "performance")
    handler.apply(where, step, {})
    kernel.write(kernel.root / CPUFREQ / "policy2/scaling_governor", b"powersave")
    handler.undo(where, step, {})
    assert governors(kernel) == ["schedutil", "powersave"]


def test_a_governor_that_there_is_not(kernel: CpuKernel) -> None:
    handler, where, step = SetGovernorHandler(), kernel.host(), governed("a", "0", "turbo")
    with pytest.raises(HostError, match="cannot be set to turbo") as found:
        handler.apply(where, step, {})
    assert found.value.problems[0].hint == "it may be one of: performance powersave schedutil"
    handler.undo(where, step, {})
    assert (governors(kernel), notes(kernel)) == (["schedutil", "schedutil"], [])


def test_facts(kernel: CpuKernel) -> None:
    kernel.put("proc/77/comm", "irqbalance\n")
    found = read_tuning(kernel.root)
    assert (found.irqbalance, found.systemd) == (77, False)
    assert [(p.cpus, p.governor, p.offered[0]) for p in found.policies] == [
        ((0, 1), "schedutil", "performance"), ((2, 3), "schedutil", "performance")
    ]
    assert read_tuning(kernel.root / "none") == Tuning()
