"""Memory shared with programs of the host: a file below /dev/shm behind an ivshmem device.

The file is made before QEMU starts and removed when it has ended; it counts as locked memory,
because VFIO pins what a guest can reach by DMA.
"""

from __future__ import annotations

from qlaunch.plan.draft import Draft
from qlaunch.plan.plugs import PlannedShmem
from qlaunch.plan.steps import MakeShared
from qlaunch.profile.extras import Shmem
from qlaunch.values import GuestSlot, HostPath

DIRECTORY = "/dev/shm"  # noqa: S108 - the file is made with O_EXCL, its owner checked
DEVICE = "ivshmem-plain"


def plan_shmem(draft: Draft) -> None:
    """The profile's [[shmem]] tables."""
    for index, table in enumerate(draft.profile.shmem):
        _table(draft, index, table)


def _table(draft: Draft, index: int, table: Shmem) -> None:
    share_memory(
        draft, f"shmem{index}", f"shmem[{index}]", f"{DIRECTORY}/{table.name}", int(table.size),
        index=index, addr=table.addr,
    )


def share_memory(
    draft: Draft, ident: str, key: str, path: str, size: int, *, kind: str = "shmem",
    index: int = 0, addr: GuestSlot | None = None, made: bool = True,
) -> PlannedShmem:
    """An ivshmem device `ident` over `path` (bytes: a power of two), with its backend.

    `index` is its place among the kind of device. `made` is False for what is no file of ours (a
    kvmfr device): then nothing is made and nothing removed.
    """
    draft.need(DEVICE, key)
    draft.locked += size
    if made:
        _check_size(draft, key, size)
        draft.steps.append(_step(draft, key, path, size))
    planned = PlannedShmem(
        id=ident, key=key, path=path, size=size,
        place=draft.place(kind, ident, key, index=index, addr=addr),
    )
    draft.decided["shmems"] = (*draft.decided.get("shmems", ()), planned)
    return planned


def _check_size(draft: Draft, key: str, size: int) -> None:
    """All of it is taken at the start, beside the guest's own memory."""
    ram = draft.facts.ram
    if ram is None or size <= ram.available:
        return
    whose = "looking at the guest takes" if key.startswith("display") else "the guest shares"
    draft.problem(
        f"{whose} more memory than this host has" + " free" * (size < ram.total), key,
        found=f"{size >> 20}M; {ram.available >> 20}M are free of {ram.total >> 20}M",
        severity="error" if size >= ram.total else "warning",
        hint="name the largest resolution that the guest will use, as 1920x1080"
        if key.startswith("display") else "lower its size",
    )


def _step(draft: Draft, key: str, path: str, size: int) -> MakeShared:
    owner = draft.account or draft.facts.invoker
    return MakeShared(
        path=HostPath(path), size=size, uid=owner.uid if owner else 0,
        gid=owner.gid if owner else 0, why=key,
    )
