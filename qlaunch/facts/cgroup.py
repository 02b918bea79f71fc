"""Where a control group of a machine's own can be made: our group and those above it.

Only the unified hierarchy at /sys/fs/cgroup counts. A process is moved by whoever may write
cgroup.procs of the nearest group above both places (cgroup-v2.rst, "Delegation Containment").
"""

from __future__ import annotations

import os
from pathlib import Path

from qlaunch.facts.cgroup_model import CgroupLevel
from qlaunch.facts.tree import base_of, read_attribute, read_lines

MOUNT = "/sys/fs/cgroup"
CONTROLLERS = ("memory", "pids", "cpuset")


def read_cgroup(root: Path = Path("/")) -> tuple[CgroupLevel, ...]:
    """Ours first, the top last; () where there is no unified hierarchy, or ours is not in sight."""
    base = base_of(root)
    if read_attribute(f"{base}{MOUNT}/cgroup.controllers") is None:
        return ()
    own = next((x[3:] for x in read_lines(f"{base}/proc/self/cgroup") if x.startswith("0::")), "")
    place = own.rstrip("/")
    if not own.startswith("/") or ".." in place.split("/") or not (
        os.path.isdir(f"{base}{MOUNT}{place}")  # noqa: PTH112
    ):
        return ()  # another namespace's, or a group that has been removed
    levels = [_read_level(base, place)]
    while place:
        place = place.rpartition("/")[0]
        levels.append(_read_level(base, place))
    return tuple(levels)


def _read_level(base: str, place: str) -> CgroupLevel:
    path = f"{base}{MOUNT}{place}"
    kind = read_attribute(f"{path}/cgroup.type")  # the host's top has none
    mine = all(
        os.access(name, os.W_OK, effective_ids=True) for name in (path, f"{path}/cgroup.procs")
    )
    return CgroupLevel(
        path=place, has=_controllers(f"{path}/cgroup.controllers"),
        on=_controllers(f"{path}/cgroup.subtree_control"),
        top=kind is None and not place, domain=kind in (None, "domain"),
        mine=mine, root=mine if os.geteuid() == 0 else _writable(path),
    )


def _controllers(path: str) -> tuple[str, ...]:
    there = (read_attribute(path) or "").split()
    return tuple(name for name in CONTROLLERS if name in there)


def _writable(path: str) -> bool:
    """By root, as far as who is none can tell: containers are often shown it read-only."""
    try:
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False
