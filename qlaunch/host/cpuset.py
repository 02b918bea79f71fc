"""The host's tasks leave CPUs: by the cpuset controller of control groups (v2, cgroup-v2.rst).

Where systemd is PID 1 it is the one writer of its units' groups, and is asked for AllowedCPUs= of
those at the top (systemd.resource-control(5)): init.scope, system.slice, user.slice, machine.slice
and any other. What it keeps of that below /run until the next boot says nothing any more. Groups
there that are not its units', and all of them without systemd, get cpuset.cpus. The machines that
isolate have groups of their own beside these (plan/cgroup.py), which stay as they are: so neither
what we run on ourselves nor what another launcher does matters.

Tasks that are in the top group itself cannot be kept off that way: threads of the kernel, and
without systemd what nobody has put into a group. What the kernel does in unbound workqueues is
kept off by their mask (workqueue.rst). A group that is made at the top later is not narrowed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host import sysfs
from qlaunch.host.affinity import affinities_kept
from qlaunch.host.handler import Captured, Host
from qlaunch.host.irqs import cpus_of, mask_of
from qlaunch.host.together import Kind, Note, Want, join, leave, narrowed, read_list, write_note
from qlaunch.plan.cpu_steps import IsolateCpus
from qlaunch.values import CpuSet

MOUNT = "sys/fs/cgroup"
_CONTROL = f"{MOUNT}/cgroup.subtree_control"
_WORK = "sys/devices/virtual/workqueue/cpumask"
_UNITS = (".slice", ".scope", ".service")
_OTHER_UNITS = (".mount", ".socket", ".swap")  # have tasks of their own for moments only
_WAIT = "systemd to narrow its groups"


class Units(Kind):
    """AllowedCPUs of systemd's units at the top; none where systemd is not PID 1."""

    name = "cpus.units"

    def find(self, host: Host, note: Note) -> Iterator[str]:
        """By their groups."""
        if _has_systemd(host):
            yield from (name for name in _groups(host) if name.endswith(_UNITS))

    def read(self, host: Host, names: Sequence[str]) -> dict[str, str]:
        """One call for all; a scope that has ended is not found any more."""
        if not names:
            return {}
        asked = "--property=Id,LoadState,AllowedCPUs"
        done = sysfs.run(host, ["systemctl", "show", asked, "--", *names])
        if done.code != 0:
            raise _refused("systemctl does not tell its units' CPUs", ", ".join(names), done.err)
        found = {}
        for block in done.out.split("\n\n"):
            lines = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if lines.get("Id") in names and lines.get("LoadState") != "not-found":
                found[lines["Id"]] = str(read_list(lines.get("AllowedCPUs", "")))
        return found

    def write(self, host: Host, name: str, text: str) -> None:
        """Until the next boot, and wait until it is done: systemd answers before. Its empty list
        leaves cpuset.cpus as it was (systemd#43846), so we lift that."""
        words = ["systemctl", "set-property", "--runtime", "--", name, f"AllowedCPUs={text}"]
        done = sysfs.run(host, words)
        file = host.path(f"{MOUNT}/{name}/cpuset.cpus")
        if not file.parent.is_dir():
            return  # nothing of it runs: what is set, if it could be, is for its next time
        if done.code != 0:
            raise _refused(f"systemd does not set AllowedCPUs={text}", name, done.err)
        if not text:
            with suppress(FileNotFoundError):  # it has turned the controller off as well
                if sysfs.read_text(file):
                    _lift(host, file)
        elif not sysfs.wait_until(host, lambda: _shows(file, text), _WAIT):
            raise HostError(Problem("systemd has not narrowed the group", where=str(file),
                                    found=sysfs.read_text(file) or "nothing", allowed=text,
                                    hint=f"journalctl -b -u init.scope; systemctl show {name}"))

    def wanted(self, host: Host, name: str, before: str, note: Note) -> str:
        """An empty list is one of all CPUs."""
        return narrowed(host, before, note)


class Groups(Kind):
    """cpuset.cpus of groups at the top, by their names; and the mask of unbound workqueues."""

    name = "cpus.groups"

    def prepare(self, host: Host, note: Note) -> None:
        """The controller is turned on by systemd where there is one, else by us."""
        if _has_systemd(host) or "cpuset" in _enabled(host):
            return
        note.turned_on = True
        write_note(host, self, note)
        sysfs.write(host, host.path(_CONTROL), "+cpuset")

    def find(self, host: Host, note: Note) -> Iterator[str]:
        """Those that are neither systemd's units nor of machines that isolate."""
        theirs = {f"qlaunch-{machine}" for machine in note.wants}
        units = (*_UNITS, *_OTHER_UNITS) if _has_systemd(host) else ()
        for name in _groups(host):
            if name not in theirs and not (units and name.endswith(units)):
                yield f"{MOUNT}/{name}/cpuset.cpus"
        yield _WORK

    def read(self, host: Host, names: Sequence[str]) -> dict[str, str]:
        """Where the controller is off there is no file."""
        found = {}
        for name in names:
            with suppress(OSError):  # the group is removed while it is read
                text = sysfs.read_text(host.path(name))
                if text is not None:
                    found[name] = str(cpus_of(text) if name == _WORK else read_list(text))
        return found

    def write(self, host: Host, name: str, text: str) -> None:
        """One write(2)."""
        if not text:
            _lift(host, host.path(name))
        else:
            words = mask_of(read_list(text)) if name == _WORK else text
            sysfs.write(host, host.path(name), words)

    def wanted(self, host: Host, name: str, before: str, note: Note) -> str:
        """An empty list is one of all CPUs."""
        return narrowed(host, before, note)

    def same(self, host: Host, shown: str, wanted: str) -> bool:
        """Where an empty list is refused, one of all CPUs stands for it."""
        return shown == wanted or (not wanted and read_list(shown) == _possible(host))

    def clear(self, host: Host, note: Note) -> None:
        """What we have turned on goes off, unless somebody uses it by now."""
        if not note.turned_on or "cpuset" not in _enabled(host):
            return
        for name in _groups(host):
            found = sysfs.read_text(host.path(f"{MOUNT}/{name}/cpuset.cpus")) or ""
            if not self.same(host, found, ""):
                return
        try:
            sysfs.write(host, host.path(_CONTROL), "-cpuset")
        except OSError as error:
            if error.errno != errno.EBUSY:  # a group hands it on
                raise


class IsolateCpusHandler:
    """systemd's units, other groups, unbound workqueues."""

    def capture(self, host: Host, step: IsolateCpus) -> Captured:
        """Nothing: the notes keep what was there before the first machine."""
        return {}

    def apply(self, host: Host, step: IsolateCpus, captured: Captured) -> None:
        """Units first: by them systemd turns the controller on. Raises HostError."""
        with affinities_kept(host):
            join(host, Units(), step.machine, Want(step.cpus))
            join(host, Groups(), step.machine, Want(step.cpus))

    def undo(self, host: Host, step: IsolateCpus, captured: Captured) -> str | None:
        """In the other order, and both. Raises what the first that failed has raised."""
        failed: list[Exception] = []
        with affinities_kept(host):
            for kind in (Groups(), Units()):
                try:
                    leave(host, kind, step.machine)
                except (HostError, OSError) as error:
                    failed.append(error)
        if failed:
            raise failed[0]
        return None


def _has_systemd(host: Host) -> bool:
    """sd_booted(3)."""
    return host.path("run/systemd/system").is_dir()


def _groups(host: Host) -> list[str]:
    top = host.path(MOUNT)
    return sorted(path.name for path in top.iterdir() if path.is_dir()) if top.is_dir() else []


def _enabled(host: Host) -> list[str]:
    return (sysfs.read_text(host.path(_CONTROL)) or "").split()


def _possible(host: Host) -> CpuSet:
    return read_list(sysfs.read_text(host.path("sys/devices/system/cpu/possible")) or "")


def _lift(host: Host, file: Path) -> None:
    """No limit. A group with tasks in it cannot have its list emptied again (ENOSPC,
    kernel/cgroup/cpuset.c validate_change), so that gets all CPUs there can be."""
    try:
        sysfs.write(host, file, "")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sysfs.write(host, file, str(_possible(host)))


def _shows(file: Path, text: str) -> bool:
    return read_list(sysfs.read_text(file) or "") == read_list(text)


def _refused(message: str, where: str, said: str) -> HostError:
    words = said.strip().splitlines()
    return HostError(Problem(message, where=where, found=words[-1] if words else "",
                             hint="leave isolate out of [cpu], and it starts without"))
