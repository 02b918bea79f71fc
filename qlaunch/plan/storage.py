"""Disks, CD drives and their controllers, in the order in which fds are numbered."""

from __future__ import annotations

from qlaunch.plan.controllers import Seats
from qlaunch.plan.draft import Draft
from qlaunch.plan.drives import plan_cdrom, plan_disk
from qlaunch.plan.model import PlannedController, PlannedDisk


def plan_storage(draft: Draft) -> None:
    """All disks in profile order, then all CD drives; controllers before them."""
    seats = Seats(draft)
    disks = [plan_disk(draft, seats, d, n) for n, d in enumerate(draft.profile.disk)]
    disks += [plan_cdrom(draft, seats, c, n) for n, c in enumerate(draft.profile.cdrom)]
    for controller in seats.controllers:
        key = "type" if controller.key.startswith("controller") else "bus"
        draft.need(controller.device, f"{controller.key}.{key}")
    _check_set(draft, [*seats.controllers, *disks])
    draft.decided["controllers"] = tuple(seats.controllers)
    draft.decided["disks"] = tuple(disks)


def _check_set(draft: Draft, made: list[PlannedController | PlannedDisk]) -> None:
    """`-set` does not find a device that is given as JSON: one whose queues are spread over
    threads, and what is plugged into such a controller (argv/storage.py)."""
    spread = {one.id: one.key for one in made if len(one.iothreads) > 1}
    for one in made:
        key = spread.get(one.id) or spread.get(one.place.bus.partition(".")[0])
        for name in draft.profile.qemu.set or {}:
            if key and name.startswith(f"{one.id}."):
                table = key.partition("[")[0]
                draft.problem(f"QEMU cannot set this for a {table} with iothreads",
                              f"qemu.set.{name}", found=f"{key}.iothreads",
                              hint=f"use iothread = true for this {table}")
