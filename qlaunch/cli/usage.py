"""The figures of `top`: snapshots of the host and of each running machine, from two looks at them.

It keeps a Gauge a machine while it lives, and the counters of the last snapshot. A machine whose
monitor somebody else has is shown without its disks, and asked again after a while.
"""

from __future__ import annotations

import time

from msgspec import Struct

from qlaunch.cli.reach import Reached
from qlaunch.errors import HostError
from qlaunch.run.info import Info, find_qemu, is_alive, is_qemu, machine_names, read_info
from qlaunch.run.talk import connect
from qlaunch.vm.gauge import Counters, Gauge, Slice, cpu_times, memory_of, nics_of, read_disks
from qlaunch.vm.monitor import Monitor

PATIENCE = 1.0  # seconds that a monitor gets to answer
HOLD_OFF = 5.0  # seconds without asking one that did not


class DiskUse(Struct, frozen=True):
    """A second's bytes and operations."""

    name: str
    read: float
    written: float
    reads: float
    writes: float


class NicUse(Struct, frozen=True):
    """A second's bytes, as the guest sees them."""

    name: str
    received: float
    sent: float


class Thread(Struct, frozen=True):
    """A thread (all of QEMU's own count as one) on a host CPU: percent of that CPU."""

    kind: str
    name: str
    cpu: int
    percent: float


class MachineUse(Struct, frozen=True, kw_only=True):
    """One machine. `disks` is None when its monitor did not answer; bytes of memory."""

    name: str
    state: str
    threads: tuple[Thread, ...]
    resident: int
    memory: int
    disks: tuple[DiskUse, ...] | None
    nics: tuple[NicUse, ...]

    def percent(self, *kinds: str) -> float:
        """Of one CPU; all kinds when none is named."""
        return sum(t.percent for t in self.threads if not kinds or t.kind in kinds)


class Snapshot(Struct, frozen=True, kw_only=True):
    """All of it: over so many seconds, host CPU → percent busy, bytes of memory."""

    time: float
    seconds: float
    cpus: dict[int, float]
    memory_used: int
    memory_total: int
    machines: tuple[MachineUse, ...]
    through_root: int = 0  # machines that only root can look at


class _One:
    """What is kept of a machine between two snapshots."""

    def __init__(self, pid: int) -> None:
        self.gauge = Gauge(pid)
        self.disks: dict[str, Counters] | None = None
        self.nics = nics_of(pid)
        self.asked_again = 0.0  # when its monitor may be asked again


class Watcher:
    """Looks at all machines below `base`, or at one. Raises nothing while they come and go."""

    def __init__(self, base: str, only: str | None = None, through_root: int = 0) -> None:
        self._base, self._only, self._through_root = base, only, through_root
        self._known: dict[str, _One] = {}
        self._cpus = cpu_times()
        self._when = time.monotonic()
        self._find()
        for name, one in self._known.items():
            one.disks, _ = self._ask(name, one)

    def look(self) -> None:
        """To be called a few times a second."""
        for one in self._known.values():
            one.gauge.look()

    def take(self) -> Snapshot:
        """The figures since the last one."""
        import psutil

        now, cpus = time.monotonic(), cpu_times()
        seconds = max(now - self._when, 1e-3)
        machines = tuple(self._machine(name, one, seconds) for name, one in self._known.items())
        busy = {cpu: _busy(self._cpus.get(cpu), times) for cpu, times in cpus.items()}
        self._when, self._cpus = now, cpus
        self._find()
        memory = psutil.virtual_memory()
        return Snapshot(
            time=time.time(), seconds=seconds, cpus=busy, machines=machines,
            memory_used=memory.total - memory.available, memory_total=memory.total,
            through_root=self._through_root,
        )

    def _find(self) -> None:
        """Those that run now; known ones keep their figures."""
        found = {}
        for name in machine_names(self._base) if self._only is None else [self._only]:
            runtime = f"{self._base}/{name}"
            known = self._known.get(name)
            if known is not None and is_qemu(runtime, known.gauge.pid):
                found[name] = known
            elif is_alive(runtime) and (pid := find_qemu(runtime)):
                found[name] = _One(pid)
        self._known = found

    def _machine(self, name: str, one: _One, seconds: float) -> MachineUse:
        info = read_info(f"{self._base}/{name}")
        disks, state = self._ask(name, one, info)
        nics = nics_of(one.gauge.pid)
        use = MachineUse(
            name=name, state=state, resident=memory_of(one.gauge.pid),
            memory=info.memory if info else 0,
            nics=tuple(NicUse(n, *rates[:2]) for n, rates in _rates(one.nics, nics, seconds)),
            threads=tuple(_thread(slice_, seconds) for slice_ in one.gauge.take()),
            disks=None if disks is None else tuple(
                DiskUse(disk, *rates) for disk, rates in _rates(one.disks or disks, disks, seconds)
            ),
        )
        one.disks, one.nics = disks, nics
        return use

    def _ask(
        self, name: str, one: _One, info: Info | None = None
    ) -> tuple[dict[str, Counters] | None, str]:
        """(counters by disk, QEMU's word for what it does)."""
        info = info or read_info(f"{self._base}/{name}")
        if info is None or time.monotonic() < one.asked_again:
            return None, "?"
        from qlaunch.vm.loop import asyncio

        try:
            return asyncio.run(_figures(Reached(name, info.socket_dir, info)))
        except HostError:
            one.asked_again = time.monotonic() + HOLD_OFF
            return None, "?"


async def _figures(machine: Reached) -> tuple[dict[str, Counters], str]:
    async with await connect(machine, PATIENCE) as monitor:
        return await read_disks(monitor), await _status(monitor)


async def _status(monitor: Monitor) -> str:
    return str((await monitor.execute("query-status"))["status"])


def _rates(
    before: dict[str, Counters], now: dict[str, Counters], seconds: float
) -> list[tuple[str, list[float]]]:
    return [
        (name, [max(0, b - a) / seconds
                for a, b in zip(before.get(name, counters), counters, strict=True)])
        for name, counters in now.items()
    ]


def _thread(used: Slice, seconds: float) -> Thread:
    return Thread(used.kind, used.name, used.cpu, 100 * used.seconds / seconds)


def _busy(before: tuple[float, float] | None, now: tuple[float, float]) -> float:
    busy, passed = (now[0] - before[0], now[1] - before[1]) if before else (0.0, 0.0)
    return 100 * busy / passed if passed > 0 else 0.0
