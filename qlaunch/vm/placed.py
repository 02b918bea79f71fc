"""Where each thread of a running QEMU is, and whether that is where its plan wants it.

The launcher pins before the guest runs; what moved a thread later (taskset, a cpuset, systemd's
AllowedCPUs) is seen here. Sources: sched_getaffinity(2), proc_pid_stat(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from qlaunch.plan.model import PinPlan
from qlaunch.values import CpuSet
from qlaunch.vm.pin import Threads, ended, explain
from qlaunch.vm.sched import POLICIES

NAMES = {number: name for name, number in POLICIES.items()}


class Placed(Struct, frozen=True, kw_only=True):
    """One thread. `wanted` is None where the plan leaves it alone; `last` is the CPU it ran on
    last, None when the kernel did not say; `fault` is "" when all is as planned."""

    kind: str  # vcpu, iothread, emulator, vhost
    name: str
    tid: int
    wanted: CpuSet | None
    allowed: CpuSet
    last: int | None
    policy: str
    priority: int
    nice: int
    fault: str = ""


def place_threads(threads: Threads, plan: PinPlan | None) -> list[Placed]:
    """All threads that live at this moment, vCPUs first. Raises HostError when QEMU has ended."""
    found = [placed for one in _all(threads, plan or PinPlan()) if (placed := _look(*one, plan))]
    if not any(one.kind == "vcpu" for one in found):
        raise ended("QEMU has ended meanwhile")
    return found


def _all(
    threads: Threads, plan: PinPlan
) -> Iterator[tuple[str, str, int, CpuSet | None]]:
    """(kind, name, tid, wanted): single-threaded TCG has one thread for all vCPUs."""
    sharing: dict[int, list[int]] = {}
    for index, tid in enumerate(threads.vcpus):
        sharing.setdefault(tid, []).append(index)
    pinned = plan.vcpus if len(plan.vcpus) == len(threads.vcpus) else ()
    for tid, indices in sharing.items():
        wanted = CpuSet(cpu for i in indices for cpu in pinned[i]) if pinned else None
        yield "vcpu", f"vcpu {CpuSet(indices)}", tid, wanted
    for name, tid in threads.iothreads.items():
        yield "iothread", name, tid, plan.iothreads
    for tid in threads.emulator:
        yield "emulator", _comm(threads.pid, tid), tid, plan.emulator
    for tid in threads.vhost:
        yield "vhost", f"vhost {tid}", tid, plan.emulator


def _look(
    kind: str, name: str, tid: int, wanted: CpuSet | None, plan: PinPlan | None
) -> Placed | None:
    """None when it has ended: threads of a pool come and go."""
    try:
        allowed = CpuSet(os.sched_getaffinity(tid))
        policy = os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK
        priority = os.sched_getparam(tid).sched_priority
        nice = os.getpriority(os.PRIO_PROCESS, tid)
    except OSError:
        return None
    policy_name = NAMES.get(policy, str(policy))
    fault = ""
    if kind == "emulator" and plan is not None and allowed == plan.iothreads:
        wanted = allowed  # a worker that an iothread has started is where that is
    if wanted is not None and allowed != wanted:
        problem = explain(tid, name, wanted, allowed)
        fault = f"{problem.message}" if set(wanted) - set(allowed) else (
            f"{name} may also run on CPU {CpuSet(set(allowed) - set(wanted))}")
    elif kind == "vcpu" and plan is not None:
        fault = _schedule_fault(plan, policy_name, priority, nice)
    return Placed(kind=kind, name=name, tid=tid, wanted=wanted, allowed=allowed, last=last_cpu(tid),
                  policy=policy_name, priority=priority, nice=nice, fault=fault)


def _schedule_fault(plan: PinPlan, policy: str, priority: int, nice: int) -> str:
    if plan.sched is not None and (policy, priority) != (plan.sched, plan.priority):
        return f"is scheduled {policy} {priority}, wanted {plan.sched} {plan.priority}"
    if plan.nice is not None and nice != plan.nice:
        return f"has niceness {nice}, wanted {plan.nice}"
    return ""


def last_cpu(tid: int) -> int | None:
    """Field 39 of /proc/TID/stat; the name in the second may hold anything."""
    fields = _read(f"/proc/{tid}/stat").rpartition(")")[2].split()
    return int(fields[36]) if len(fields) > 36 else None


def _comm(pid: int, tid: int) -> str:
    return _read(f"/proc/{pid}/task/{tid}/comm").rstrip("\n") or "?"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def as_json(one: Placed) -> dict[str, Any]:
    """CPU sets as the text a profile uses."""
    return {
        "kind": one.kind, "name": one.name, "tid": one.tid,
        "wanted": None if one.wanted is None else str(one.wanted), "allowed": str(one.allowed),
        "last": one.last, "policy": one.policy, "priority": one.priority, "nice": one.nice,
        "fault": one.fault,
    }
