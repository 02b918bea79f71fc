"""CPUs that are the guest's alone while it runs: tasks and interrupts leave them, and they may get
a governor of their own.
"""

from __future__ import annotations

from msgspec.structs import replace

from qlaunch.facts.cgroup_model import Tuning
from qlaunch.plan.cpu_steps import IsolateCpus, MoveIrqs, SetGovernor
from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PinPlan
from qlaunch.values import CpuSet

_ISOLATE, _GOVERNOR = "cpu.isolate", "cpu.governor"
_BANNED = "IRQBALANCE_BANNED_CPULIST"  # irqbalance(1), since 1.8


def plan_isolation(draft: Draft, pins: PinPlan | None) -> PinPlan | None:
    """The steps; and the pins, by which QEMU's own threads keep off those CPUs as well."""
    cpu = draft.profile.cpu
    cpus = CpuSet(c for where in (pins.vcpus if pins else ()) for c in where)
    if not cpus or pins is None:
        if draft.facts.cpus is not None:
            draft.problem(
                "no vCPU is pinned, so that there are no CPUs for this",
                _ISOLATE if cpu.isolate else _GOVERNOR,
                hint="name CPUs in [cpu.pin], or ask for fewer vCPUs; lscpu -e shows the host's",
            )
        return pins
    if cpu.isolate:
        pins = _isolate(draft, pins, cpus)
    if cpu.governor is not None:
        _govern(draft, cpus, cpu.governor)
    return pins


def _isolate(draft: Draft, pins: PinPlan, cpus: CpuSet) -> PinPlan:
    draft.isolated = cpus
    draft.decided.setdefault("root_for", _ISOLATE)
    name = draft.profile.name
    draft.last_steps += [
        IsolateCpus(machine=name, cpus=cpus, why=_ISOLATE),
        MoveIrqs(machine=name, cpus=cpus, why=_ISOLATE),
    ]
    taken = _taken(draft, cpus)
    if draft.facts.tuning is not None:
        _tell_of_others(draft, draft.facts.tuning, cpus)
    if draft.facts.cpus is None:
        return pins
    online = CpuSet(c.id for c in draft.facts.cpus if c.online)
    left = CpuSet(c for c in online if c not in cpus)
    if not left:
        draft.problem(
            "no CPU would be left to the host", _ISOLATE, found=f"vCPUs on CPU {cpus}",
            allowed=f"some of the online CPUs {online}",
            hint="pin fewer vCPUs, or several to one CPU; or leave isolate out",
        )
    elif pins.emulator is None:
        why = f"{pins.why}; rule: QEMU's own threads leave isolated CPUs too"
        return replace(pins, emulator=CpuSet(set(left) - taken) or left, why=why)
    return pins


def _taken(draft: Draft, cpus: CpuSet) -> set[int]:
    """CPUs of other machines that run; told when they are to be ours alone."""
    taken: set[int] = set()
    for name, where in sorted((draft.facts.pinned or {}).items()):
        if name == draft.profile.name:
            continue
        taken |= set(where)
        both = CpuSet(set(where) & set(cpus))
        if both:
            draft.problem(
                f"vCPUs of {name} run on CPU {both}, and lose it or share it", _ISOLATE,
                found=f"{name} is pinned to CPU {CpuSet(where)}", severity="warning",
                hint=f"pin to others, or end it first: qlaunch stop {name}",
            )
    return taken


def _tell_of_others(draft: Draft, tuning: Tuning, cpus: CpuSet) -> None:
    if tuning.irqbalance is not None:
        draft.problem(
            f"irqbalance runs, and moves interrupts onto CPU {cpus} again", _ISOLATE,
            found=f"pid {tuning.irqbalance}", severity="warning",
            hint=f"{_BANNED}={cpus} in /etc/default/irqbalance (Debian) or /etc/sysconfig/"
            "irqbalance (Fedora), then restart it; or systemctl stop irqbalance",
        )
    if not tuning.systemd:
        draft.problem(
            f"only what is in a control group leaves CPU {cpus}: without systemd, processes that "
            "nobody has put into one stay where they are", _ISOLATE, severity="note",
            hint="/sys/fs/cgroup/cgroup.procs lists them; isolcpus= on the kernel's command line "
            "keeps those away as well",
        )


def _govern(draft: Draft, cpus: CpuSet, governor: str) -> None:
    tuning = draft.facts.tuning
    policies = [p for p in tuning.policies if set(p.cpus) & set(cpus)] if tuning else []
    if tuning is not None and not policies:
        draft.problem(
            "nothing sets the clock of these CPUs, and the governor is left out", _GOVERNOR,
            found=f"no policy for CPU {cpus} in /sys/devices/system/cpu/cpufreq",
            severity="warning",
            hint="a virtual machine has none; on others cpufreq's driver is missing, or "
            "the firmware keeps it to itself",
        )
        return
    lacking = next((p for p in policies if p.offered and governor not in p.offered), None)
    if lacking is not None:
        draft.problem(
            f"this host has no governor {governor} for CPU {lacking.cpus}", _GOVERNOR,
            found=governor, allowed=", ".join(lacking.offered),
            hint=f"one of these; or sudo modprobe cpufreq_{governor}, if the kernel has it",
        )
    draft.decided.setdefault("root_for", _GOVERNOR)
    draft.last_steps.append(
        SetGovernor(machine=draft.profile.name, cpus=cpus, governor=governor, why=_GOVERNOR)
    )
