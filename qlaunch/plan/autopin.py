"""`pin = "auto"`: which host CPUs a machine gets, from the host's cores, caches and nodes.

Whole cores, so that no other thread shares one with a vCPU; one level 3 cache where they fit, and
the passed-through card's node; performance cores only. The first core stays the host's, because
interrupts and housekeeping gather there, and QEMU's own threads run beside the vCPUs.

A guest sees a level 3 cache for each die (QEMU's target/i386/cpu.c: CPUID 4 of Intel, 8000001D of
AMD), and schedules by it. So no die is laid over two caches where that can be helped, and where the
profile leaves their number open, there are as many as caches are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qlaunch.facts.model import Cpu
from qlaunch.plan.topology import (
    Core,
    across_caches,
    cores_of,
    dies_that_fit,
    localities,
    on_caches,
)
from qlaunch.values import CpuSet


class Wish(NamedTuple):
    """How many vCPUs, and how the guest is to see them. `threads` None: as the host's are."""

    dies: int  # of all sockets
    cores: int  # in each of these dies; vCPUs when threads is None
    threads: int | None = None
    near: int | None = None  # the node to be on
    near_what: str = ""  # who is on it
    split: bool = True  # into more dies, when one cache is too small

    @property
    def vcpus(self) -> int:
        """Number of vCPUs."""
        return self.dies * self.cores * (self.threads or 1)


class Picked(NamedTuple):
    """vCPU by vCPU (threads of a guest core are neighbours), and what was picked for the rest."""

    vcpus: tuple[CpuSet, ...]
    dies: int  # of all sockets
    cores: int  # in each die
    threads: int
    caches: tuple[CpuSet, ...]  # of each vCPU
    rest: CpuSet  # for the emulator and the iothreads
    nodes: tuple[int, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class _Way(NamedTuple):
    """One way to lay vCPUs on cores."""

    threads: int  # that the guest sees in a core
    on_core: int  # vCPUs on one host core
    least: int  # threads that a host core must have
    text: str


def pick(cpus: Sequence[Cpu], wish: Wish, allowed: frozenset[int] | None = None) -> Picked | str:
    """The best place for the wish, or why there is none.

    `allowed` limits the nodes that vCPUs may be on.
    """
    picked = _pick(cpus, wish, allowed)
    return picked if isinstance(picked, str) else _with_dies(wish, picked)


def _pick(
    cpus: Sequence[Cpu], wish: Wish, allowed: frozenset[int] | None = None
) -> Picked | str:
    every = cores_of(cpus)
    if not every:
        return "no CPU is online"
    host, free = every[0], every[1:]
    if any(core.kind == "efficient" for core in free):
        free = tuple(core for core in free if core.kind == "performance")
    if allowed is not None:
        free = tuple(core for core in free if core.node in allowed)
    isolated = tuple(core for core in free if core.isolated)
    for pool in (isolated, free):
        for place in localities(pool, wish.near):
            for way in _ways(wish, place):
                used = _fit(wish, way, place, host)
                if used:
                    return _picked(wish, way, used, every)
    return _lack(free, host)


def pick_by_nodes(
    cpus: Sequence[Cpu], wish: Wish, guest_nodes: Sequence[tuple[CpuSet, frozenset[int]]]
) -> Picked | str:
    """The same where the guest has nodes: (its vCPUs, the host nodes of its memory) each.

    All guest cores have as many threads; a node whose vCPUs are no whole cores gets single ones.
    """
    every = cores_of(cpus)
    most = max((len(core.cpus) for core in every), default=1)
    ways = [wish.threads] if wish.threads else [most] * (wish.cores % most == 0) + [1]
    found: list[Picked] | str = ""
    for threads in ways:
        found = _node_by_node(cpus, wish, threads, guest_nodes)
        if not isinstance(found, str):
            break
    if isinstance(found, str):
        return found
    at = {
        vcpu: where
        for (vcpus, _), part in zip(guest_nodes, found, strict=True)
        for vcpu, where in zip(vcpus, zip(part.vcpus, part.caches, strict=True), strict=True)
    }
    placed = [at[vcpu] for vcpu in sorted(at)]
    taken = {cpu for where, _ in placed for cpu in where}
    nodes = tuple(sorted({node for part in found for node in part.nodes}))
    used = {cpu for core in every if taken & set(core.cpus) for cpu in core.cpus}
    return _with_dies(wish, Picked(
        tuple(where for where, _ in placed), wish.dies, _cores(wish, found[0].threads),
        found[0].threads, tuple(cache for _, cache in placed), _rest(every, used, nodes), nodes,
        tuple(dict.fromkeys(reason for part in found for reason in part.reasons)),
        tuple(dict.fromkeys(warning for part in found for warning in part.warnings)),
    ))


def _cores(wish: Wish, threads: int) -> int:
    """Guest cores of a die of the wish, with so many threads each."""
    return wish.cores if wish.threads is not None else wish.cores // threads


def _with_dies(wish: Wish, picked: Picked) -> Picked:
    """With the number of dies that the guest is to see, or a warning that it sees them wrong."""
    dies = dies_that_fit(picked.caches, wish.dies, picked.threads, split=wish.split)
    number = len(set(picked.caches))
    if dies is None:
        warning = (
            f"the guest sees one level 3 cache, and its vCPUs are on {number}"
            if wish.dies == 1 else "a die of the guest is on more than one level 3 cache"
        )
        return picked._replace(warnings=(*picked.warnings, warning))
    caches = f"{number} level 3 cache{'s' * (number > 1)}"
    reason = "a guest die on each cache" if dies == number else f"{dies} guest dies on {caches}"
    return picked._replace(
        dies=dies, cores=len(picked.vcpus) // dies // picked.threads,
        reasons=(*picked.reasons, *(reason,) * (dies > 1)),
    )


def _node_by_node(
    cpus: Sequence[Cpu], wish: Wish, threads: int,
    guest_nodes: Sequence[tuple[CpuSet, frozenset[int]]],
) -> list[Picked] | str:
    die = _cores(wish, threads)
    parts: list[Picked] = []
    left = tuple(cpus)
    for vcpus, nodes in guest_nodes:
        whole = all(
            vcpus[n : n + threads] == tuple(range(vcpus[n], vcpus[n] + threads))
            and vcpus[n] % threads == 0
            for n in range(0, len(vcpus), threads)
        )
        if not whole:
            return f"vCPUs {vcpus} are no whole cores of {threads} threads"
        cores = len(vcpus) // threads
        dies = 1 if wish.split or cores % die else cores // die
        part = _pick(left, Wish(dies, cores // dies, threads, split=wish.split), nodes)
        if isinstance(part, str):
            return f"node {CpuSet(nodes)}: {part}"
        parts.append(part)
        taken = {cpu for vcpu in part.vcpus for cpu in vcpu}
        gone = {cpu for core in cores_of(left) if taken & set(core.cpus) for cpu in core.cpus}
        left = tuple(cpu for cpu in left if cpu.id not in gone)
    return parts


def _fit(
    wish: Wish, way: _Way, place: Sequence[Core], host: Core
) -> tuple[tuple[Core, ...], ...]:
    """Cores for each part of the vCPUs, or none. A part is a die; where dies do not fit the caches
    it is all of them."""
    able = [core for core in place if len(core.cpus) >= way.least]
    cores = _cores(wish, way.threads)
    most = len({core.cache for core in able}) // wish.dies if wish.split else 1
    for more in range(1, max(most, 1) + 1):
        dies = wish.dies * more
        if cores % more == 0:
            used = on_caches(able, host, dies, -(-wish.vcpus // dies // way.on_core))
            if used and (more == 1 or len({part[0].cache for part in used}) == dies):
                return used
    used_all = across_caches(able, host, -(-wish.vcpus // way.on_core))
    return (used_all,) if used_all else ()


def _ways(wish: Wish, pool: Sequence[Core]) -> Iterator[_Way]:
    """In order of preference."""
    most = max((len(core.cpus) for core in pool), default=1)
    threads = wish.threads
    if threads is None and most > 1 and wish.cores % most == 0:
        yield _Way(most, most, most, "whole cores, the guest's threads paired as the host's")
    if threads is not None and threads > 1:
        yield _Way(threads, threads, threads, "whole cores, a guest core on each")
        if most < threads:
            yield _Way(threads, 1, 1, "a core for each vCPU")
        return
    yield _Way(1, 1, 1, "a core for each vCPU")
    if most > 1:
        yield _Way(1, most, most, f"{most} vCPUs on each core, all of its threads")


def _picked(
    wish: Wish, way: _Way, parts: Sequence[Sequence[Core]], every: Sequence[Core]
) -> Picked:
    single = way.on_core > 1
    entries: list[tuple[CpuSet, CpuSet]] = []
    for part in parts:
        places = [
            (CpuSet((cpu,)) if single else core.cpus, core.cache)
            for core in part
            for cpu in (core.cpus[: way.on_core] if single else core.cpus[:1])
        ]
        entries += places[: wish.vcpus // len(parts)]
    used = [core for part in parts for core in part]
    taken = {cpu for core in used for cpu in core.cpus}
    nodes = tuple(sorted({core.node for core in used}))
    return Picked(
        tuple(where for where, _ in entries), wish.dies, _cores(wish, way.threads), way.threads,
        tuple(cache for _, cache in entries), _rest(every, taken, nodes), nodes,
        tuple(_reasons(wish, way, used, every)), tuple(_warnings(wish, way, nodes)),
    )


def _rest(every: Sequence[Core], taken: set[int], nodes: tuple[int, ...]) -> CpuSet:
    """What the vCPUs leave of their nodes; isolated CPUs are for whoever asks for them by name."""
    left = [core for core in every if not taken & set(core.cpus)]
    open_to_all = [core for core in left if not core.isolated] or left
    beside = [core for core in open_to_all if core.node in nodes] or open_to_all
    return CpuSet(cpu for core in beside for cpu in core.cpus)


def _reasons(
    wish: Wish, way: _Way, used: Sequence[Core], every: Sequence[Core]
) -> Iterator[str]:
    yield way.text
    if all(core.isolated for core in used):
        yield "the CPUs that are isolated from the scheduler"
    caches = {core.cache: core.cache_kib for core in used}
    if len({core.cache for core in every}) > 1:
        sizes = "+".join(f"{kib >> 10}" for kib in caches.values() if kib)
        size = f" ({sizes} MiB)" if sizes else ""
        why = ", as none has enough cores" if len(caches) > wish.dies else ""
        yield f"{len(caches)} level 3 caches{size}{why}" if len(caches) > 1 else (
            f"one level 3 cache{size}"
        )
    if any(core.kind == "efficient" for core in every):
        yield "performance cores only"
    nodes = {core.node for core in used}
    if len({core.node for core in every}) > 1:
        near = f", where {wish.near_what} is" if nodes == {wish.near} and wish.near_what else ""
        yield f"node {CpuSet(nodes)}{near}"
    yield f"CPU {every[0].cpus} is left to the host"


def _warnings(wish: Wish, way: _Way, nodes: tuple[int, ...]) -> Iterator[str]:
    if wish.near is not None and wish.near not in nodes:
        yield f"node {wish.near}, where {wish.near_what} is, has too few free cores"
    if len(nodes) > 1:
        yield f"the vCPUs are on nodes {CpuSet(nodes)}, as none has enough free cores"
    if way.threads > way.on_core:
        yield f"the guest sees {way.threads} threads a core, and the host's have none"


def _lack(free: Sequence[Core], host: Core) -> str:
    kind = "performance core" if any(core.kind for core in free) else "core"
    threads = CpuSet(cpu for core in free for cpu in core.cpus)
    has = f"CPU {threads}" if threads else "no CPU"
    return f"{len(free)} {kind}{'s' * (len(free) != 1)} ({has}), beside CPU {host.cpus} of the host"
