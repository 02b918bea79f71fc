"""Rules about what memory is made of, and about the guest's NUMA nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath
from qlaunch.profile.memory import Memory, Numa
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import CpuSet, Size

MAX_NODES = 128  # MAX_NODES of QEMU's include/sysemu/numa.h


def check_backend(profile: Profile) -> Iterator[Finding]:
    """A backend that can do what the other keys ask."""
    memory = profile.memory
    if memory is None:
        return
    if memory.backend == "file" and memory.path is None:
        yield Finding(
            ("memory", "backend"),
            Problem("a file backend without a file", hint='name one, e.g. path = "/dev/hugepages"'),
        )
    if memory.path is not None and memory.backend not in (None, "file"):
        yield Finding(
            ("memory", "path"),
            Problem(f"{memory.backend} memory has no path", allowed='backend = "file"'),
            also=(("memory", "backend"),),
        )
    if memory.backend != "anonymous":
        return
    for key, wanted in ((("memory", "share"), memory.share),
                        (("machine", "hugepages"), profile.machine.hugepages)):
        if wanted:
            yield Finding(
                ("memory", "backend"),
                Problem(
                    f"anonymous memory cannot have {key[1]}", allowed='backend = "memfd"',
                    hint="leave backend out",
                ),
                also=(key,),
            )


def check_policy(profile: Profile) -> Iterator[Finding]:
    """A policy is about nodes; preferred is one of them."""
    tables: list[tuple[KeyPath, Memory | Numa]] = [
        (("numa", number), node) for number, node in enumerate(profile.numa)
    ]
    if profile.memory is not None:
        tables.append((("memory",), profile.memory))
    for path, table in tables:
        nodes = table.host_nodes
        if nodes is not None and not nodes:
            yield Finding((*path, "host_nodes"), Problem(
                "an empty list of nodes", hint="for example [0], or leave the key out"))
        if table.policy is not None and nodes is None:
            yield Finding(
                (*path, "policy"), Problem("a policy without nodes", hint="add host_nodes")
            )
        if table.policy == "preferred" and nodes is not None and len(nodes) > 1:
            yield Finding(
                (*path, "host_nodes"),
                Problem("one node can be preferred", found=str(nodes), allowed="one node",
                        hint='policy = "bind" or "interleave" takes several'),
                also=((*path, "policy"),),
            )


def check_numa(profile: Profile) -> Iterator[Finding]:
    """Guest nodes share out all memory and every vCPU, once."""
    nodes = profile.numa
    if not nodes:
        return
    total = Size(sum(node.memory for node in nodes))
    if total != profile.machine.memory:
        yield Finding(
            ("numa",),
            Problem(
                "the nodes' memory is not the machine's", found=f"{total} in all nodes",
                allowed=f"machine.memory = {profile.machine.memory}",
                hint="change one of them",
            ),
            also=(("machine", "memory"),),
        )
    if len(nodes) > MAX_NODES:
        yield Finding(("numa",), Problem(f"more than {MAX_NODES} nodes", found=str(len(nodes)),
                                         hint="leave some out"))
    seen: dict[int, int] = {}
    for number, node in enumerate(nodes):
        for cpu in node.cpus:
            first = seen.setdefault(cpu, number)
            if first != number:
                yield Finding(
                    ("numa", number, "cpus"),
                    Problem(f"vCPU {cpu} is on numa[{first}] as well", found=str(node.cpus),
                            hint="each vCPU is on one node"),
                )
    count = profile.cpu.count
    beyond, left = CpuSet(c for c in seen if c >= count), CpuSet(set(range(count)) - set(seen))
    if beyond or left:
        yield Finding(
            ("numa",),
            Problem(
                f"there is no vCPU {beyond}" if beyond else f"vCPU {left} is on no node",
                allowed=f"vCPUs 0 to {count - 1}, each on one node",
                hint="correct the nodes' cpus, or the topology in [cpu]",
            ),
            also=(("cpu",),),
        )


MEMORY_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_backend, check_policy, check_numa,
)
