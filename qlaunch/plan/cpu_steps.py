"""Host steps about CPUs, which several machines may want at once: see plan/steps.py.

What they change is noted for all machines (host/together.py), so each names the one it is of.
"""

from __future__ import annotations

from qlaunch.plan.step import BaseStep
from qlaunch.values import CpuSet


class IsolateCpus(BaseStep, frozen=True, kw_only=True, tag="isolate-cpus"):
    """Have the host's control groups and unbound kernel work leave CPUs; the machine's own group
    (MakeCgroup) is beside those. What two machines isolate comes back with the last of them."""

    machine: str
    cpus: CpuSet

    def __str__(self) -> str:
        return f"keep the host's tasks off CPU {self.cpus}"


class MoveIrqs(BaseStep, frozen=True, kw_only=True, tag="move-irqs"):
    """Have device interrupts, and those that are requested later, go to other CPUs."""

    machine: str
    cpus: CpuSet

    def __str__(self) -> str:
        return f"keep device interrupts off CPU {self.cpus}"


class SetGovernor(BaseStep, frozen=True, kw_only=True, tag="set-governor"):
    """Give the cpufreq policies that these CPUs are in a governor."""

    machine: str
    cpus: CpuSet
    governor: str

    def __str__(self) -> str:
        return f"run CPU {self.cpus} by the governor {self.governor}"
