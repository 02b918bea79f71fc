"""A machine's control group: made before QEMU starts, empty and gone when all has ended.

Whoever is left in it once QEMU has ended was started by QEMU or its helpers, and is killed. Where
the controllers had to be turned on in the group above, that is noted for all machines, and whoever
finds no limited group there any more turns them off again.
"""

from __future__ import annotations

import errno
from pathlib import Path

from qlaunch.errors import KERNEL_LOG, HostError, Problem
from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import MakeCgroup

MOUNT = "sys/fs/cgroup"
_NOTE = "run/qlaunch/.cgroup"  # controllers that qlaunch has turned on at the top
_LIMITS = {"memory": "memory.max", "pids": "pids.max"}


class MakeCgroupHandler:
    """mkdir, limits; rmdir."""

    def capture(self, host: Host, step: MakeCgroup) -> Captured:
        """Nothing: an empty group of this name is this machine's, from a run whose journal is
        lost. Raises HostError for one that somebody runs in, or when there is no place."""
        group = _path(host, step)
        if not group.parent.is_dir():
            raise HostError(Problem("the group that the machine's is to be in has gone",
                                    where=str(group.parent), hint="start it again"))
        inside = _processes(group)
        if inside:
            raise HostError(
                Problem("somebody runs in the machine's control group", where=str(group),
                        found=f"pid {inside[0]}", hint=f"systemd-cgls {group}")
            )
        return {}

    def apply(self, host: Host, step: MakeCgroup, captured: Captured) -> None:
        """Make it and read its limits back. Raises HostError with the kernel's reason; where no
        limit and no isolation is asked, a group that cannot be made is done without."""
        group = _path(host, step)
        try:
            _turn_on(host, group.parent, step.enable)
            if group.is_dir():
                sysfs.door(host).rmdir(group)
            sysfs.door(host).mkdir(group)
        except OSError as error:
            if not step.needed:
                return
            raise HostError(
                Problem("the machine's control group cannot be made", where=str(group),
                        found=error.strerror or str(error), hint=_hint(error))
            ) from error
        for key, file in _LIMITS.items():
            limit = getattr(step, key)
            if limit is not None:
                _set(host, group / file, limit)

    def undo(self, host: Host, step: MakeCgroup, captured: Captured) -> str | None:
        """Kill who is left in it, remove it. Raises HostError when it stays."""
        group, told = _path(host, step), None
        if group.is_dir():
            sysfs.wait_until(host, lambda: not _processes(group))  # helpers write what they have
            left = _processes(group)
            if left:
                _kill(host, group)
                sysfs.wait_until(host, lambda: not _processes(group))
                told = f"{len(left)} left of QEMU's processes killed (pid {left[0]})"
            _remove(host, group)
        _turn_off(host, group.parent)
        return told


def _path(host: Host, step: MakeCgroup) -> Path:
    return host.path(f"{MOUNT}{step.path}")


def _processes(group: Path) -> list[int]:
    """Who is in it; a group cannot be removed before they have ended. Zombies do not count."""
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _set(host: Host, path: Path, limit: int) -> None:
    """The kernel keeps memory in whole pages."""
    try:
        sysfs.write(host, path, str(limit))
    except OSError as error:
        raise HostError(
            Problem(f"{path.name} cannot be set to {limit}", where=str(path),
                    found=error.strerror or str(error), hint=_hint(error))
        ) from error
    found = sysfs.read_number(path)
    if found is None or not limit - 65536 < found <= limit:
        raise HostError(Problem("the limit was not taken", where=str(path), allowed=str(limit),
                                found=sysfs.read_text(path) or "nothing"))


def _kill(host: Host, group: Path) -> None:
    if (group / "cgroup.kill").exists():  # Linux 5.14
        sysfs.write(host, group / "cgroup.kill", "1")
        return
    for pid in _processes(group):
        try:
            sysfs.door(host).send_signal(pid, 9)
        except ProcessLookupError:
            continue


def _remove(host: Host, group: Path) -> None:
    try:
        sysfs.door(host).rmdir(group)
    except FileNotFoundError:
        return  # systemd removes the empty groups of a session that has ended
    except OSError as error:
        inside = _processes(group)
        raise HostError(
            Problem("the machine's control group cannot be removed", where=str(group),
                    found=f"pid {inside[0]} is in it" if inside else error.strerror or str(error),
                    hint=f"once it is empty: rmdir '{group}'")
        ) from error


def _turn_on(host: Host, parent: Path, enable: tuple[str, ...]) -> None:
    missing = [name for name in enable if name not in _enabled(parent)]
    if not missing:
        return
    note = host.path(_NOTE)
    noted = (sysfs.read_text(note) or "").split()
    note.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    note.write_text(" ".join(dict.fromkeys([*noted, *missing])))
    sysfs.write(host, parent / "cgroup.subtree_control", " ".join(f"+{n}" for n in missing))


def _turn_off(host: Host, parent: Path) -> None:
    """Once no group there is limited, and none hands them on: turning one off lifts its limits."""
    note = host.path(_NOTE)
    noted = (sysfs.read_text(note) or "").split()
    if not noted or parent != host.path(MOUNT):
        return
    for group in (path for path in parent.iterdir() if path.is_dir()):
        limits = [sysfs.read_text(group / file) for file in _LIMITS.values()]
        if any(limit not in (None, "max") for limit in limits) or (
            set(noted) & set(_enabled(group))
        ):
            return
    on = [name for name in noted if name in _enabled(parent)]
    if on:
        sysfs.write(host, parent / "cgroup.subtree_control", " ".join(f"-{n}" for n in on))
    note.unlink(missing_ok=True)


def _enabled(group: Path) -> list[str]:
    return (sysfs.read_text(group / "cgroup.subtree_control") or "").split()


def _hint(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "processes are in the group above, so that it cannot have limited groups in it"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "run as root, outside of a container"
    if error.errno == errno.EAGAIN:
        return "cgroup.max.descendants of the groups above says how many there may be"
    return KERNEL_LOG
