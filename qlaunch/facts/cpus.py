"""The host's CPUs and which share a core, a cache and a node.

From /sys/devices/system/cpu (Documentation/ABI/testing/sysfs-devices-system-cpu,
Documentation/admin-guide/cputopology.rst) and, for hybrid machines, the two perf PMUs
cpu_core and cpu_atom (Documentation/admin-guide/perf). What threads of one core share is read
once a core, what a cache's users share once a cache: that halves the files on a large machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

from qlaunch.facts.model import Cpu
from qlaunch.facts.tree import (
    base_of,
    list_names,
    read_attribute,
    read_cpu_list,
    read_lines,
    read_number,
)
from qlaunch.values import CpuSet

Kind = Literal["", "performance", "efficient"]
_CPUS = "/sys/devices/system/cpu"


class _Core(Struct):
    """What the threads of one core share."""

    package: int = 0
    core: int = 0
    siblings: CpuSet = CpuSet()
    max_khz: int | None = None


class _Cache(Struct):
    """One level 3 cache."""

    cpus: CpuSet = CpuSet()
    kib: int | None = None


def read_cpus(root: Path = Path("/")) -> tuple[Cpu, ...]:
    """Every present CPU by number, offline ones included (their topology is unknown then).

    A tree without a `present` list is read by its cpuN directories.
    """
    base = base_of(root)
    present = read_cpu_list(f"{base}{_CPUS}/present") or _directories(base)
    online = read_cpu_list(f"{base}{_CPUS}/online")
    isolated = read_cpu_list(f"{base}{_CPUS}/isolated") or CpuSet()
    nodes = read_cpu_nodes(root)
    kinds = _kinds(base)
    cpuset = read_cpuset(base)
    cores: dict[int, _Core] = {}
    caches: dict[int, _Cache] = {}
    found = []
    for cpu in present:
        up = online is None or cpu in online
        core = (cores.get(cpu) or _read_core(base, cpu, cores)) if up else _Core()
        cache = (caches.get(cpu) or _read_cache(base, cpu, caches)) if up else _Cache()
        found.append(
            Cpu(
                id=cpu, package=core.package, core=core.core, siblings=core.siblings,
                l3=cache.cpus, l3_kib=cache.kib, node=nodes.get(cpu, 0), max_khz=core.max_khz,
                kind=kinds.get(cpu, ""), online=up, isolated=cpu in isolated,
                allowed=cpuset is None or cpu in cpuset,
            )
        )
    return tuple(found)


def read_cpu_nodes(root: Path = Path("/")) -> dict[int, int]:
    """CPU number → NUMA node, from nodeN/cpulist (online CPUs only); empty without NUMA."""
    base = f"{base_of(root)}/sys/devices/system/node"
    nodes: dict[int, int] = {}
    for name in list_names(base):
        if name.startswith("node") and name[4:].isdigit():
            cpus = read_cpu_list(f"{base}/{name}/cpulist") or ()
            nodes.update(dict.fromkeys(cpus, int(name[4:])))
    return nodes


def read_cpuset(base: str) -> CpuSet | None:
    """What our cgroup limits its processes to (cpuset(7), cgroup-v2.rst); None when nothing does.

    Unlike an affinity mask it cannot be widened by a thread's owner.
    """
    for line in read_lines(f"{base}/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpuset"):
            continue
        top = f"{base}/sys/fs/cgroup" + (f"/{controllers}" if controllers else "")
        name = "cpuset.effective_cpus" if controllers else "cpuset.cpus.effective"
        place = path.rstrip("/")
        while True:
            found = read_cpu_list(f"{top}{place}/{name}")
            if found:
                return found
            if not place:
                break
            place = place.rpartition("/")[0]
    return None


def _directories(base: str) -> CpuSet:
    names = list_names(f"{base}{_CPUS}")
    return CpuSet(int(n[3:]) for n in names if n.startswith("cpu") and n[3:].isdigit())


def _kinds(base: str) -> dict[int, Kind]:
    performance = read_cpu_list(f"{base}/sys/devices/cpu_core/cpus")
    efficient = read_cpu_list(f"{base}/sys/devices/cpu_atom/cpus")
    if not performance or not efficient:
        return {}
    kinds: dict[int, Kind] = dict.fromkeys(performance, "performance")
    kinds.update(dict.fromkeys(efficient, "efficient"))
    return kinds


def _read_core(base: str, cpu: int, cores: dict[int, _Core]) -> _Core:
    path = f"{base}{_CPUS}/cpu{cpu}"
    core = _Core(
        package=max(0, read_number(f"{path}/topology/physical_package_id") or 0),
        core=max(0, read_number(f"{path}/topology/core_id") or 0),
        siblings=read_cpu_list(f"{path}/topology/thread_siblings_list") or CpuSet((cpu,)),
        max_khz=read_number(f"{path}/cpufreq/cpuinfo_max_freq"),
    )
    cores.update(dict.fromkeys(core.siblings, core))
    return core


def _read_cache(base: str, cpu: int, caches: dict[int, _Cache]) -> _Cache:
    path = f"{base}{_CPUS}/cpu{cpu}/cache"
    for name in reversed(list_names(path)):  # index3 first: that is where level 3 nearly always is
        if name.startswith("index") and read_attribute(f"{path}/{name}/level") == "3":
            shared = read_cpu_list(f"{path}/{name}/shared_cpu_list") or CpuSet((cpu,))
            size = (read_attribute(f"{path}/{name}/size") or "").removesuffix("K")
            cache = _Cache(shared, int(size) if size.isdigit() else None)
            caches.update(dict.fromkeys(shared, cache))
            return cache
    return _Cache()
