"""Processors of several kinds as /sys shows them, for whoever plans on them."""

from __future__ import annotations

from pathlib import Path

from qlaunch.facts.cpus import read_cpus
from qlaunch.facts.model import Cpu
from qlaunch.values import CpuSet
from tests.fake.trees import Tree


def four_cores(tree: Tree) -> None:
    """An i5-2500: four cores, one thread each."""
    tree.cpus("0-3", vendor="GenuineIntel", flags="vmx")
    for cpu in range(4):
        tree.cpu(cpu, cpu, str(cpu), l3="0-3", l3_kib=6144)


def eight_smt(tree: Tree) -> None:
    """A Ryzen 7 5800X: eight cores, siblings n and n + 8, one cache."""
    tree.cpus("0-15")
    for cpu in range(16):
        tree.cpu(cpu, cpu % 8, f"{cpu % 8},{cpu % 8 + 8}", l3="0-15", l3_kib=32768)


def two_ccds(tree: Tree) -> None:
    """A Ryzen 9 7950X3D: the first CCD has three times the other's cache."""
    tree.cpus("0-31")
    for cpu in range(32):
        core = cpu % 16
        l3, size = ("0-7,16-23", 98304) if core < 8 else ("8-15,24-31", 32768)
        tree.cpu(cpu, core, f"{core},{core + 16}", l3=l3, l3_kib=size)


def hybrid(tree: Tree) -> None:
    """An i9-12900K: eight performance cores with two threads, eight efficient with one."""
    tree.cpus("0-23", vendor="GenuineIntel", flags="vmx")
    for cpu in range(16):
        tree.cpu(cpu, cpu // 2 * 4, f"{cpu & ~1}-{cpu | 1}", l3="0-23", l3_kib=30720)
    for cpu in range(16, 24):
        tree.cpu(cpu, 16 + cpu, str(cpu), l3="0-23", l3_kib=30720)
    tree.write("sys/devices/cpu_core/cpus", "0-15")
    tree.write("sys/devices/cpu_atom/cpus", "16-23")


def two_sockets(tree: Tree) -> None:
    """Two Xeons of 16 cores with two threads: siblings n and n + 32, a node a socket."""
    tree.cpus("0-63", vendor="GenuineIntel", flags="vmx")
    own = ("0-15,32-47", "16-31,48-63")
    for cpu in range(64):
        core = cpu % 32
        tree.cpu(cpu, core % 16, f"{core},{core + 32}", package=core // 16, l3=own[core // 16],
                 l3_kib=22528)
    for node in (0, 1):
        tree.node(node, own[node], 65536, 60000, {2048: (0, 0), 1048576: (0, 0)})


def holes(tree: Tree) -> None:
    """Eight cores with SMT; CPUs 9 and 15 are offline, cores 4 to 6 isolated."""
    tree.cpus("0-15", online="0-8,10-14", isolated="4-6,12-14")
    for cpu in (*range(9), *range(10, 15)):
        pair = {1: "1", 7: "7"}.get(cpu, f"{cpu % 8},{cpu % 8 + 8}")
        tree.cpu(cpu, cpu % 8, pair, l3="0-8,10-14", l3_kib=32768)


MACHINES = {
    "four_cores": four_cores, "eight_smt": eight_smt, "two_ccds": two_ccds, "hybrid": hybrid,
    "two_sockets": two_sockets, "holes": holes,
}


def cpus_of(name: str, root: Path) -> tuple[Cpu, ...]:
    """What the probe reads of the machine of that name, made below `root`."""
    MACHINES[name](Tree(root))
    return read_cpus(root)


def lists(sets: tuple[CpuSet, ...]) -> str:
    """CPU lists in one line, for comparing."""
    return " ".join(str(one) for one in sets)
