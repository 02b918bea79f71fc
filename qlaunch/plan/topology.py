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


def on_caches(
    cores: Sequence[Core], host: Core, dies: int, each: int
) -> tuple[tuple[Core, ...], ...]:
    """`each` cores for every die, none of which is on two level 3 caches; empty where none fit.

    A cache for each die, or else several dies on one.
    """
    groups = _by_cache(cores, host)
    apart = [group[:each] for group in groups if len(group) >= each]
    if len(apart) < dies:
        apart = [
            group[n : n + each] for group in groups for n in range(0, len(group) - each + 1, each)
        ]
    return tuple(apart[:dies]) if len(apart) >= dies else ()


def across_caches(cores: Sequence[Core], host: Core, wanted: int) -> tuple[Core, ...]:
    """So many cores of as few level 3 caches as can be, those with the most cores first."""
    groups = _by_cache(cores, host)
    nodes = list(dict.fromkeys(core.node for core in cores))
    groups.sort(key=lambda c: (nodes.index(c[0].node), -len(c)))
    places = {core: number for number, core in enumerate(cores)}
    for number in range(1, len(groups) + 1):
        scope = sorted((c for one in groups[:number] for c in one), key=places.__getitem__)
        if len(scope) >= wanted:
            return tuple(scope[:wanted])
    return ()


def _by_cache(cores: Sequence[Core], host: Core) -> list[tuple[Core, ...]]:
    """A locality's cores by level 3 cache, the best first: those of its first node, the largest,
    and the one that the host's core is on after its equals."""
    caches: dict[CpuSet, list[Core]] = {}
    for core in cores:
        caches.setdefault(core.cache, []).append(core)
    nodes = list(dict.fromkeys(core.node for core in cores))
    order = sorted(
        caches.values(),
        key=lambda c: (
            nodes.index(c[0].node), -c[0].cache_kib, host.cpus[0] in c[0].cache, c[0].cpus
        ),
    )
    return [tuple(one) for one in order]


def dies_that_fit(
    caches: Sequence[CpuSet], dies: int, threads: int, *, split: bool
) -> int | None:
    """How many dies the guest is to see, so that each is on one level 3 cache; None: that is not to
    be had. `caches` are those of the vCPUs, in order; more than `dies` only with `split`."""
    for number in sorted({dies, len(set(caches)) if split else dies}):
        size, odd = divmod(len(caches), number)
        if odd or number % dies or size % threads:
            continue
        if all(len(set(caches[n : n + size])) == 1 for n in range(0, len(caches), size)):
            return number
    return None
