"""What the guest's memory is made of, beyond its size: backend, NUMA nodes, balloon."""

from __future__ import annotations

from typing import Literal, TypeAlias

from qlaunch.profile.fields import Slot
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import CpuSet, HostPath, Size

Policy: TypeAlias = Literal["bind", "preferred", "interleave"]


class Balloon(Table, frozen=True):
    """A virtio memory balloon."""

    addr: Slot = None
    free_page_reporting: Annotated[
        bool, Meta(description="The guest tells which pages are free, and the host takes them.")
    ] = False
    deflate_on_oom: Annotated[
        bool, Meta(description="The guest takes memory back before it kills a process for lack.")
    ] = False


class Memory(Table, frozen=True):
    """How guest memory is allocated. Its size and page size are in [machine]."""

    backend: Annotated[
        Literal["anonymous", "memfd", "file"] | None,
        Meta(
            description='"memfd" can be shared with helpers, "file" lies at path; the other keys '
            "decide when absent."
        ),
    ] = None
    path: Annotated[
        HostPath | None,
        Meta(description="File, or directory on tmpfs or hugetlbfs, for the file backend; a file "
             "that was not there is removed at the end. Several [[numa]] nodes that are shared "
             "take a directory."),
    ] = None
    share: Annotated[
        bool | None,
        Meta(description="Memory that other processes can map, as vhost-user devices need."),
    ] = None
    prealloc: Annotated[
        bool | None,
        Meta(description="Touch all memory before the guest starts; huge pages do by default."),
    ] = None
    prealloc_threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(description="Threads that touch the memory; one a vCPU when absent."),
    ] = None
    lock: Annotated[bool, Meta(description="Keep all of QEMU's memory out of swap.")] = False
    merge: Annotated[
        bool | None, Meta(description="Let the host share equal pages (KSM); true when absent.")
    ] = None
    dump: Annotated[
        bool | None, Meta(description="Have guest memory in core dumps; true when absent.")
    ] = None
    host_nodes: Annotated[
        CpuSet | None, Meta(description='Host NUMA nodes that memory comes from, e.g. "0".')
    ] = None
    policy: Annotated[
        Policy | None,
        Meta(description='How host_nodes are used; "bind" (from nowhere else) when absent.'),
    ] = None


class Numa(Table, frozen=True):
    """A NUMA node of the guest."""

    cpus: Annotated[
        CpuSet, Meta(description='The vCPUs of this node, e.g. "0-3".')
    ]
    memory: Annotated[Size, Meta(description="The node's memory; all nodes make machine.memory.")]
    host_nodes: Annotated[
        CpuSet | None, Meta(description='Host NUMA nodes that its memory comes from, e.g. "0".')
    ] = None
    policy: Annotated[
        Policy | None,
        Meta(description='How host_nodes are used; "bind" (from nowhere else) when absent.'),
    ] = None
