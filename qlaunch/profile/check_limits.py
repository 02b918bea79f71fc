"""Rules about limits: one that the machine itself passes would kill it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import Size

OWN = 256 << 20  # bytes: QEMU beside the guest's memory, with an emulated screen and a few disks
THREADS = 80  # beside the vCPUs': 64 for I/O (block/aio's thread pool), the main ones, helpers


def check_limits(profile: Profile) -> Iterator[Finding]:
    """More memory than the guest has, and threads enough."""
    limits = profile.limits
    if limits is None:
        return
    guest = 0 if profile.machine.hugepages else int(profile.machine.memory)
    if limits.memory is not None and limits.memory < guest + OWN:
        over = limits.memory <= guest
        yield Finding(
            ("limits", "memory"),
            Problem(
                "the guest's own memory passes the limit" if over else
                "the limit leaves QEMU itself little memory",
                found=f"{limits.memory} for a guest of {Size(guest)}",
                hint=f'memory = "{Size((guest + OWN * 4) >> 20 << 20)}" leaves it room',
                severity="error" if over else "warning",
            ),
            also=(("machine", "memory"),) if guest else (),
        )
    least = profile.cpu.count + THREADS
    if limits.pids is not None and limits.pids < least:
        yield Finding(
            ("limits", "pids"),
            Problem(
                "QEMU ends when it cannot start a thread", found=str(limits.pids),
                hint=f"{least} or more is enough for its vCPUs and disks", severity="warning",
            ),
        )


LIMIT_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (check_limits,)
