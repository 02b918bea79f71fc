"""What the host is without while a machine runs, from the plan that takes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qlaunch.advise.answers import host_memory
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.plan.cards import is_display
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import TakeDevice
from qlaunch.values import CpuSet

_KINDS = {"route": "the default route", "mount": "mounted", "swap": "swap", "link": "network",
          "namespace": "network"}


def losses(facts: HostFacts, plan: Plan) -> list[str]:
    """A line each: devices with driver and what hangs on them, disks, the display, memory, CPUs."""
    lines: list[str] = []
    taken = [step.address for step in plan.steps if isinstance(step, TakeDevice)]
    taken = taken or [card.address for card in plan.cards]  # VFIO's already
    for address in taken:
        device = facts.device(address)
        if device is not None:
            lines += _device(device)
    lines += _screens(facts, taken)
    for disk in plan.profile.disk:
        file = facts.file(disk.file)
        if file is not None and file.kind == "block":
            lines.append(f"{disk.file}  the whole device"
                         + "".join(f", mounted on {point}" for point in file.mounted))
    lines += _machine(facts, plan, bool(taken))
    return lines


def _device(device: PciDevice) -> Iterator[str]:
    nodes = [node for node in device.nodes if not node.startswith("snd/pcm")]
    carries = f": {', '.join(nodes)}" if nodes else ""
    driver = f"from {device.driver}" if device.driver else "without a driver"
    yield f"{device.address}  [{device.id}] {driver}{carries}"
    for holder in device.holders or ():
        yield f"  {_KINDS.get(holder.kind, holder.kind)}: {holder}"


def _screens(facts: HostFacts, taken: Sequence[str]) -> Iterator[str]:
    cards = [d for d in facts.pci or () if is_display(d)]
    left = [d for d in cards if d.address not in taken]
    if cards and not left and taken:
        yield "its display: there is no other graphics card"
    elif any(d.boot_vga and d.address in taken for d in cards):
        yield "the display that the firmware starts on"


def _machine(facts: HostFacts, plan: Plan, locked: bool) -> Iterator[str]:
    memory, total = plan.profile.machine.memory, host_memory(facts)
    of = f" of {total / (1 << 30):.0f}G" if total else ""
    yield f"{memory}{of} memory{', all of it at once' if locked else ', as the guest uses it'}"
    if plan.pins is not None and plan.pins.vcpus:
        cpus = CpuSet(cpu for vcpu in plan.pins.vcpus for cpu in vcpu)
        yield f"CPUs {cpus}, which its vCPUs are pinned to"
