"""The board and what runs it: -machine, -accel and the tick sources on the board.

A property is written only where it is not QEMU's own default or a rule asks for it, so that the
command line says what this profile decides.
"""

from __future__ import annotations

from qlaunch.argv.memory import machine_memory
from qlaunch.argv.option import Option, Value, option
from qlaunch.plan.eras import ERAS
from qlaunch.plan.model import Plan


def board_options(plan: Plan) -> list[Option]:
    """-machine, -accel, and a -global for the PIT."""
    machine = plan.profile.machine
    options = [_machine(plan), _accel(plan)]
    if machine.pit_policy:
        policy = ("kvm-pit.lost_tick_policy", machine.pit_policy)  # with its own underscores
        options.append(Option("-global", (policy,), "machine.pit_policy"))
    return options


def _machine(plan: Plan) -> Option:
    machine, firmware = plan.profile.machine, plan.firmware
    pairs: dict[str, Value | None] = {"vmport": False}
    reasons = ["machine.type"]
    more, memory_reasons = machine_memory(plan)
    pairs.update(more)
    reasons += memory_reasons
    hpet, why = hpet_of(plan)
    if hpet is not None:
        pairs["hpet"] = hpet
        reasons.append(why)
    if machine.smm is not None:
        pairs["smm"] = machine.smm
        reasons.append("machine.smm")
    elif firmware and firmware.smm:
        pairs["smm"] = True
        reasons.append("rule: Secure Boot keeps its variables in system management mode")
    if firmware:
        pairs["pflash0"] = firmware.code_node
        pairs["pflash1"] = firmware.vars_node if firmware.vars else None
        reasons.append("rule: UEFI is in the board's flash")
    return option("-machine", machine.type, why="; ".join(reasons), **pairs)


def hpet_of(plan: Plan) -> tuple[bool | None, str]:
    """Whether the board has an HPET (None: as QEMU has it), and why."""
    if plan.profile.machine.hpet is not None:
        return plan.profile.machine.hpet, "machine.hpet"
    guest = plan.profile.guest
    return ERAS[guest].hpet, f"rule: {guest} guests keep better time without an HPET"


def _accel(plan: Plan) -> Option:
    if plan.accel == "kvm" and plan.profile.machine.iommu in ("intel", "amd"):
        why = f"{plan.accel_why}; rule: interrupt remapping wants half of the irqchip in QEMU"
        return option("-accel", "kvm", why=why, kernel_irqchip="split")
    return option("-accel", plan.accel, why=plan.accel_why)
