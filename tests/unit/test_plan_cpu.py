"""-cpu and -smp, the Hyper-V set, what this QEMU knows, scheduling."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import plan_options
from qlaunch.facts.cgroup_model import Limits
from qlaunch.facts.model import Cpu, HostFacts, Kvm
from qlaunch.plan.model import Plan
from tests.fake.plans import QEMU, USER, host, planned, said

AMD = Kvm(present=True, usable=True, extension="svm")
NAMED = '[cpu]\nhyperv = ["relaxed", "vapic", "spinlocks", "runtime", "synic", "stimer"]\n'
KNOWING = replace(
    QEMU, cpus=("Haswell", "host", "max", "qemu64"),
    properties={"max-x86_64-cpu": ("aes", "sse4-1", "svm", "invtsc", "hv-relaxed", "hv-time")},
)


def option(plan: Plan, flag: str) -> tuple[str, str]:
    """Its words and its reasons."""
    return next((o.words[1], o.why) for o in plan_options(plan) if o.flag == flag)


def cpu(text: str, facts: HostFacts | None = None) -> str:
    return option(planned(text, facts), "-cpu")[0]


def test_the_named_set_and_what_qemu_refuses_it_without() -> None:
    words, why = option(planned(NAMED), "-cpu")
    assert words == (
        "host,hv-relaxed=on,hv-vapic=on,hv-spinlocks=8191,hv-runtime=on,hv-synic=on,"
        "hv-stimer=on,hv-vpindex=on,hv-time=on"
    )
    assert why == "cpu.model; cpu.hyperv; rule: QEMU refuses that set without vpindex and time"
    alone = option(planned('[cpu]\nhyperv = ["relaxed", "spinlocks"]\nhyperv_spinlocks = 4096\n'),
                   "-cpu")
    assert alone == (
        "host,hv-relaxed=on,hv-spinlocks=4096", "cpu.model; cpu.hyperv; cpu.hyperv_spinlocks"
    )
    assert "hv-vapic=on" in cpu('[cpu]\nhyperv = ["evmcs"]\n')


def test_no_enlightenments_without_kvm() -> None:
    """QEMU 7.2 ends at hv-vpindex when it emulates."""
    for guest in ("windows10", "windows7"):
        plan = planned(f'guest = "{guest}"\n[machine]\naccel = "tcg"\n')
        assert "hv-" not in option(plan, "-cpu")[0]
        assert not [p for p in plan.problems if p.where == "cpu.hyperv"]
    told = planned('[machine]\naccel = "tcg"\n' + NAMED)
    assert "hv-" not in option(told, "-cpu")[0]
    assert said(told, "note") == [
        "cpu.hyperv: Hyper-V enlightenments are KVM's, and left out of an emulated machine"
    ]


def test_threads_and_dies_of_an_amd_cpu() -> None:
    two = "[cpu]\ncores = 2\nthreads = 2\n"
    words, why = option(planned(two, host(kvm=AMD)), "-cpu")
    assert words == "host,topoext=on"
    assert "rule: an AMD CPU shows its threads by topoext" in why
    assert cpu(two, host(kvm=replace(AMD, extension="vmx"))) == "host"
    assert cpu("[cpu]\ncores = 2\n", host(kvm=AMD)) == "host"
    words, why = option(planned("[cpu]\ncores = 2\ndies = 2\n", host(kvm=AMD)), "-cpu")
    assert words == "host,topoext=on"
    assert "rule: an AMD CPU shows its dies by topoext" in why
    assert cpu(two + 'flags = ["-topoext"]\n', host(kvm=AMD)) == "host,topoext=off"
    assert cpu(two + 'model = "EPYC"\n', host(kvm=AMD)) == "EPYC"
    assert cpu('[machine]\naccel = "tcg"\n' + two, host(kvm=AMD)) == "max"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tsc_frequency = 2_000_000_000", "tsc-frequency=2000000000"),
        ('cache = "passthrough"', "host-cache-info=on,l3-cache=off"),
        ('cache = "emulate"', "l3-cache=on"),
        ('cache = "none"', "l3-cache=off"),
        ('phys_bits = "host"', "host-phys-bits=on"),
        ("phys_bits = 42", "host-phys-bits=off,phys-bits=42"),
        ("pmu = false", "pmu=off"),
        ("migratable = false", "migratable=off"),
        ("enforce = true", "enforce=on"),
        ("hide_kvm = true", "kvm=off"),
    ],
)
def test_properties(text: str, words: str) -> None:
    found, why = option(planned(f"[cpu]\n{text}\n"), "-cpu")
    assert found == f"host,{words}"
    assert why == f"cpu.model; cpu.{text.split(maxsplit=1)[0]}"


def test_dies() -> None:
    words, why = option(planned("[cpu]\ndies = 2\ncores = 3\n"), "-smp")
    assert words == "6,sockets=1,dies=2,cores=3,threads=1"
    assert why == "cpu.sockets; cpu.dies; cpu.cores; cpu.threads"


def test_what_this_qemu_does_not_know() -> None:
    facts = host(qemu=KNOWING)
    assert said(planned('[cpu]\nflags = ["+aes", "-sse4_1", "+sse4-1"]\n', facts)) == []
    plan = planned('[cpu]\nmodel = "Haswel"\nflags = ["+aes", "+invts"]\n', facts)
    assert [(p.where, p.found, p.hint) for p in plan.problems] == [
        ("cpu.flags[1]", "+invts", "did you mean invtsc?"),
        ("cpu.model", "Haswel", "did you mean Haswell?"),
    ]
    old = planned('[cpu]\nhyperv = ["relaxed", "xmm-input"]\n', facts)
    assert [(p.where, p.found) for p in old.problems] == [("cpu.hyperv", "xmm-input")]
    assert said(planned('[cpu]\nmodel = "Haswel"\nflags = ["+invts"]\n')) == []


def test_scheduling_needs_power() -> None:
    fifo = '[cpu]\nsched = "fifo"\n'
    plan = planned(fifo, host(limits=Limits()))
    assert plan.pins is not None
    assert (plan.pins.sched, plan.pins.priority, plan.pins.why) == ("fifo", 1, "cpu.sched")
    poor = Limits(priority=0, nice=0, memlock=8 << 20)
    assert not plan.root_for
    for text, key in (
        (fifo, "cpu.sched"), ("[cpu]\nnice = -1\n", "cpu.nice"),
        ("[memory]\nlock = true\n", "memory.lock"),
    ):
        plan = planned(text, host(limits=poor, invoker=USER))
        assert (plan.root_for, plan.needs_root) == (key, True)
        assert plan.account is not None  # planned as root will carry it out
    for text in ('[cpu]\nsched = "batch"\nnice = 5\n', ""):
        assert not planned(text, host(limits=poor, invoker=USER)).needs_root
    assert not planned(fifo, host(limits=replace(poor, priority=10), invoker=USER)).needs_root
    pinned = planned('[cpu]\nnice = 2\npin = { vcpus = [0] }\n', host(cpus=(Cpu(id=0),)))
    assert pinned.pins is not None
    assert (pinned.pins.nice, pinned.pins.why) == (2, "cpu.pin; cpu.nice")
