"""CPUs and memory from recorded trees: who shares what, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.facts.cpus import read_cpus
from qlaunch.facts.memory import read_memory
from qlaunch.facts.model import HugePages
from qlaunch.values import CpuSet
from tests.fake.trees import Tree, hybrid, numa2, smt8

MIB = 1 << 20


def test_second_threads_share_their_core(tmp_path: Path) -> None:
    smt8(tmp_path)
    cpus = read_cpus(tmp_path)
    assert [c.id for c in cpus] == list(range(8))
    assert [c.core for c in cpus] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert cpus[5].siblings == CpuSet((1, 5))
    assert {c.l3 for c in cpus} == {CpuSet(range(8))}
    assert cpus[7].l3_kib == 8192
    assert cpus[7].max_khz == 4000000
    assert all(c.online and not c.isolated and c.kind == "" for c in cpus)


def test_hybrid_kinds(tmp_path: Path) -> None:
    hybrid(tmp_path)
    cpus = read_cpus(tmp_path)
    assert [c.kind for c in cpus] == ["performance"] * 4 + ["efficient"] * 4
    assert cpus[3].siblings == CpuSet((2, 3))
    assert cpus[4].siblings == CpuSet((4,))
    assert [c.max_khz for c in cpus[3:5]] == [5000000, 3800000]


def test_offline_isolated_and_nodes(tmp_path: Path) -> None:
    numa2(tmp_path)
    cpus = read_cpus(tmp_path)
    assert [c.id for c in cpus if not c.online] == [3]
    assert cpus[3].siblings == CpuSet()
    assert [c.id for c in cpus if c.isolated] == [6, 7]
    assert [c.node for c in cpus] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [c.package for c in cpus] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (cpus[0].l3, cpus[0].l3_kib) == (CpuSet((0, 1, 2)), 16384)
    assert (cpus[5].l3, cpus[5].l3_kib) == (CpuSet((4, 5, 6, 7)), 32768)


def test_no_level_3_cache_is_unknown(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.cpus("0")
    tree.cpu(0, 0, "0")
    (cpu,) = read_cpus(tmp_path)
    assert (cpu.l3, cpu.l3_kib, cpu.max_khz) == (CpuSet(), None, None)


@pytest.mark.parametrize("text", ["", "7-3", "zero", "0-99999"])
def test_a_garbled_list_is_no_failure(tmp_path: Path, text: str) -> None:
    tree = smt8(tmp_path)
    tree.write("sys/devices/system/cpu/present", text)
    tree.write("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", text)
    cpus = read_cpus(tmp_path)  # present falls back on the cpuN directories
    assert [c.id for c in cpus] == list(range(8))
    assert cpus[1].siblings == CpuSet((1,))


def test_memory_by_node(tmp_path: Path) -> None:
    numa2(tmp_path)
    first, second = read_memory(tmp_path)
    assert (first.id, first.total, first.free) == (0, 8192 * MIB, 4096 * MIB)
    assert first.hugepages == (HugePages(size=2 * MIB, total=512, free=500),)
    assert second.cpus == CpuSet((4, 5, 6, 7))
    assert [(p.size, p.total, p.free) for p in second.hugepages] == [
        (2 * MIB, 0, 0), (1024 * MIB, 2, 1),
    ]


def test_memory_without_nodes(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("proc/meminfo", "MemTotal: 2048 kB\nMemFree: 100 kB\nMemAvailable: 1024 kB\nX: 1")
    tree.write("sys/devices/system/cpu/online", "0-1")
    tree.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "4")
    (node,) = read_memory(tmp_path)
    assert (node.id, node.total, node.free) == (0, 2 * MIB, 1 * MIB)
    assert node.cpus == CpuSet((0, 1))
    assert node.hugepages == (HugePages(size=2 * MIB, total=4, free=0),)


def test_an_empty_tree(tmp_path: Path) -> None:
    assert read_cpus(tmp_path) == ()
    (node,) = read_memory(tmp_path)
    assert (node.total, node.hugepages) == (0, ())


def test_this_host() -> None:
    cpus = read_cpus()
    assert cpus
    for cpu in cpus:
        assert not cpu.online or cpu.id in cpu.siblings
        assert not cpu.l3 or cpu.id in cpu.l3
    assert sum(n.total for n in read_memory()) > 64 * MIB
    assert all(n.free <= n.total for n in read_memory())
