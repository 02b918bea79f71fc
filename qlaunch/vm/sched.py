"""Scheduling policy and niceness of the vCPU threads, set from outside and read back.

QEMU may not do it itself (`-sandbox resourcecontrol=deny`). What a vCPU thread starts later gets
the ordinary policy again (SCHED_RESET_ON_FORK, sched(7)): workers at real-time priority would
starve the vCPUs they work for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qlaunch.errors import HostError, Problem

if TYPE_CHECKING:
    from qlaunch.plan.model import PinPlan

POLICIES = {
    "other": os.SCHED_OTHER, "batch": os.SCHED_BATCH, "fifo": os.SCHED_FIFO, "rr": os.SCHED_RR,
}


def schedule(vcpus: tuple[int, ...], plan: PinPlan) -> None:
    """Threads by vCPU. Raises HostError naming the vCPU and what the kernel refused or changed."""
    for index, tid in enumerate(vcpus):
        try:
            if plan.nice is not None:
                os.setpriority(os.PRIO_PROCESS, tid, plan.nice)
            if plan.sched is not None:
                _set_policy(tid, POLICIES[plan.sched], plan.priority)
            _check(index, tid, plan)
        except ProcessLookupError:
            raise HostError(Problem(f"vcpu {index} (thread {tid}) has ended",
                                    hint="qlaunch logs NAME tells why QEMU ended")) from None
        except PermissionError as error:
            raise HostError(
                Problem(
                    f"vcpu {index} (thread {tid}) may not be scheduled like that",
                    where="cpu.sched" if plan.sched else "cpu.nice", found=str(error),
                    hint="run as root; a cgroup without real-time time (cpu.rt_runtime_us) or a "
                    "container refuses it as well",
                )
            ) from None


def _set_policy(tid: int, policy: int, priority: int) -> None:
    os.sched_setscheduler(tid, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


def _check(index: int, tid: int, plan: PinPlan) -> None:
    """What was asked for is what is."""
    policy = os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK
    found = (policy, os.sched_getparam(tid).sched_priority, os.getpriority(os.PRIO_PROCESS, tid))
    wanted = (
        policy if plan.sched is None else POLICIES[plan.sched],
        found[1] if plan.sched is None else plan.priority,
        found[2] if plan.nice is None else plan.nice,
    )
    if found != wanted:
        raise HostError(
            Problem(
                f"vcpu {index} (thread {tid}) is not scheduled as asked",
                found="policy {}, priority {}, nice {}".format(*found),
                allowed="policy {}, priority {}, nice {}".format(*wanted),
            )
        )
