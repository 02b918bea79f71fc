"""The cpufreq governor of the guest's CPUs (Documentation/admin-guide/pm/cpufreq.rst).

A policy is several CPUs whose clock is one; whichever machine came last decides about one that two
of them are in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.host.together import Kind, Note, Want, join, leave, read_list
from qlaunch.plan.cpu_steps import SetGovernor
from qlaunch.values import CpuSet

_POLICIES = "sys/devices/system/cpu/cpufreq"


class Governors(Kind):
    """By their policies' names."""

    name = "governors"

    def find(self, host: Host, note: Note) -> Iterator[str]:
        """Policies with a CPU of a machine's."""
        for path in sorted(host.path(_POLICIES).glob("policy*")):
            if set(_cpus(path)) & set(note.cpus):
                yield path.name

    def read(self, host: Host, names: Sequence[str]) -> dict[str, str]:
        """Those of policies whose CPUs have all gone offline are not there."""
        found = {}
        for name in names:
            try:
                text = sysfs.read_text(host.path(f"{_POLICIES}/{name}/scaling_governor"))
            except OSError:
                continue
            if text:
                found[name] = text
        return found

    def write(self, host: Host, name: str, text: str) -> None:
        """One write(2)."""
        sysfs.write(host, host.path(f"{_POLICIES}/{name}/scaling_governor"), text)

    def wanted(self, host: Host, name: str, before: str, note: Note) -> str:
        """By the last machine that has a CPU in it."""
        cpus = set(_cpus(host.path(f"{_POLICIES}/{name}")))
        asked = [want.value for want in note.wants.values() if cpus & set(want.cpus)]
        return asked[-1] if asked else before

    def hint(self, host: Host, name: str, error: OSError) -> str:
        """What it may be."""
        offered = sysfs.read_text(host.path(f"{_POLICIES}/{name}/scaling_available_governors"))
        return f"it may be one of: {offered}" if offered else sysfs.way_on(error)


def _cpus(policy: Path) -> CpuSet:
    return read_list(sysfs.read_text(policy / "related_cpus") or policy.name[6:])


class SetGovernorHandler:
    """scaling_governor of each policy."""

    def capture(self, host: Host, step: SetGovernor) -> Captured:
        """Nothing: the note keeps what was there before the first machine."""
        return {}

    def apply(self, host: Host, step: SetGovernor, captured: Captured) -> None:
        """Raises HostError with the governors that there are."""
        join(host, Governors(), step.machine, Want(step.cpus, step.governor))

    def undo(self, host: Host, step: SetGovernor, captured: Captured) -> str | None:
        """The governors of before, where nobody has changed ours since."""
        leave(host, Governors(), step.machine)
        return None
