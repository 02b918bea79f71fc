"""Tasks keep the CPUs that they were pinned to while their control groups are narrowed.

Until Linux 6.2 a change of a group's cpuset (or turning the controller on) gives each task in it
all of the group's CPUs, and what sched_setaffinity(2) has said before is forgotten
(systemd#23748): other machines' vCPUs would run anywhere. Since then the kernel keeps it
(8f9ea86fdf99).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qlaunch.host import sysfs
from qlaunch.host.handler import Host
from qlaunch.host.together import read_list

_KEEPS = (6, 2)


@contextmanager
def affinities_kept(host: Host) -> Iterator[None]:
    """Whoever was pinned before the block is pinned after it, to those of the CPUs that the task
    may still have. What it has lost by that it does not get back."""
    if host.door is not None or _release() >= _KEEPS:
        yield
        return
    before = dict(_pinned(host))
    try:
        yield
    finally:
        for tid, cpus in before.items():
            with suppress(OSError):  # ended meanwhile
                now = os.sched_getaffinity(tid)
                if cpus & now and cpus & now != now:
                    os.sched_setaffinity(tid, cpus & now)


def _pinned(host: Host) -> Iterator[tuple[int, set[int]]]:
    """Tasks that may run on less than their group."""
    online = set(read_list(sysfs.read_text(host.path("sys/devices/system/cpu/online")) or ""))
    for path in host.path("proc").glob("[0-9]*/task/[0-9]*"):
        with suppress(OSError):
            cpus = os.sched_getaffinity(int(path.name))
            if cpus < online and cpus < _group(host, path):
                yield int(path.name), cpus


def _group(host: Host, task: Path) -> set[int]:
    """The CPUs of a task's group: the nearest above that tells."""
    lines = (task / "cgroup").read_text().splitlines()
    place = next((line[3:] for line in lines if line.startswith("0::")), "/")
    top = host.path("sys/fs/cgroup")
    group = top / place.lstrip("/")
    for path in (group, *group.parents):
        text = sysfs.read_text(path / "cpuset.cpus.effective")
        if text or path == top:
            return set(read_list(text or ""))
    return set()


def _release() -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return tuple(map(int, found.groups())) if found else (0, 0)
