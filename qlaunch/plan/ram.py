"""What guest memory is made of when it is more than a number: backends, guest nodes, binding.

Loaded for machines with huge pages, a [memory] table, [[numa]] nodes, or a device that needs
shared memory. QEMU's defaults are left alone: only what is decided is on the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from qlaunch.plan.draft import Draft
from qlaunch.plan.files import check_output
from qlaunch.plan.memory import page_size
from qlaunch.plan.model import PinPlan
from qlaunch.plan.steps import MakeShared, ReserveHugePages
from qlaunch.profile.memory import Memory, Numa
from qlaunch.values import CpuSet, HostPath, Size


class PlannedBackend(Struct, frozen=True, kw_only=True):
    """One memory object."""

    id: str
    type: str  # "memory-backend-memfd"
    size: Size
    share: bool | None = None
    page: int | None = None  # bytes of a huge page of the memfd
    prealloc: bool | None = None
    threads: int | None = None
    path: str | None = None
    host_nodes: CpuSet = CpuSet()
    policy: str = ""
    why: str


class PlannedNode(Struct, frozen=True, kw_only=True):
    """A NUMA node of the guest, by number."""

    cpus: CpuSet
    backend: str
    why: str


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """Memory objects; without guest nodes there is at most one, "ram"."""

    backends: tuple[PlannedBackend, ...] = ()
    nodes: tuple[PlannedNode, ...] = ()
    merge: bool | None = None
    dump: bool | None = None
    lock: bool = False


def plan_ram(draft: Draft, pins: PinPlan | None) -> MemoryPlan:
    """Decide, and note the steps that reserve huge pages."""
    profile, memory = draft.profile, draft.profile.memory or Memory()
    page = page_size(profile.machine.hugepages)
    share, share_why = _share(draft, memory)
    kind = memory.backend or ("file" if memory.path else "memfd" if page or share else "anonymous")
    reasons = _reasons(memory, page, share_why)
    bound, policy, bound_why = _binding(draft, memory, pins, page)
    reasons += [bound_why] * bool(bound)
    whole = PlannedBackend(
        id="ram", type="memory-backend-ram" if kind == "anonymous" else f"memory-backend-{kind}",
        size=profile.machine.memory, share=share, page=page if kind == "memfd" else None,
        path=memory.path, threads=memory.prealloc_threads, host_nodes=bound, policy=policy,
        prealloc=(memory.prealloc is not False or None) if page else memory.prealloc,
        why="; ".join(reasons),
    )
    _check_path(draft, memory, share=bool(share))
    nodes = _guest_nodes(draft, whole)
    backends = tuple(backend for backend, _ in nodes) or (whole,) * bool(reasons)
    if page:
        _reserve(draft, page, backends)
    else:
        _check_bound(draft, backends)
    return MemoryPlan(
        backends=backends, nodes=tuple(node for _, node in nodes), merge=memory.merge,
        dump=memory.dump, lock=memory.lock,
    )


def _guest_nodes(
    draft: Draft, whole: PlannedBackend
) -> list[tuple[PlannedBackend, PlannedNode]]:
    """Each guest node's memory, as the whole would be made."""
    made = []
    for index, node in enumerate(draft.profile.numa):
        key = f"numa[{index}]"
        _check_nodes(draft, node.host_nodes, f"{key}.host_nodes")
        backend = replace(
            whole, id=f"ram{index}", size=node.memory,
            why=f"{key}; {whole.why}" if whole.why else key,
        )
        if node.host_nodes:
            backend = replace(
                backend, host_nodes=node.host_nodes, policy=_policy(node, node.host_nodes)
            )
        made.append((backend, PlannedNode(cpus=node.cpus, backend=backend.id, why=f"{key}.cpus")))
    return made


def _share(draft: Draft, memory: Memory) -> tuple[bool | None, str]:
    """A device's need is the profile's too, but not against its word."""
    need = draft.share_memory
    if need and memory.share is False:
        draft.problem(
            f"{need} needs guest memory that its helper can map", "memory.share", found="false",
            hint="leave memory.share out",
        )
    if memory.share is not None:
        return memory.share, "memory.share"
    if not need:
        return None, ""
    return True, f"rule: {need} needs memory that another process can map"


def _reasons(memory: Memory, page: int | None, share_why: str) -> list[str]:
    """Every key that wants a memory object of its own."""
    reasons = ["machine.hugepages"] * bool(page) + [share_why] * bool(share_why)
    for key in ("backend", "path", "prealloc", "prealloc_threads"):
        if getattr(memory, key) is not None:
            reasons.append(f"memory.{key}")
    return reasons


def _policy(table: Memory | Numa, nodes: CpuSet) -> str:
    return (table.policy or "bind") if nodes else ""


def _binding(
    draft: Draft, memory: Memory, pins: PinPlan | None, page: int | None
) -> tuple[CpuSet, str, str]:
    """The profile's nodes; else, with huge pages, the one node that all vCPUs are pinned to."""
    if memory.host_nodes:
        _check_nodes(draft, memory.host_nodes, "memory.host_nodes")
        return memory.host_nodes, _policy(memory, memory.host_nodes), "memory.host_nodes"
    cpus = {cpu.id: cpu.node for cpu in draft.facts.cpus or ()}
    if not page or pins is None or not pins.vcpus or len(set(cpus.values())) < 2:
        return CpuSet(), "", ""
    nodes = {cpus.get(cpu) for vcpu in pins.vcpus for cpu in vcpu}
    if len(nodes) != 1 or None in nodes:
        return CpuSet(), "", ""
    bound = CpuSet(node for node in nodes if node is not None)
    return bound, "bind", f"rule: huge pages of node {bound}, where all vCPUs are pinned"


def _check_nodes(draft: Draft, nodes: CpuSet | None, where: str) -> None:
    known = CpuSet(node.id for node in draft.facts.memory or () if node.total)
    absent = CpuSet(set(nodes or ()) - set(known))
    if absent and known:
        draft.problem(
            f"this host has no memory on node {absent}", where, found=str(nodes),
            allowed=f"node {known}", hint="numactl -H shows the nodes",
        )


def _check_path(draft: Draft, memory: Memory, *, share: bool) -> None:
    """Where the memory file lies, or is to be made. In a directory each backend makes one of its
    own; of a file each maps the beginning (QEMU's `offset` came with 8.1)."""
    found = draft.facts.file(memory.path) if memory.path else None
    nodes = len(draft.profile.numa)
    if found and found.kind in ("missing", "file") and share and nodes > 1:
        draft.problem(
            "the guest's nodes would be one and the same memory: each maps this file from its "
            "beginning", "memory.path", found=f"{found.path}, and {nodes} [[numa]] nodes",
            hint="name a directory, e.g. /dev/shm: each node has a file of its own there",
        )
    elif found is None or found.kind == "missing":
        check_output(draft, found, "memory.path", by_root=False)
        if found is not None:
            _remove_afterwards(draft, found.path)
    elif found.kind not in ("file", "directory"):
        draft.problem("this is neither a file nor a directory", "memory.path",
                      found=found.kind, hint="name a directory on tmpfs or hugetlbfs")
    elif not found.writable:
        who = draft.account.name if draft.account else "this user"
        draft.problem(
            f"{who} may not write there", "memory.path", found=found.path,
            hint='give QEMU\'s account a directory of its own, or use backend = "memfd"',
        )


def _remove_afterwards(draft: Draft, path: str) -> None:
    """QEMU makes a file that is missing, and leaves it with all of the guest's memory in it
    (file_ram_alloc removes only what it has made in a directory)."""
    owner = draft.account or draft.facts.invoker
    if owner:
        draft.steps.append(MakeShared(
            path=HostPath(path), size=draft.profile.machine.memory, uid=owner.uid,
            gid=owner.gid, ours=False, why="memory.path",
        ))


def _check_bound(draft: Draft, backends: Sequence[PlannedBackend]) -> None:
    """Ordinary memory that comes from no other nodes: the kernel kills rather than look there."""
    wanted: dict[CpuSet, int] = {}
    for backend in backends:
        if backend.host_nodes and backend.policy == "bind":
            wanted[backend.host_nodes] = wanted.get(backend.host_nodes, 0) + backend.size
    for where, size in wanted.items():
        nodes = [node for node in draft.facts.memory or () if node.id in where]
        free, total = sum(n.free for n in nodes), sum(n.total for n in nodes)
        if nodes and size > free:
            draft.problem(
                f"node {where} has less memory than the guest is to have from it",
                "machine.memory", found=f"{_mib(free)} free of {_mib(total)}",
                allowed=f"{_mib(size)} are needed",
                severity="error" if size >= total else "warning",
                hint='take more nodes, or policy = "preferred"',
            )


def _reserve(draft: Draft, page: int, backends: Sequence[PlannedBackend]) -> None:
    """A step for each pool that lacks pages; a fault where there is no memory to make them of."""
    if any(backend.size % page for backend in backends):
        draft.problem(
            "the memory is no whole number of huge pages", "machine.hugepages",
            found=f"{draft.profile.machine.memory} in pages of {page >> 20}M",
            hint="round machine.memory up",
        )
    wanted: dict[int | None, int] = {}
    for backend in backends:
        for node, size in _parts(backend, page):
            wanted[node] = wanted.get(node, 0) + size
    if not _has_size(draft, page):
        return
    for node, pages in wanted.items():
        if _lacking(draft, page, node, pages):
            draft.steps.append(
                ReserveHugePages(size=page, count=pages, node=node, why="machine.hugepages")
            )


def _parts(backend: PlannedBackend, page: int) -> Iterator[tuple[int | None, int]]:
    """(node, pages): spread evenly over several nodes."""
    pages = -(-backend.size // page)
    nodes: Sequence[int | None] = backend.host_nodes if backend.policy != "preferred" else ()
    nodes = nodes or (None,)
    for number, node in enumerate(nodes):
        yield node, pages // len(nodes) + (number < pages % len(nodes))


def _has_size(draft: Draft, page: int) -> bool:
    sizes = {h.size for n in draft.facts.memory or () for h in n.hugepages}
    if draft.facts.memory and page not in sizes:
        draft.problem(
            "this kernel has no huge pages of this size", "machine.hugepages",
            found=f"{page >> 20}M",
            allowed=", ".join(f"{s >> 20}M" for s in sorted(sizes)) or "none",
            hint="1G pages need pdpe1gb in the CPU and hugepagesz=1G on the kernel command line",
        )
        return False
    return True


def _lacking(draft: Draft, page: int, node: int | None, pages: int) -> bool:
    """Whether pages have to be made. More than there is free memory for is a fault."""
    if not draft.facts.memory:
        return True
    nodes = [n for n in draft.facts.memory if node in (None, n.id)]
    ready = sum(h.free for n in nodes for h in n.hugepages if h.size == page)
    missing, free = (pages - ready) * page, sum(n.free for n in nodes)
    if missing > free:
        where = "this host" if node is None else f"node {node}"
        draft.problem(
            f"{where} has too little free memory for the huge pages", "machine.hugepages",
            found=f"{_mib(free)} free and {_mib(ready * page)} in free huge pages, "
            f"of {_mib(sum(n.total for n in nodes))}",
            allowed=f"{_mib(pages * page)} are needed",
            hint="end what uses the memory, or lower machine.memory",
        )
    return missing > 0


def _mib(size: int) -> str:
    return f"{size >> 20}M"
