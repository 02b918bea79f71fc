"""What memory is made of, where it comes from, and whether there is enough."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import plan_options
from qlaunch.errors import Problem
from qlaunch.facts.model import Cpu, HostFile, HugePages, MemoryNode, Ram
from qlaunch.plan.draft import Draft
from qlaunch.plan.memory import plan_memory
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import MakeShared, ReserveHugePages
from tests.fake.plans import ROOT, host, planned, profile, said

GIB = 1 << 30
HEAD = '[machine]\nmemory = "64M"\n'
HUGE = '[machine]\nmemory = "64M"\nhugepages = true\n'


def options(plan: Plan, *flags: str) -> list[str]:
    return [" ".join(o.words) for o in plan_options(plan) if o.flag in flags]


def nodes(*free: int, pages: int = 0, size: int = 2 << 20) -> tuple[MemoryNode, ...]:
    """A node for each amount of free memory, each with free pages."""
    pool = HugePages(size=size, total=pages, free=pages)
    return tuple(
        MemoryNode(id=n, total=8 * GIB, free=one, hugepages=(pool,)) for n, one in enumerate(free)
    )


def test_ordinary_memory_is_left_to_qemu() -> None:
    plan = planned(HEAD)
    assert plan.memory is None
    assert options(plan, "-m", "-object", "-numa") == ["-m size=64M"]


@pytest.mark.parametrize(
    ("keys", "backend"),
    [
        ("share = true", "memfd,id=ram,size=64M,share=on"),
        ("share = false", "ram,id=ram,size=64M,share=off"),
        ('backend = "memfd"', "memfd,id=ram,size=64M"),
        ('backend = "anonymous"', "ram,id=ram,size=64M"),
        ('share = true\npath = "/x"', "file,id=ram,size=64M,mem-path=/x,share=on"),
        ("prealloc = true\nprealloc_threads = 4",
         "ram,id=ram,size=64M,prealloc=on,prealloc-threads=4"),
        ('host_nodes = "0,2-3"', "ram,id=ram,size=64M,host-nodes=0,host-nodes=2-3,policy=bind"),
        ('host_nodes = 1\npolicy = "preferred"',
         "ram,id=ram,size=64M,host-nodes=1,policy=preferred"),
    ],
)
def test_backends(keys: str, backend: str) -> None:
    plan = planned(HEAD + f"[memory]\n{keys}\n")
    assert options(plan, "-object") == [f"-object memory-backend-{backend}"]
    (machine,) = options(plan, "-machine")
    assert ",memory-backend=ram" in machine
    (why,) = [o.why for o in plan_options(plan) if o.flag == "-object"]
    assert why == "; ".join(f"memory.{k.split()[0]}" for k in keys.split("\n")
                            if not k.startswith("policy"))


def test_marks_of_all_memory() -> None:
    plan = planned(HEAD + "[memory]\nmerge = false\ndump = false\nlock = true\n")
    (machine,) = options(plan, "-machine")
    assert machine.endswith(",mem-merge=off,dump-guest-core=off")
    assert options(plan, "-object", "-overcommit") == ["-overcommit mem-lock=on"]
    assert plan.memlock == (64 << 20) + GIB
    assert planned(HEAD + "[memory]\nmerge = true\n").memlock is None


def draft(text: str, **facts: Any) -> Draft:
    """A plan in the making, as a family that needs shared memory finds it."""
    made = Draft(profile(text), host(**facts), None)
    made.share_memory = "share[0]"
    return made


def test_a_device_that_needs_shared_memory() -> None:
    plan = plan_memory(draft(HEAD), None)
    assert plan is not None
    (backend,) = plan.backends
    assert (backend.type, backend.share) == ("memory-backend-memfd", True)
    assert backend.why == "rule: share[0] needs memory that another process can map"
    against = draft(HEAD + "[memory]\nshare = false\n")
    plan_memory(against, None)
    (problem,) = against.problems
    assert (problem.where, problem.severity) == ("memory.share", "error")


def test_guest_nodes() -> None:
    text = (
        HEAD.replace("64M", "96M") + "[cpu]\ncores = 4\n"
        '[[numa]]\ncpus = "0-1,3"\nmemory = "64M"\nhost_nodes = "1"\n'
        '[[numa]]\ncpus = "2"\nmemory = "32M"\n'
    )
    plan = planned(text, host(memory=nodes(GIB, GIB)))
    assert options(plan, "-object", "-numa") == [
        "-object memory-backend-ram,id=ram0,size=64M,host-nodes=1,policy=bind",
        "-object memory-backend-ram,id=ram1,size=32M",
        "-numa node,nodeid=0,cpus=0-1,cpus=3,memdev=ram0",
        "-numa node,nodeid=1,cpus=2,memdev=ram1",
    ]
    assert "memory-backend=" not in options(plan, "-machine")[0]
    assert said(plan) == []
    huge = planned(text.replace("[cpu]", "hugepages = true\n[cpu]"),
                   host(memory=nodes(GIB, GIB, pages=20)))
    steps = [s for s in huge.steps if isinstance(s, ReserveHugePages)]
    assert [(s.node, s.count) for s in steps] == [(1, 32)]  # 16 of 40 free ones do for the other
    absent = planned(text, host(memory=nodes(GIB)))
    assert said(absent) == ["numa[0].host_nodes: this host has no memory on node 1"]


def test_pages_are_spread_over_several_nodes() -> None:
    text = HUGE.replace("64M", "66M") + '[memory]\nhost_nodes = "0-1"\npolicy = "interleave"\n'
    plan = planned(text, host(memory=nodes(GIB, GIB)))
    assert [(s.node, s.count) for s in plan.steps if isinstance(s, ReserveHugePages)] == [
        (0, 17), (1, 16),
    ]
    preferred = text.replace("0-1", "1").replace("interleave", "preferred")
    plan = planned(preferred, host(memory=nodes(GIB, GIB)))
    assert [s.node for s in plan.steps if isinstance(s, ReserveHugePages)] == [None]


def test_ordinary_memory_bound_to_a_node_that_has_less() -> None:
    bound = '[machine]\nmemory = "2G"\n[memory]\nhost_nodes = "1"\n'
    facts = host(memory=nodes(4 * GIB, GIB))
    (problem,) = planned(bound, facts).problems
    assert problem.message == "node 1 has less memory than the guest is to have from it"
    assert (problem.severity, problem.found) == ("warning", "1024M free of 8192M")
    assert planned(bound.replace("2G", "8G"), facts).problems[0].severity == "error"
    assert planned(bound + 'policy = "preferred"\n', facts).problems == ()
    assert planned(bound.replace('"1"', '"0-1"'), facts).problems == ()


def test_huge_pages_without_memory_for_them() -> None:
    facts = host(memory=nodes(20 << 20, pages=3))
    (problem,) = planned(HUGE, facts).problems
    assert problem.message == "this host has too little free memory for the huge pages"
    assert problem.found == "20M free and 6M in free huge pages, of 8192M"
    assert said(planned(HUGE, host(memory=nodes(58 << 20, pages=3)))) == []


def test_binding_follows_the_pins_with_huge_pages_only() -> None:
    cpus = tuple(Cpu(id=n, node=n // 2) for n in range(4))
    facts = host(cpus=cpus, memory=nodes(GIB, GIB))
    pins = "[cpu]\npin = { vcpus = [3] }\n"
    (words,) = options(planned(HUGE + pins, facts), "-object")
    assert words.endswith(",host-nodes=1,policy=bind")
    assert options(planned(HEAD + pins, facts), "-object") == []
    across = '[cpu]\ncores = 2\npin = { vcpus = ["1", "2"] }\n'
    assert "policy" not in options(planned(HUGE + across, facts), "-object")[0]
    one_node = host(cpus=tuple(replace(c, node=0) for c in cpus), memory=nodes(GIB))
    assert "policy" not in options(planned(HUGE + pins, one_node), "-object")[0]
    named = HUGE + pins + '[memory]\nhost_nodes = "0"\n'
    assert "host-nodes=0," in options(planned(named, facts), "-object")[0]


def amount(memory: str, total: int, available: int, more: str = "") -> list[Problem]:
    ram = Ram(total=total, available=available)
    return list(planned(f'[machine]\nmemory = "{memory}"\n{more}', host(ram=ram)).problems)


def test_more_than_the_host_has() -> None:
    (problem,) = amount("8G", 8 * GIB, 7 * GIB)
    assert (problem.severity, problem.where) == ("error", "machine.memory")
    assert problem.message == "the guest's 8G are more than this host has"
    assert problem.found == "8192M, of which 7168M are free"
    (problem,) = amount("4G", 8 * GIB, 3 * GIB)
    assert problem.severity == "warning"
    assert amount("4G", 8 * GIB, 4 * GIB) == []
    assert amount("4G", 8 * GIB, 3 * GIB, "hugepages = true\n") == []  # its pool is looked at


@pytest.mark.parametrize(
    ("kind", "writable", "message"),
    [
        ("directory", True, ""), ("file", True, ""), ("missing", True, ""),
        ("missing", False, "user, who QEMU runs as, may not write this file"),
        ("directory", False, "user may not write there"),
        ("block", True, "this is neither a file nor a directory"),
    ],
)
def test_where_the_memory_file_lies(kind: Any, writable: bool, message: str) -> None:
    files = (
        HostFile(path="/x", kind=kind, writable=writable), HostFile(path="/dev/kvm", kind="char"),
    )
    plan = planned(HEAD + '[memory]\npath = "/x"\n', host(files=files, invoker=ROOT))
    assert said(plan) == ([f"memory.path: {message}"] if message else [])


TWO = '[[numa]]\nmemory = "32M"\ncpus = 0\n[[numa]]\nmemory = "32M"\ncpus = 1\n'


@pytest.mark.parametrize(
    ("keys", "kind", "aliased"),
    [
        ("share = true\n", "file", True), ("share = true\n", "missing", True),
        ("share = true\n", "directory", False), ("", "file", False), ("", "missing", False),
        ('[[share]]\npath = "/h"\ntag = "h"\n', "file", True),  # virtiofs wants it shared
    ],
)
def test_nodes_do_not_share_one_file(keys: str, kind: Any, aliased: bool) -> None:
    files = (HostFile(path="/x", kind=kind), HostFile(path="/dev/kvm", kind="char"))
    text = HEAD + f'[memory]\npath = "/x"\n{keys}' + TWO
    plan = planned(text, host(files=files, invoker=ROOT))
    assert [line.partition(",")[0] for line in said(plan)] == [
        "memory.path: the guest's nodes would be one and the same memory: each maps this file from "
        "its beginning"] * aliased
    if aliased:
        assert "a directory" in plan.problems[0].hint
    one = planned(HEAD + f'[memory]\npath = "/x"\n{keys}', host(files=files, invoker=ROOT))
    assert said(one) == []


@pytest.mark.parametrize("kind", ["missing", "file", "directory"])
def test_a_memory_file_that_qemu_makes_goes_with_the_machine(kind: Any) -> None:
    files = (HostFile(path="/x", kind=kind), HostFile(path="/dev/kvm", kind="char"))
    plan = planned(HEAD + '[memory]\npath = "/x"\n', host(files=files, invoker=ROOT))
    made = [step for step in plan.steps if isinstance(step, MakeShared)]
    assert [(s.path, s.size, s.uid, s.ours) for s in made] == [
        ("/x", 64 << 20, ROOT.uid, False)] * (kind == "missing")
    assert not plan.needs_root
