"""-m, the memory objects, the guest's NUMA nodes; the balloon."""

from __future__ import annotations

from collections.abc import Iterable

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.model import Plan


def memory_options(plan: Plan) -> list[Option]:
    """How much there is, and what it is made of where that was decided."""
    options = [option("-m", why="machine.memory", size=str(plan.profile.machine.memory))]
    if plan.memory is None:
        return options
    if plan.memory.lock:
        options.append(option("-overcommit", why="memory.lock", mem_lock=True))
    for backend in plan.memory.backends:
        pairs: list[tuple[str, Value | None]] = [
            ("", backend.type), ("id", backend.id), ("size", str(backend.size)),
            ("mem-path", backend.path), ("share", backend.share),
            ("hugetlb", True if backend.page else None),
            ("hugetlbsize", f"{backend.page >> 20}M" if backend.page else None),
            ("prealloc", backend.prealloc), ("prealloc-threads", backend.threads),
            *_ranges("host-nodes", backend.host_nodes), ("policy", backend.policy or None),
        ]
        options.append(_option("-object", pairs, backend.why))
    for number, node in enumerate(plan.memory.nodes):
        pairs = [
            ("", "node"), ("nodeid", number), *_ranges("cpus", node.cpus),
            ("memdev", node.backend),
        ]
        options.append(_option("-numa", pairs, node.why))
    return options


def _option(flag: str, pairs: Iterable[tuple[str, Value | None]], why: str) -> Option:
    return Option(flag, tuple((k, v) for k, v in pairs if v is not None), why)


def _ranges(key: str, numbers: Iterable[int]) -> list[tuple[str, Value]]:
    """QEMU takes ranges in a pair each: cpus=0-3,cpus=8."""
    return [(key, part) for part in str(numbers).split(",") if part]


def machine_memory(plan: Plan) -> tuple[dict[str, Value | None], list[str]]:
    """What -machine says of memory, and the reasons."""
    memory = plan.memory
    if memory is None:
        return {}, []
    single = bool(memory.backends) and not memory.nodes
    pairs: dict[str, Value | None] = {
        "memory-backend": memory.backends[0].id if single else None,
        "mem-merge": memory.merge, "dump-guest-core": memory.dump,
    }
    keys = (("merge", memory.merge), ("dump", memory.dump))
    return pairs, [f"memory.{key}" for key, value in keys if value is not None]


def balloon_options(plan: Plan) -> list[Option]:
    """The virtio balloon."""
    where, balloon = plan.places["balloon0"], plan.profile.balloon
    reporting = balloon is not None and balloon.free_page_reporting
    deflating = balloon is not None and balloon.deflate_on_oom
    return [
        device(
            "virtio-balloon-pci", "balloon", id="balloon0", **place(where.bus, where.addr),
            free_page_reporting=reporting or None, deflate_on_oom=deflating or None,
        )
    ]
