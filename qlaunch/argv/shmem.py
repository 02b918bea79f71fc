"""Shared memory: a backend and an ivshmem device."""

from __future__ import annotations

from qlaunch.argv.option import Option, device, option, place
from qlaunch.plan.model import Plan
from qlaunch.plan.plugs import PlannedShmem
from qlaunch.plan.shmem import DEVICE


def shmem_options(plan: Plan) -> list[Option]:
    """Those of the profile's [[shmem]] tables."""
    return [
        made for shmem in plan.shmems if shmem.key.startswith("shmem[")
        for made in shared_memory(shmem)
    ]


def shared_memory(shmem: PlannedShmem) -> list[Option]:
    """Backend and device of one."""
    return [
        option(
            "-object", "memory-backend-file", why=shmem.key, id=f"{shmem.id}-mem",
            mem_path=shmem.path, size=f"{shmem.size}B", share=True,
        ),
        device(DEVICE, shmem.key, id=shmem.id, memdev=f"{shmem.id}-mem",
               **place(shmem.place.bus, shmem.place.addr)),
    ]
