"""Put every thread of a paused QEMU on its CPUs, and read back where the kernel put it.

The kernel narrows a mask to the cgroup's cpuset without a word, so what was asked proves nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qlaunch.errors import HostError, Problem
from qlaunch.values import CpuSet, parse_cpu_set

if TYPE_CHECKING:
    from qlaunch.plan.model import PinPlan
    from qlaunch.vm.monitor import Monitor

_UNPINNED = "leave pin out of [cpu], and it starts without"
PASSES = 10  # over threads that appear meanwhile; each inherits its creator's CPUs anyway


class Threads(NamedTuple):
    """Thread ids of one QEMU: vCPUs by index, iothreads by id, its others, the kernel's for it."""

    pid: int
    vcpus: tuple[int, ...]
    iothreads: dict[str, int]
    emulator: tuple[int, ...]
    vhost: tuple[int, ...]


class Pinned(NamedTuple):
    """One thread: where it was wanted, and where the kernel lets it run."""

    tid: int
    name: str
    wanted: CpuSet
    actual: CpuSet


async def read_threads(monitor: Monitor, pid: int) -> Threads:
    """Ask QEMU which threads are which, and /proc which others there are. Works while paused."""
    cpus = await monitor.execute("query-cpus-fast")
    ios = await monitor.execute("query-iothreads")
    vcpus = tuple(c["thread-id"] for c in sorted(cpus, key=lambda c: int(c["cpu-index"])))
    iothreads = {str(one["id"]): int(one["thread-id"]) for one in ios}
    vhost = find_vhost(pid)
    known = {*vcpus, *iothreads.values(), *vhost}
    emulator = tuple(tid for tid in _tasks(pid) if tid not in known)
    return Threads(pid, vcpus, iothreads, emulator, vhost)


def find_vhost(pid: int, root: str = "/") -> tuple[int, ...]:
    """The vhost workers of a process: its own tasks since Linux 6.4, kernel threads before."""
    proc = Path(root, "proc")
    name = f"vhost-{pid}"
    inside = {tid for tid in _tasks(pid, root) if _comm(proc / f"{pid}/task/{tid}") == name}
    if not inside and _uses_vhost(proc / str(pid)):
        numbers = (entry for entry in proc.iterdir() if entry.name.isdigit())
        inside = {int(entry.name) for entry in numbers if _comm(entry) == name}
    return tuple(sorted(inside))


def _uses_vhost(process: Path) -> bool:
    try:
        return any(
            str(fd.readlink()).startswith("/dev/vhost-") for fd in (process / "fd").iterdir()
        )
    except OSError:
        return False


def pin_threads(threads: Threads, plan: PinPlan) -> list[Pinned]:
    """Pin all threads as planned and read each back.

    vCPUs without a plan of their own go back to all of the launcher's CPUs, because QEMU was
    started on the emulator's. Raises HostError with the CPU or the cpuset that is in the way;
    threads before the one it names stay pinned, and the guest has not run.
    """
    pinned = [_pin(tid, name, wanted) for tid, name, wanted in _wanted(threads, plan)]
    if plan.emulator is not None:
        pinned += _pin_emulator(threads, plan.emulator)
    return [one for one in pinned if one is not None]


def _wanted(threads: Threads, plan: PinPlan) -> Iterator[tuple[int, str, CpuSet]]:
    if plan.vcpus and len(plan.vcpus) != len(threads.vcpus):
        differ = f"{len(plan.vcpus)} vCPUs are pinned, QEMU has {len(threads.vcpus)}"
        raise HostError(Problem(differ, hint=_UNPINNED))
    sets: dict[int, tuple[str, CpuSet]] = {}
    everywhere = CpuSet(os.sched_getaffinity(0))
    for index, tid in enumerate(threads.vcpus):
        cpus = plan.vcpus[index] if plan.vcpus else everywhere
        # Single-threaded TCG has one thread for all vCPUs: it may run where any of them may.
        name, before = sets.get(tid, (f"vcpu {index}", CpuSet()))
        sets[tid] = (name, CpuSet((*before, *cpus)))
    if plan.vcpus or plan.emulator is not None:
        yield from ((tid, name, cpus) for tid, (name, cpus) in sets.items())
    if plan.iothreads is not None:
        yield from ((tid, f"iothread {i}", plan.iothreads) for i, tid in threads.iothreads.items())
    if plan.emulator is not None:
        yield from ((tid, f"vhost {tid}", plan.emulator) for tid in threads.vhost)


def _pin_emulator(threads: Threads, cpus: CpuSet) -> Iterator[Pinned | None]:
    known = {*threads.vcpus, *threads.iothreads.values(), *threads.vhost}
    for _ in range(PASSES):
        fresh = [tid for tid in _tasks(threads.pid) if tid not in known]
        if not fresh:
            return
        known.update(fresh)
        for tid in fresh:
            yield _pin(tid, "emulator", cpus)


def _pin(tid: int, name: str, wanted: CpuSet) -> Pinned | None:
    """None when an emulator thread has ended meanwhile; a pool's come and go."""
    try:
        os.sched_setaffinity(tid, wanted)
        actual = CpuSet(os.sched_getaffinity(tid))
    except ProcessLookupError:
        if name == "emulator":
            return None
        raise ended(f"{name} (thread {tid}) has ended") from None
    except PermissionError:
        if not name.startswith("vhost"):
            raise HostError(Problem(f"{name} (thread {tid}) may not be pinned by this user",
                                    hint="run as root, or " + _UNPINNED)) from None
        # A kernel thread is root's; told by verify(), and no reason not to run.
        return Pinned(tid, name, wanted, CpuSet(os.sched_getaffinity(tid)))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise HostError(Problem(f"{name} could not be pinned", found=str(error),
                                    hint=_UNPINNED)) from None
        actual = CpuSet()
    if actual != wanted:
        raise HostError(explain(tid, name, wanted, actual))
    return Pinned(tid, name, wanted, actual)


def ended(message: str) -> HostError:
    """For a thread, or a QEMU, that was there a moment ago."""
    return HostError(Problem(message, hint="qlaunch logs NAME tells why QEMU ended"))


def explain(tid: int, name: str, wanted: CpuSet, actual: CpuSet, root: str = "/") -> Problem:
    """Why a thread may not run where it was wanted: a CPU that is offline, or a cpuset."""
    refused = CpuSet(set(wanted) - set(actual))
    online = _read_cpus(Path(root, "sys/devices/system/cpu/online"))
    offline = CpuSet(set(refused) - set(online or refused))
    if offline:
        return Problem(
            f"{name} cannot run on CPU {offline}: not online",
            found=f"online: {online}",
            hint="correct the profile's CPU lists, or bring the CPU online",
        )
    where, allowed = _cpuset(tid, root)
    return Problem(
        f"{name} may not run on CPU {refused}",
        where=where,
        found=f"asked for {wanted}, got {actual or 'none'}",
        allowed=str(allowed or ""),
        hint="start qlaunch outside of that cgroup, or widen its cpuset",
    )


def _cpuset(tid: int, root: str) -> tuple[str, CpuSet | None]:
    """The nearest file of the thread's cgroup that limits its CPUs, and what it allows."""
    try:
        lines = Path(root, f"proc/{tid}/cgroup").read_text().splitlines()
    except OSError:
        return "", None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpuset"):
            continue
        top = Path(root, "sys/fs/cgroup", controllers)
        name = "cpuset.effective_cpus" if controllers else "cpuset.cpus.effective"
        place = top / path.lstrip("/")
        for directory in (place, *place.parents):
            allowed = _read_cpus(directory / name)
            if allowed is not None:
                return str(directory / name), allowed
            if directory == top:
                break
    return "", None


def verify(pinned: list[Pinned]) -> list[Problem]:
    """Read all again: a warning for each thread that is not where it was wanted and lives."""
    problems = []
    for one in pinned:
        try:
            actual = CpuSet(os.sched_getaffinity(one.tid))
        except ProcessLookupError:
            continue
        if actual != one.wanted:
            problem = explain(one.tid, one.name, one.wanted, actual)
            problems.append(problem._replace(severity="warning"))
    return problems


def _read_cpus(path: Path) -> CpuSet | None:
    try:
        return parse_cpu_set(path.read_text().strip())
    except (OSError, ValueError):
        return None


def _tasks(pid: int, root: str = "/") -> list[int]:
    try:
        return sorted(int(task.name) for task in Path(root, f"proc/{pid}/task").iterdir())
    except OSError:
        return []


def _comm(process: Path) -> str:
    try:
        return (process / "comm").read_text().rstrip("\n")
    except OSError:
        return ""
