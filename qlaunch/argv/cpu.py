"""-cpu and -smp."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, option
from qlaunch.plan.model import Plan

SPINLOCKS = 8191  # tries; what Microsoft's and libvirt's documentation use
CACHES: dict[str, list[tuple[str, Value]]] = {  # host-cache-info: models host and max alone
    "passthrough": [("host-cache-info", True), ("l3-cache", False)],
    "emulate": [("l3-cache", True)],
    "none": [("l3-cache", False)],
}


def cpu_options(plan: Plan) -> list[Option]:
    """Model with its features, and topology."""
    smp = plan.cpu
    return [
        _cpu(plan),
        option(
            "-smp", str(smp.sockets * smp.dies * smp.cores * smp.threads), why=smp.smp_why,
            sockets=smp.sockets, dies=smp.dies if smp.dies > 1 else None, cores=smp.cores,
            threads=smp.threads,
        ),
    ]


def _cpu(plan: Plan) -> Option:
    cpu, planned = plan.profile.cpu, plan.cpu
    pairs: list[tuple[str, Value]] = [("", planned.model)]
    reasons = [planned.model_why]
    pairs += [(flag[1:], flag[0] == "+") for flag in cpu.flags]
    reasons += ["cpu.flags"] * bool(cpu.flags)
    if planned.topoext:
        pairs.append(("topoext", True))
        shown = "threads" if planned.threads > 1 else "dies"
        reasons.append(f"rule: an AMD CPU shows its {shown} by topoext")
    if cpu.vendor_id:
        reasons.append("cpu.vendor_id")
    for name in planned.hyperv:
        pairs.append((f"hv-{name}", _enlightenment(name, cpu.hyperv_spinlocks)))
    if cpu.vendor_id:
        pairs.append(("hv-vendor-id", cpu.vendor_id))
    if cpu.hide_kvm:
        pairs.append(("kvm", False))
        reasons.append("cpu.hide_kvm")
    for key, more in _properties(plan):
        pairs += more
        reasons.append(key)
    reasons += [planned.hyperv_why] * bool(planned.hyperv)
    reasons += ["cpu.hyperv_spinlocks"] * bool(cpu.hyperv_spinlocks)
    return Option("-cpu", tuple(pairs), "; ".join(reasons))


def _enlightenment(name: str, spinlocks: int | None) -> Value:
    return (spinlocks or SPINLOCKS) if name == "spinlocks" else True


def _properties(plan: Plan) -> list[tuple[str, list[tuple[str, Value]]]]:
    """Properties of the model by the key that sets them."""
    cpu = plan.profile.cpu
    found: list[tuple[str, list[tuple[str, Value]]]] = []
    if cpu.tsc_frequency is not None:
        found.append(("cpu.tsc_frequency", [("tsc-frequency", cpu.tsc_frequency)]))
    if cpu.cache is not None:
        found.append(("cpu.cache", CACHES[cpu.cache]))
    if cpu.phys_bits is not None:
        # -cpu host has host-phys-bits on, which overrules a number.
        found.append(("cpu.phys_bits", [("host-phys-bits", True)] if cpu.phys_bits == "host" else [
            ("host-phys-bits", False), ("phys-bits", cpu.phys_bits),
        ]))
    for key in ("pmu", "migratable"):
        value = getattr(cpu, key)
        if value is not None:
            found.append((f"cpu.{key}", [(key, value)]))
    if cpu.enforce:
        found.append(("cpu.enforce", [("enforce", True)]))
    return found
