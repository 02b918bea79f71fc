"""`pin = "auto"` on the machines that people have."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlaunch.argv.render import plan_options
from qlaunch.cli.common import Made
from qlaunch.cli.plan import plan_text, shown
from qlaunch.facts.model import Cpu, HugePages, MemoryNode
from qlaunch.plan.autopin import Picked, Wish, pick, pick_by_nodes
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import ReserveHugePages
from qlaunch.plan.topology import cores_of
from qlaunch.profile.read import read_profile
from qlaunch.values import CpuSet
from tests.fake.plans import device, host, planned, said
from tests.fake.topologies import MACHINES, cpus_of, lists
from tests.fake.trees import Tree

GIB = 1 << 30


def picked(root: Path, machine: str, cores: int, **wish: object) -> Picked:
    """What is picked, and it is something."""
    found = pick(cpus_of(machine, root), Wish(1, cores, **wish))  # type: ignore[arg-type]
    assert isinstance(found, Picked), found
    return found


def test_four_cores_without_threads(tmp_path: Path) -> None:
    found = picked(tmp_path, "four_cores", 3)
    assert (lists(found.vcpus), str(found.rest)) == ("1 2 3", "0")
    assert (found.cores, found.threads) == (3, 1)


def test_pairs_of_one_cache(tmp_path: Path) -> None:
    found = picked(tmp_path, "eight_smt", 8)
    assert lists(found.vcpus) == "1 9 2 10 3 11 4 12"
    assert (found.cores, found.threads) == (4, 2)
    assert str(found.rest) == "0,5-8,13-15"
    assert "CPU 0,8 is left to the host" in found.reasons


def test_threads_of_the_profile_are_kept(tmp_path: Path) -> None:
    """A guest of single threads gets a core for each, and shares them only when it must."""
    alone = picked(tmp_path, "eight_smt", 6, threads=1)
    assert lists(alone.vcpus) == "1,9 2,10 3,11 4,12 5,13 6,14"
    assert (alone.cores, alone.threads) == (6, 1)
    packed = picked(tmp_path, "eight_smt", 8, threads=1)
    assert lists(packed.vcpus) == "1 9 2 10 3 11 4 12"
    assert (packed.cores, packed.threads) == (8, 1)
    odd = picked(tmp_path, "eight_smt", 3)
    assert (lists(odd.vcpus), odd.threads) == ("1,9 2,10 3,11", 1)
    unpaired = picked(tmp_path, "four_cores", 1, threads=2)
    assert lists(unpaired.vcpus) == "1 2"
    assert unpaired.warnings == ("the guest sees 2 threads a core, and the host's have none",)


def test_the_larger_cache_when_it_is_enough(tmp_path: Path) -> None:
    found = picked(tmp_path, "two_ccds", 12)
    assert lists(found.vcpus) == "1 17 2 18 3 19 4 20 5 21 6 22"
    assert "one level 3 cache (96 MiB)" in found.reasons
    whole = picked(tmp_path, "two_ccds", 16)  # the host's core is missing in the large one
    assert lists(whole.vcpus).startswith("8 24 9 25")
    assert "one level 3 cache (32 MiB)" in whole.reasons
    both = picked(tmp_path, "two_ccds", 20)
    assert len(both.vcpus) == 20
    assert "2 level 3 caches (96+32 MiB), as none has enough cores" in both.reasons


def test_a_die_for_each_cache(tmp_path: Path) -> None:
    """Of two that have seven and eight cores for the guest."""
    both = picked(tmp_path, "two_ccds", 24)
    assert lists(both.vcpus) == (
        "1 17 2 18 3 19 4 20 5 21 6 22 8 24 9 25 10 26 11 27 12 28 13 29"
    )
    assert (both.dies, both.cores, both.threads, both.warnings) == (2, 6, 2, ())
    assert both.reasons[-1] == "a guest die on each cache"
    told = pick(cpus_of("two_ccds", tmp_path / "b"), Wish(2, 6, 2, split=False))
    assert isinstance(told, Picked)
    assert (told.vcpus, told.dies, told.warnings) == (both.vcpus, 2, ())
    assert "2 level 3 caches (96+32 MiB)" in told.reasons
    alone = picked(tmp_path / "c", "two_ccds", 10, threads=1)
    assert (alone.dies, alone.cores, alone.threads) == (2, 5, 1)
    shared = pick(cpus_of("eight_smt", tmp_path / "d"), Wish(2, 3, 2, split=False))
    assert isinstance(shared, Picked)
    assert (lists(shared.vcpus[6:]), shared.warnings) == ("4 12 5 13 6 14", ())
    assert shared.reasons[-1] == "2 guest dies on 1 level 3 cache"


def test_dies_that_no_cache_has_room_for(tmp_path: Path) -> None:
    one = "the guest sees one level 3 cache, and its vCPUs are on 2"
    odd = picked(tmp_path, "two_ccds", 13, threads=1)
    assert (odd.dies, odd.cores, odd.warnings) == (1, 13, (one,))
    said_so = picked(tmp_path / "b", "two_ccds", 24, split=False)  # dies = 1 in the profile
    assert (said_so.dies, said_so.cores, said_so.warnings) == (1, 12, (one,))
    three = pick(cpus_of("two_ccds", tmp_path / "c"), Wish(3, 5, 2, split=False))
    assert isinstance(three, Picked)
    assert (three.dies, three.cores) == (3, 5)
    assert three.warnings == ("a die of the guest is on more than one level 3 cache",)


def test_performance_cores_only(tmp_path: Path) -> None:
    found = picked(tmp_path, "hybrid", 12)
    assert lists(found.vcpus) == "2 3 4 5 6 7 8 9 10 11 12 13"
    assert "performance cores only" in found.reasons
    assert str(found.rest) == "0-1,14-23"
    too_many = pick(cpus_of("hybrid", tmp_path / "b"), Wish(1, 16))
    assert too_many == "7 performance cores (CPU 2-15), beside CPU 0-1 of the host"


def test_the_node_of_the_card(tmp_path: Path) -> None:
    found = picked(tmp_path, "two_sockets", 16, near=1, near_what="0000:81:00.0")
    assert lists(found.vcpus).startswith("16 48 17 49")
    assert found.nodes == (1,)
    assert set(found.rest) <= set(range(16, 32)) | set(range(48, 64))
    assert "node 1, where 0000:81:00.0 is" in found.reasons
    assert picked(tmp_path / "b", "two_sockets", 4).nodes == (0,)
    wide = picked(tmp_path / "c", "two_sockets", 40, near=1, near_what="x")
    assert (wide.nodes, wide.dies, wide.cores) == ((0, 1), 2, 10)
    assert lists(wide.vcpus[:2]) == "16 48"
    assert wide.warnings == ("the vCPUs are on nodes 0-1, as none has enough free cores",)
    # 31 cores of both nodes would do, but one node is worth more than a core each.
    near = picked(tmp_path / "d", "two_sockets", 20, threads=1, near=1)
    assert (near.nodes, near.threads) == ((1,), 1)
    away = picked(tmp_path / "e", "two_sockets", 32, near=0, near_what="x")
    assert away.nodes == (1,)
    assert away.warnings == ("node 0, where x is, has too few free cores",)


def test_what_the_cgroup_denies(tmp_path: Path) -> None:
    """A container's CPUs, say."""
    tree = Tree(tmp_path)
    tree.write("proc/self/cgroup", "0::/docker/x")
    tree.write("sys/fs/cgroup/docker/cpuset.cpus.effective", "2-5,10-13")
    cpus = cpus_of("eight_smt", tmp_path)
    assert [c.id for c in cpus if c.allowed] == [2, 3, 4, 5, 10, 11, 12, 13]
    found = pick(cpus, Wish(1, 4))
    assert isinstance(found, Picked)
    assert (lists(found.vcpus), str(found.rest)) == ("3 11 4 12", "2,5,10,13")
    by_hand = planned('[cpu]\npin = { vcpus = ["1,3"] }\n', host(cpus=cpus))
    assert said(by_hand) == ["cpu.pin.vcpus[0]: this session's cgroup does not allow CPU 1"]
    assert by_hand.problems[0].allowed == "2-5,10-13"


def test_cgroups_of_the_first_kind(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("proc/self/cgroup", "3:memory:/a\n2:cpuset:/\n0::/a")
    tree.write("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0-1")
    assert [c.id for c in cpus_of("four_cores", tmp_path) if c.allowed] == [0, 1]


def test_guest_nodes_are_on_the_nodes_of_their_memory(tmp_path: Path) -> None:
    cpus = cpus_of("two_sockets", tmp_path)
    ways = [(CpuSet((0, 1, 2, 3)), frozenset((1,))), (CpuSet((4, 5)), frozenset((0,)))]
    found = pick_by_nodes(cpus, Wish(1, 6), ways)
    assert isinstance(found, Picked)
    assert lists(found.vcpus) == "16 48 17 49 1 33"
    assert (found.dies, found.cores, found.threads, found.nodes) == (1, 3, 2, (0, 1))
    assert found.warnings == ("the guest sees one level 3 cache, and its vCPUs are on 2",)
    assert not {1, 33, 16, 48, 17, 49} & set(found.rest)
    assert {0, 32} <= set(found.rest)
    crossed = pick_by_nodes(
        cpus, Wish(1, 4), [(CpuSet((0, 2)), frozenset((0,))), (CpuSet((1, 3)), frozenset((1,)))]
    )
    assert isinstance(crossed, Picked)
    assert (lists(crossed.vcpus), crossed.threads) == ("1,33 16,48 2,34 17,49", 1)
    same = pick_by_nodes(
        cpus, Wish(2, 2, 2), [(CpuSet(range(4)), frozenset((0,))),
                              (CpuSet(range(4, 8)), frozenset((0,)))],
    )
    assert isinstance(same, Picked)
    assert lists(same.vcpus) == "1 33 2 34 3 35 4 36"
    assert (same.dies, same.warnings) == (2, ())
    even = [(CpuSet(range(4)), frozenset((1,))), (CpuSet(range(4, 8)), frozenset((0,)))]
    dies = pick_by_nodes(cpus, Wish(1, 8), even)
    assert isinstance(dies, Picked)
    assert lists(dies.vcpus) == "16 48 17 49 1 33 2 34"
    assert (dies.dies, dies.cores, dies.threads, dies.warnings) == (2, 2, 2, ())
    two = [(CpuSet(range(8)), frozenset((1,))), (CpuSet(range(8, 16)), frozenset((0,)))]
    four = pick_by_nodes(cpus, Wish(4, 2, 2, split=False), two)
    assert isinstance(four, Picked)
    assert (four.dies, four.cores, four.warnings) == (4, 2, ())
    assert four.reasons[-1] == "4 guest dies on 2 level 3 caches"
    much = pick_by_nodes(cpus, Wish(1, 40), [(CpuSet(range(40)), frozenset((1,)))])
    assert much == "node 1: 16 cores (CPU 16-31,48-63), beside CPU 0,32 of the host"


def test_guest_nodes_on_a_host_without_threads(tmp_path: Path) -> None:
    found = pick_by_nodes(
        cpus_of("four_cores", tmp_path), Wish(1, 2), [(CpuSet((0, 1)), frozenset((0,)))]
    )
    assert isinstance(found, Picked)
    assert (lists(found.vcpus), found.threads, found.warnings) == ("1 2", 1, ())


def test_offline_and_isolated(tmp_path: Path) -> None:
    isolated = picked(tmp_path, "holes", 6)
    assert lists(isolated.vcpus) == "4 12 5 13 6 14"
    assert "the CPUs that are isolated from the scheduler" in isolated.reasons
    assert str(isolated.rest) == "0-3,7-8,10-11"
    more = picked(tmp_path / "b", "holes", 10)
    assert lists(more.vcpus) == "2 10 3 11 4 12 5 13 6 14"
    assert str(more.rest) == "0-1,7-8"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_always_holds(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """vCPUs have CPUs of their own, whole cores, the first one spared, and those of a die one level
    3 cache or a warning; else nothing is picked."""
    name = data.draw(st.sampled_from(sorted(MACHINES)))
    cpus = known(name, tmp_path_factory)
    wish = Wish(
        data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40)),
        data.draw(st.sampled_from((None, 1, 2))), data.draw(st.sampled_from((None, 0, 1))),
        split=data.draw(st.booleans()),
    )
    off = data.draw(st.sets(st.integers(1, len(cpus) - 1), max_size=6))
    changed = tuple(
        Cpu(**{f: getattr(c, f) for f in c.__struct_fields__ if f != "online"},
            online=c.online and c.id not in off)
        for c in cpus
    )
    found = pick(changed, wish)
    cores = cores_of(changed)
    if isinstance(found, str):
        usable = sum(len(c.cpus) for c in cores[1:] if c.kind != "efficient")
        assert "beside CPU" in found
        assert wish.vcpus > usable // 2 or wish.threads == 2
        return
    used = [cpu for vcpu in found.vcpus for cpu in vcpu]
    online = {c.id for c in changed if c.online}
    assert len(found.vcpus) == wish.vcpus == found.dies * found.cores * found.threads
    assert found.dies == wish.dies or (wish.split and found.dies % wish.dies == 0)
    assert len(used) == len(set(used))
    assert set(used) <= online - set(cores[0].cpus)
    assert found.rest
    assert set(found.rest) <= online
    touched = [core for core in cores if set(core.cpus) & set(used)]
    assert not set(found.rest) & {cpu for core in touched for cpu in core.cpus}
    assert all(core.kind != "efficient" for core in touched)
    each = found.cores * found.threads
    for die in range(0, wish.vcpus, each):
        on = {where for cpu in found.vcpus[die : die + each] for where in caches_of(changed, cpu)}
        assert len(on) == 1 or any("level 3 cache" in warning for warning in found.warnings)
    if found.threads == 2 and not any("threads a core" in w for w in found.warnings):
        for first, second in zip(found.vcpus[::2], found.vcpus[1::2], strict=True):
            assert any({*first, *second} <= set(core.cpus) for core in cores)


def caches_of(cpus: tuple[Cpu, ...], vcpu: CpuSet) -> set[CpuSet]:
    """Every machine here has level 3 caches."""
    return {cpu.l3 for cpu in cpus if cpu.id in vcpu}


_KNOWN: dict[str, tuple[Cpu, ...]] = {}


def known(name: str, factory: pytest.TempPathFactory) -> tuple[Cpu, ...]:
    """Read once."""
    if name not in _KNOWN:
        _KNOWN[name] = cpus_of(name, factory.mktemp(name))
    return _KNOWN[name]


# -- in a plan --------------------------------------------------------------------------------


def argument(plan: Plan, flag: str) -> str:
    """The words of the first option of that name."""
    return next(o.words[1] for o in plan_options(plan) if o.flag == flag)


def test_the_guest_sees_what_was_picked(tmp_path: Path) -> None:
    facts = host(cpus=cpus_of("eight_smt", tmp_path))
    plan = planned('[cpu]\ncores = 8\npin = "auto"\n', facts)
    assert argument(plan, "-smp") == "8,sockets=1,cores=4,threads=2"
    assert plan.pins is not None
    assert plan.pins.emulator == plan.pins.iothreads == CpuSet((0, 5, 6, 7, 8, 13, 14, 15))
    assert plan.pins.why.startswith("cpu.pin; rule: whole cores")
    kept = planned('[cpu]\ncores = 4\nthreads = 1\npin = "auto"\n', facts)
    assert argument(kept, "-smp") == "4,sockets=1,cores=4,threads=1"
    by_hand = '[cpu]\ncores = 2\npin = { vcpus = ["1", "9"] }\n'
    assert argument(planned(by_hand, facts), "-smp") == "2,sockets=1,cores=2,threads=1"


def test_dies_are_on_caches(tmp_path: Path) -> None:
    facts = host(cpus=cpus_of("two_ccds", tmp_path))
    plan = planned('[cpu]\ncores = 24\npin = "auto"\n', facts)
    assert argument(plan, "-smp") == "24,sockets=1,dies=2,cores=6,threads=2"
    assert plan.problems == ()
    (smp,) = [o for o in plan_options(plan) if o.flag == "-smp"]
    assert smp.why.endswith("rule: a die for each level 3 cache that the vCPUs are on")
    by_key = '[cpu]\ndies = 2\ncores = 6\nthreads = 2\npin = "auto"\n'
    other = planned(by_key, facts)
    assert argument(other, "-smp") == argument(plan, "-smp")
    assert other.pins is not None
    assert other.pins.vcpus == (plan.pins.vcpus if plan.pins else None)
    sockets = planned('[cpu]\nsockets = 2\ncores = 12\npin = "auto"\n', facts)
    assert argument(sockets, "-smp") == "24,sockets=2,cores=6,threads=2"
    one = planned('[cpu]\ndies = 1\ncores = 24\npin = "auto"\n', facts)
    assert argument(one, "-smp") == "24,sockets=1,cores=12,threads=2"
    (told,) = said(one, "warning")
    assert told == "cpu.pin: the guest sees one level 3 cache, and its vCPUs are on 2"


def test_a_host_that_is_too_small(tmp_path: Path) -> None:
    facts = host(cpus=cpus_of("four_cores", tmp_path))
    plan = planned('[cpu]\ncores = 4\npin = "auto"\n', facts)
    assert plan.pins is None
    assert argument(plan, "-smp") == "4,sockets=1,cores=4,threads=1"
    (problem,) = plan.problems
    assert problem.severity == "warning"
    assert problem.found == "3 cores (CPU 1-3), beside CPU 0 of the host"
    nobody_looked = planned('[cpu]\ncores = 4\npin = "auto"\n', host(cpus=None))
    assert (nobody_looked.pins, nobody_looked.problems) == (None, ())


def test_beside_the_machines_that_run(tmp_path: Path) -> None:
    facts = host(
        cpus=cpus_of("eight_smt", tmp_path),
        pinned={"win7": CpuSet((1, 9, 10)), "vm": CpuSet((3,))},  # the second is itself
    )
    plan = planned('[cpu]\ncores = 4\npin = "auto"\n', facts)
    assert plan.pins is not None
    assert lists(plan.pins.vcpus) == "3 11 4 12"
    assert not {1, 2, 9, 10} & set(plan.pins.emulator or ())
    assert plan.pins.why.endswith("; rule: beside CPU 1,9-10 of win7")
    full = planned('[cpu]\ncores = 12\npin = "auto"\n', facts)
    assert full.pins is None
    (problem,) = full.problems
    assert problem.found.endswith("beside CPU 0,8 of the host and CPU 1,9-10 of win7")


def nodes(free: int, pages: tuple[int, int] = (0, 0)) -> tuple[MemoryNode, ...]:
    """Two nodes with so much free, and free pages of 2M."""
    return tuple(
        MemoryNode(
            id=n, total=64 * GIB, free=free,
            hugepages=(HugePages(size=2 << 20, total=pages[n], free=pages[n]),),
        )
        for n in (0, 1)
    )


def test_memory_of_the_node_that_the_vcpus_are_on(tmp_path: Path) -> None:
    card = device("81:00.0", numa_node=1)
    facts = host(card, cpus=cpus_of("two_sockets", tmp_path), memory=nodes(60 * GIB, (9999, 24)))
    text = (
        '[machine]\nmemory = "64M"\nhugepages = true\n[cpu]\ncores = 4\npin = "auto"\n'
        '[[pci]]\ndevice = "81:00.0"\n'
    )
    plan = planned(text, facts)
    assert said(plan) == []
    assert argument(plan, "-object") == (
        "memory-backend-memfd,id=ram,size=64M,hugetlb=on,hugetlbsize=2M,prealloc=on,"
        "host-nodes=1,policy=bind"
    )
    (step,) = [s for s in plan.steps if isinstance(s, ReserveHugePages)]
    assert (step.node, step.count) == (1, 32)
    by_hand = text.replace('"auto"', '{ vcpus = ["1", "2", "3", "20"] }')
    assert "host-nodes" not in argument(planned(by_hand, facts), "-object")
    scarce = planned(text, host(card, cpus=facts.cpus, memory=nodes(8 << 20, (9999, 24))))
    (problem,) = [p for p in scarce.problems if p.severity == "error"]
    assert problem.message == "node 1 has too little free memory for the huge pages"
    assert problem.found == "8M free and 48M in free huge pages, of 65536M"
    assert problem.allowed == "64M are needed"


def test_the_plan_shows_where_threads_run(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(
        '[cpu]\ncores = 4\npin = "auto"\nsched = "fifo"\n[[disk]]\nfile = "/x"\nformat = "raw"\n',
        encoding="utf-8",
    )
    loaded = read_profile(path, (), root_user=False)
    facts = host(cpus=cpus_of("eight_smt", tmp_path / "host"))
    made = Made(loaded, facts, make_plan(loaded.profile, facts))
    text = plan_text(made)
    assert text[text.index("threads:") : text.index("command line:")] == """\
threads:
  # vm.toml:3 cpu.pin; rule: whole cores, the guest's threads paired as the
  # host's; rule: CPU 0,8 is left to the host; vm.toml:4 cpu.sched
  vCPUs 0-1    on CPU 1 and 9
  vCPUs 2-3    on CPU 2 and 10
  emulator     on CPU 0,3-8,11-15
  iothreads    on CPU 0,3-8,11-15
  vCPUs        scheduled as fifo, priority 1

"""
    assert shown(made).pins == made.plan.pins
