"""Where the machine's threads run, and whether those CPUs are there."""

from __future__ import annotations

from msgspec.structs import replace

from qlaunch.facts.model import DISPLAY_CLASS, Cpu
from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PinPlan
from qlaunch.values import CpuSet

REALTIME = ("fifo", "rr")


def plan_pins(draft: Draft) -> tuple[PinPlan | None, tuple[int, int, int] | None]:
    """The profile's pins or those that are picked, and (dies, cores, threads) of the latter.

    Without pins and scheduling nothing is touched.
    """
    cpu = draft.profile.cpu
    picked = None
    pins = PinPlan(why="cpu.pin")
    if cpu.pin == "auto":
        found = _automatic(draft)
        if found is not None:
            pins, picked = found
    elif cpu.pin is not None:
        pin = cpu.pin
        for index, vcpu in enumerate(pin.vcpus):
            check_cpus(draft, vcpu, f"cpu.pin.vcpus[{index}]")
        for name, others in (("emulator", pin.emulator), ("iothreads", pin.iothreads)):
            if others is not None:
                check_cpus(draft, others, f"cpu.pin.{name}")
        pins = PinPlan(
            vcpus=pin.vcpus, emulator=pin.emulator, iothreads=pin.iothreads, why="cpu.pin"
        )
    if cpu.sched is not None or cpu.nice is not None:
        pins = _scheduled(draft, pins)
    elif cpu.pin is None or (cpu.pin == "auto" and picked is None):
        return None, None
    return pins, picked


def _automatic(draft: Draft) -> tuple[PinPlan, tuple[int, int, int]] | None:
    """None when nobody looked at the CPUs, and with a warning when there are too few."""
    if draft.facts.cpus is None:
        return None
    from qlaunch.plan.autopin import Wish, pick, pick_by_nodes

    cpu = draft.profile.cpu
    near, what = _card_node(draft)
    wish = Wish(
        cpu.sockets * (cpu.dies or 1), cpu.cores, cpu.threads, near, what, split=cpu.dies is None
    )
    nodes = [(node.cpus, frozenset(node.host_nodes or ())) for node in draft.profile.numa]
    cpus = draft.facts.cpus
    if cpu.isolate:  # its group is beside those that limit us
        cpus = tuple(replace(one, allowed=True) for one in cpus)
    free, others = _free(draft, cpus)
    if nodes and all(host for _, host in nodes):
        picked = pick_by_nodes(free, wish, nodes)
    else:
        picked = pick(free, wish)
    if isinstance(picked, str):
        draft.problem(
            f"nothing is pinned: this host has no room for {wish.vcpus} vCPUs on CPUs of their own",
            "cpu.pin", found=picked + others, severity="warning",
            hint="ask for fewer vCPUs, or name the CPUs in [cpu.pin]; lscpu -e shows them",
        )
        return None
    for warning in picked.warnings:
        used = CpuSet(cpu for vcpu in picked.vcpus for cpu in vcpu)
        draft.problem(
            warning, "cpu.pin", severity="warning", found=f"vCPUs on CPU {used}",
            hint="see the plan; a smaller or another topology may fit better",
        )
    reasons = [*picked.reasons, *[f"beside{others[4:]}"] * bool(others)]
    why = "; ".join(["cpu.pin", *(f"rule: {reason}" for reason in reasons)])
    pins = PinPlan(vcpus=picked.vcpus, emulator=picked.rest, iothreads=picked.rest, why=why)
    return pins, (picked.dies // cpu.sockets, picked.cores, picked.threads)


def _free(draft: Draft, cpus: tuple[Cpu, ...]) -> tuple[tuple[Cpu, ...], str]:
    """CPUs without the cores on which vCPUs of other running machines are, and whose those are."""
    others = {
        name: taken for name, taken in (draft.facts.pinned or {}).items()
        if name != draft.profile.name
    }
    if not others:
        return cpus, ""
    taken = {cpu for where in others.values() for cpu in where}
    left = tuple(cpu for cpu in cpus if not taken & {cpu.id, *cpu.siblings})
    return left, f" and CPU {CpuSet(taken)} of {', '.join(sorted(others))}"


def _card_node(draft: Draft) -> tuple[int | None, str]:
    """The node of the first passed-through function, or device that the guest gets a slice of,
    whose node is known: cards come first."""
    names = [card.address for card in draft.decided.get("cards", ())]
    names += [choice.parent for choice in draft.vgpus.values()]
    devices = [draft.facts.device(name) for name in names]
    known = [(d.numa_node, d) for d in devices if d is not None and d.numa_node is not None]
    known.sort(key=lambda one: one[1].base_class != DISPLAY_CLASS)
    for node, device in known:
        if node >= 0:
            return node, str(device.address)
    return None, ""


def _scheduled(draft: Draft, pins: PinPlan) -> PinPlan:
    """With policy and niceness; what an ordinary user may not set is left to root."""
    cpu = draft.profile.cpu
    priority = (cpu.priority or 1) if cpu.sched in REALTIME else 0
    limits = draft.facts.limits
    if limits is not None:
        if priority > limits.priority:
            draft.decided["root_for"] = "cpu.sched"
        elif cpu.nice is not None and cpu.nice < limits.nice:
            draft.decided["root_for"] = "cpu.nice"
    keys = [f"cpu.{key}" for key in ("sched", "priority", "nice") if getattr(cpu, key) is not None]
    placed = [pins.why] * bool(pins.vcpus or pins.emulator or pins.iothreads)
    return replace(
        pins, sched=cpu.sched, priority=priority, nice=cpu.nice, why="; ".join([*placed, *keys])
    )


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
    denied = CpuSet(c.id for c in draft.facts.cpus if c.id in cpus and not c.allowed)
    if denied and not draft.profile.cpu.isolate:
        draft.problem(
            f"this session's cgroup does not allow CPU {denied}", where, found=str(cpus),
            allowed=str(CpuSet(c.id for c in draft.facts.cpus if c.allowed)),
            hint="start qlaunch outside of that cgroup, or widen its cpuset",
        )
    if offline:
        draft.problem(
            f"CPU {offline} is offline" if len(offline) == 1 else f"CPUs {offline} are offline",
            where, found=str(cpus), allowed=f"online CPUs {online}",
            hint=f"echo 1 | sudo tee /sys/devices/system/cpu/cpu{offline[0]}/online",
        )
