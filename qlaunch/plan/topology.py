"""The host's cores as the choice of CPUs sees them: whole, with their cache and node.

Made from facts.cpus. CPUs that are offline, or that our cgroup denies us, are not in it: a core
with one thread offline is a core with one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from qlaunch.facts.model import Cpu
from qlaunch.values import CpuSet


class Core(NamedTuple):
    """One core: its online threads, and what it shares with others."""

    cpus: CpuSet
    node: int
    cache: CpuSet  # all CPUs on its level 3 cache; those of its package when that is not known
    cache_kib: int
    isolated: bool
    kind: str  # as facts.model.Cpu.kind


def cores_of(cpus: Sequence[Cpu]) -> tuple[Core, ...]:
    """Every core with a thread that is online and not denied to us, by its lowest CPU."""
    online = {cpu.id: cpu for cpu in cpus if cpu.online and cpu.allowed}
    found: dict[CpuSet, Core] = {}
    for cpu in online.values():
        threads = CpuSet(c for c in (cpu.siblings or (cpu.id,)) if c in online)
        found.setdefault(
            threads,
            Core(
                threads, cpu.node, cpu.l3 or _package(cpu, online.values()), cpu.l3_kib or 0,
                all(online[c].isolated for c in threads), cpu.kind,
            ),
        )
    return tuple(sorted(found.values()))


def _package(cpu: Cpu, cpus: Iterable[Cpu]) -> CpuSet:
    return CpuSet(c.id for c in cpus if (c.package, c.node) == (cpu.package, cpu.node))


def localities(cores: Sequence[Core], near: int | None) -> Iterator[tuple[Core, ...]]:
    """The cores of each node, `near` first; then all cores, where there are several nodes."""
    nodes = sorted({core.node for core in cores}, key=lambda n: (n != near, n))
    for node in nodes:
        yield tuple(core for core in cores if core.node == node)
    if len(nodes) > 1:
        yield tuple(sorted(cores, key=lambda c: (nodes.index(c.node), c.cpus)))


def scopes(cores: Sequence[Core], host: Core) -> Iterator[tuple[Core, ...]]:
    """Sets of a locality's cores to look for a place in, the best first.

    Each level 3 cache by itself, the largest first and the one that the host's core is on after
    its equals; then ever more caches together, those with the most cores first.
    """
    caches: dict[CpuSet, list[Core]] = {}
    for core in cores:
        caches.setdefault(core.cache, []).append(core)
    order = sorted(
        caches.values(),
        key=lambda c: (-c[0].cache_kib, host.cpus[0] in c[0].cache, c[0].cpus),
    )
    yield from (tuple(one) for one in order)
    places = {core: number for number, core in enumerate(cores)}
    nodes = list(dict.fromkeys(core.node for core in cores))
    order.sort(key=lambda c: (nodes.index(c[0].node), -len(c)))
    for number in range(2, len(order) + 1):
        yield tuple(sorted((c for one in order[:number] for c in one), key=places.__getitem__))
