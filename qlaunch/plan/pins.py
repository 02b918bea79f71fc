"""Where the machine's threads run, and whether those CPUs are there."""

from __future__ import annotations

from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PinPlan
from qlaunch.values import CpuSet


def plan_pins(draft: Draft) -> PinPlan | None:
    """The profile's pins; without them nothing is pinned."""
    pin = draft.profile.cpu.pin
    if pin is None:
        return None
    for index, vcpu in enumerate(pin.vcpus):
        check_cpus(draft, vcpu, f"cpu.pin.vcpus[{index}]")
    for name, others in (("emulator", pin.emulator), ("iothreads", pin.iothreads)):
        if others is not None:
            check_cpus(draft, others, f"cpu.pin.{name}")
    return PinPlan(vcpus=pin.vcpus, emulator=pin.emulator, iothreads=pin.iothreads)


def check_cpus(draft: Draft, cpus: CpuSet, where: str) -> None:
    """CPUs that do not exist here, or are offline (sched_setaffinity says EINVAL)."""
    if draft.facts.cpus is None:
        return
    online = CpuSet(c.id for c in draft.facts.cpus if c.online)
    known = CpuSet(c.id for c in draft.facts.cpus)
    absent = CpuSet(c for c in cpus if c not in known)
    offline = CpuSet(c for c in cpus if c in known and c not in online)
    if absent:
        draft.problem(
            f"this host has no CPU{'s' * (len(absent) > 1)} {absent}", where, found=str(cpus),
            allowed=f"online CPUs {online}", hint="lscpu -e shows them",
        )
    if offline:
        draft.problem(
            f"CPU {offline} is offline" if len(offline) == 1 else f"CPUs {offline} are offline",
            where, found=str(cpus), allowed=f"online CPUs {online}",
            hint=f"echo 1 > /sys/devices/system/cpu/cpu{offline[0]}/online",
        )
