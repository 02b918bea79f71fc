"""What a running QEMU uses: its threads' time by host CPU, its memory, its disks' and NICs' bytes.

The kernel does not say how a thread's time is split over CPUs; so threads are looked at several
times a second, and what each has used since is put down to the CPU it is on. Sources:
proc_pid_stat(5), proc_pid_fdinfo(5), drivers/net/tun.c (`iff:`), kernel's Documentation/scheduler/
sched-stats.rst; thread names are those of QEMU's debug-threads=on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from qlaunch.vm.monitor import Monitor
from qlaunch.vm.pin import find_vhost

Kind = str  # "vcpu", "iothread", "emulator" or "vhost"
_TICK = os.sysconf("SC_CLK_TCK")


class Slice(NamedTuple):
    """Seconds that one thread was on one CPU."""

    kind: Kind
    name: str
    cpu: int
    seconds: float


class Counters(NamedTuple):
    """Bytes and operations of a disk (read, written) or bytes of a NIC (in, out), since its
    start."""

    first: int
    second: int
    first_ops: int = 0
    second_ops: int = 0


class Gauge:
    """One QEMU. `look` often; `take` what has come together since the last `take`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._before: dict[int, float] = {}
        self._used: dict[tuple[Kind, str, int], float] = {}
        self._vhost: tuple[int, ...] = ()
        self.look()

    def look(self) -> None:
        """Put what each thread has used since the last look down to the CPU it is on."""
        now: dict[int, float] = {}
        for tid, path in self._threads():
            found = _read_thread(path)
            if found is None:
                continue
            comm, cpu, now[tid] = found
            used = now[tid] - self._before.get(tid, now[tid])
            if used > 0:
                key = (*kind_of(comm, self.pid, tid), cpu)
                self._used[key] = self._used.get(key, 0.0) + used
        self._before = now

    def take(self) -> list[Slice]:
        """By kind, name and CPU; it begins anew."""
        self.look()
        self._vhost = find_vhost(self.pid)
        found = [Slice(*key, seconds) for key, seconds in self._used.items()]
        self._used = {}
        return sorted(found)

    def _threads(self) -> Iterator[tuple[int, str]]:
        try:
            names = os.listdir(f"/proc/{self.pid}/task")  # noqa: PTH208
        except OSError:
            return
        tids = {int(name) for name in names}
        yield from ((tid, f"/proc/{self.pid}/task/{tid}") for tid in tids)
        yield from ((tid, f"/proc/{tid}") for tid in self._vhost if tid not in tids)


def kind_of(comm: str, pid: int, tid: int) -> tuple[Kind, str]:
    """`CPU 3/KVM` → ("vcpu", "vcpu 3"); `IO io0` → ("iothread", "io0")."""
    if comm.startswith("CPU "):
        return "vcpu", f"vcpu {comm[4:].partition('/')[0]}"
    if comm.startswith("ALL CPUs"):
        return "vcpu", "vcpus"
    if comm == f"vhost-{pid}":
        return "vhost", f"vhost {tid}"
    if comm.startswith("IO ") and comm != "IO mon_iothread":
        return "iothread", comm[3:]
    return "emulator", "emulator"


def _read_thread(path: str) -> tuple[str, int, float] | None:
    """(name, CPU, seconds used); the scheduler's nanoseconds where there are any."""
    stat = _read(f"{path}/stat")
    head, _, rest = stat.rpartition(")")
    fields = rest.split()
    if len(fields) < 37:
        return None
    used = (int(fields[11]) + int(fields[12])) / _TICK
    exact = _read(f"{path}/schedstat").split()
    return head.partition("(")[2], int(fields[36]), int(exact[0]) / 1e9 if exact else used


def cpu_times(root: str = "/") -> dict[int, tuple[float, float]]:
    """Host CPU → (seconds busy, seconds in all), from the `cpuN` lines of /proc/stat."""
    found = {}
    for line in _read(f"{root}/proc/stat").splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name != "cpu":
            # guest time, fields 9 and 10, is in user time already
            ticks = [int(number) / _TICK for number in numbers[:8]]
            found[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def memory_of(pid: int) -> int:
    """Bytes resident, huge pages of hugetlbfs included, which the kernel counts apart. 0: ended."""
    import psutil

    try:
        resident = int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("HugetlbPages:"):
            return resident + int(line.split()[1]) * 1024
    return resident


def nics_of(pid: int) -> dict[str, Counters]:
    """Taps and macvtaps that QEMU has open, by name; bytes as the guest sees them (in, out).

    What other backends carry (user, passt, sockets) and what a passed-through NIC does is counted
    nowhere.
    """
    names = dict(_interfaces(pid))
    if not names:
        return {}
    import psutil

    known = psutil.net_io_counters(pernic=True, nowrap=False)
    found = {}
    for name, tap in names.items():
        if name in known:
            got, sent = known[name].bytes_recv, known[name].bytes_sent
            found[name] = Counters(sent, got) if tap else Counters(got, sent)
    return found


def _interfaces(pid: int) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a tap: what the host receives there is what the guest has sent)."""
    try:
        fds = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except OSError:
        return
    for fd in fds:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")  # noqa: PTH115
        except OSError:
            continue
        if target == "/dev/net/tun":
            for line in _read(f"/proc/{pid}/fdinfo/{fd}").splitlines():
                if line.startswith("iff:"):
                    yield line[4:].strip(), True
        elif target.startswith("/dev/tap") and target[8:].isdigit():
            name = _by_index(target[8:])
            if name:
                yield name, False


def _by_index(index: str) -> str:
    for name in os.listdir("/sys/class/net"):  # noqa: PTH208
        if _read(f"/sys/class/net/{name}/ifindex").strip() == index:
            return name
    return ""


async def read_disks(monitor: Monitor) -> dict[str, Counters]:
    """Disks and CD drives by id. Raises HostError."""
    found = {}
    for one in await monitor.execute("query-blockstats"):
        ident = disk_id(one)
        stats: dict[str, Any] = one["stats"]
        if ident:
            found[ident] = Counters(stats["rd_bytes"], stats["wr_bytes"], stats["rd_operations"],
                                    stats["wr_operations"])
    return dict(sorted(found.items()))


def disk_id(stats: dict[str, Any]) -> str:
    """`/machine/peripheral/disk0/virtio-backend` → `disk0`."""
    path = str(stats.get("qdev") or stats.get("device") or "").split("/")
    return path[path.index("peripheral") + 1] if "peripheral" in path else path[-1]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""
