"""Disks, CD drives and their controllers, in the order in which fds are numbered."""

from __future__ import annotations

from qlaunch.plan.controllers import Seats
from qlaunch.plan.draft import Draft
from qlaunch.plan.drives import plan_cdrom, plan_disk


def plan_storage(draft: Draft) -> None:
    """All disks in profile order, then all CD drives; controllers before them."""
    seats = Seats(draft)
    disks = [plan_disk(draft, seats, d, n) for n, d in enumerate(draft.profile.disk)]
    disks += [plan_cdrom(draft, seats, c, n) for n, c in enumerate(draft.profile.cdrom)]
    for controller in seats.controllers:
        key = "type" if controller.key.startswith("controller") else "bus"
        draft.need(controller.device, f"{controller.key}.{key}")
    draft.decided["controllers"] = tuple(seats.controllers)
    draft.decided["disks"] = tuple(disks)
