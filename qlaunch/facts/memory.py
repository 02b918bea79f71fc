"""The host's memory and huge page pools, by NUMA node.

From /sys/devices/system/node/nodeN (Documentation/ABI/stable/sysfs-devices-node); a kernel
without NUMA has one node made of /proc/meminfo and /sys/kernel/mm/hugepages.
"""

from __future__ import annotations

from pathlib import Path

from qlaunch.facts.cgroup_model import Limits
from qlaunch.facts.model import HugePages, MemoryNode
from qlaunch.facts.tree import base_of, list_names, read_cpu_list, read_lines, read_number
from qlaunch.values import CpuSet

_NODES = "/sys/devices/system/node"
_RECLAIMABLE = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")


def read_memory(root: Path = Path("/")) -> tuple[MemoryNode, ...]:
    """Every node by number. `free` is what a guest could get, in bytes.

    That is MemAvailable where the kernel computes it (the whole machine only), and else free
    memory with the page cache and reclaimable slab, which the kernel gives up for a guest. Free
    huge pages are not in it.
    """
    base = base_of(root)
    nodes = [n for n in list_names(base + _NODES) if n.startswith("node") and n[4:].isdigit()]
    if not nodes:
        return (_whole_machine(base),)
    return tuple(sorted((_read_node(base, int(n[4:])) for n in nodes), key=lambda n: n.id))


def read_limits() -> Limits:
    """Of this process, wherever the tree is from."""
    import os
    import resource

    if os.geteuid() == 0:
        return Limits()
    hard = {
        name: resource.getrlimit(kind)[1]
        for name, kind in (
            ("rtprio", resource.RLIMIT_RTPRIO), ("nice", resource.RLIMIT_NICE),
            ("memlock", resource.RLIMIT_MEMLOCK),
        )
    }
    endless = resource.RLIM_INFINITY
    return Limits(
        priority=99 if hard["rtprio"] == endless else hard["rtprio"],
        nice=-20 if hard["nice"] == endless else max(
            -20, min(20 - hard["nice"], os.getpriority(os.PRIO_PROCESS, 0))
        ),
        memlock=None if hard["memlock"] == endless else hard["memlock"],
    )


def _read_node(base: str, number: int) -> MemoryNode:
    path = f"{base}{_NODES}/node{number}"
    figures = _figures(f"{path}/meminfo", skip=2)  # "Node 0 MemTotal:  123 kB"
    return MemoryNode(
        id=number,
        total=figures.get("MemTotal", 0),
        free=sum(figures.get(key, 0) for key in _RECLAIMABLE),
        cpus=read_cpu_list(f"{path}/cpulist") or CpuSet(),
        hugepages=_read_hugepages(f"{path}/hugepages"),
    )


def _whole_machine(base: str) -> MemoryNode:
    figures = _figures(f"{base}/proc/meminfo", skip=0)
    return MemoryNode(
        id=0,
        total=figures.get("MemTotal", 0),
        free=figures.get("MemAvailable") or sum(figures.get(key, 0) for key in _RECLAIMABLE),
        cpus=read_cpu_list(f"{base}/sys/devices/system/cpu/online") or CpuSet(),
        hugepages=_read_hugepages(f"{base}/sys/kernel/mm/hugepages"),
    )


def _figures(path: str, skip: int) -> dict[str, int]:
    """`Key: number kB` lines → bytes; lines of another shape are passed over."""
    figures = {}
    for line in read_lines(path):
        words = line.split()[skip:]
        if len(words) == 3 and words[2] == "kB" and words[1].isdigit():
            figures[words[0].rstrip(":")] = int(words[1]) << 10
    return figures


def _read_hugepages(path: str) -> tuple[HugePages, ...]:
    """hugepages-2048kB/{nr_hugepages,free_hugepages}, smallest size first."""
    found = []
    for name in list_names(path):
        size = name.removeprefix("hugepages-").removesuffix("kB")
        total = read_number(f"{path}/{name}/nr_hugepages")
        if size.isdigit() and total is not None:
            free = read_number(f"{path}/{name}/free_hugepages") or 0
            found.append(HugePages(size=int(size) << 10, total=total, free=free))
    return tuple(sorted(found, key=lambda pages: pages.size))
