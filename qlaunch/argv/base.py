"""Machine, processors, memory, firmware, clock: the options every machine has."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, option
from qlaunch.plan.eras import ERAS, hyperv_set
from qlaunch.plan.model import Plan
from qlaunch.plan.platform import page_size

WINDOWS = ("gtk", "sdl")
SANDBOX = {
    "obsolete": "deny", "elevateprivileges": "deny", "spawn": "deny", "resourcecontrol": "deny",
}


def identity_options(plan: Plan) -> list[Option]:
    """Name, uuid, no defaults, paused, confined."""
    return [
        option("-name", why="name", guest=plan.name, debug_threads=True),
        option("-uuid", plan.uuid, why=plan.uuid_why),
        option("-nodefaults", why="rule: only what the profile says is in the machine"),
        option("-no-user-config", why="rule: no configuration but this one"),
        option("-S", why="rule: no guest instruction runs before the vCPUs are pinned"),
        _sandbox(plan),
    ]


def _sandbox(plan: Plan) -> Option:
    """A window's library starts processes of its own (dbus-launch): it dies of spawn=deny."""
    if plan.display in WINDOWS:
        why = f"rule: QEMU is confined by seccomp; a {plan.display} window has to start helpers"
        return option("-sandbox", "on", why=why, **{**SANDBOX, "spawn": "allow"})
    return option("-sandbox", "on", why="rule: QEMU is confined by seccomp", **SANDBOX)


def machine_options(plan: Plan) -> list[Option]:
    """-machine, -accel, -cpu, -smp, -m and what memory is made of."""
    machine, cpu = plan.profile.machine, plan.profile.cpu
    huge = page_size(machine.hugepages)
    options = [
        option(
            "-machine", machine.type, why="machine.type", vmport=False,
            **({"memory-backend": "ram"} if huge else {}),
        ),
        option("-accel", plan.accel, why=plan.accel_why),
        _cpu(plan),
        option(
            "-smp", str(cpu.count), why="cpu.sockets; cpu.cores; cpu.threads",
            sockets=cpu.sockets, cores=cpu.cores, threads=cpu.threads,
        ),
        option("-m", why="machine.memory", size=str(machine.memory)),
    ]
    if huge:
        options.append(
            option(
                "-object", "memory-backend-memfd", why="machine.hugepages", id="ram",
                size=str(machine.memory), hugetlb=True, hugetlbsize=f"{huge >> 20}M", prealloc=True,
            )
        )
    return options


def _cpu(plan: Plan) -> Option:
    cpu = plan.profile.cpu
    model, why = cpu.model, "cpu.model"
    if model == "host" and plan.accel == "tcg":
        model, why = "max", 'rule: "host" needs KVM, "max" is all QEMU can emulate'
    pairs: list[tuple[str, Value]] = [("", model)]
    pairs += [(flag[1:], flag[0] == "+") for flag in cpu.flags]
    names, hyperv_why = hyperv_set(plan.profile.guest, cpu.hyperv)
    pairs += [(f"hv-{n}", 8191 if n == "spinlocks" else True) for n in names]
    if cpu.vendor_id:
        pairs.append(("hv-vendor-id", cpu.vendor_id))
    if cpu.hide_kvm:
        pairs.append(("kvm", False))
    reasons = [why] + [f"cpu.{k}" for k in ("flags", "vendor_id") if getattr(cpu, k)]
    reasons += ["cpu.hide_kvm"] * cpu.hide_kvm + [hyperv_why] * bool(names)
    return Option("-cpu", tuple(pairs), "; ".join(reasons))


def firmware_options(plan: Plan) -> list[Option]:
    """Clock, boot menu, firmware file, ACPI tables, fw_cfg."""
    machine = plan.profile.machine
    base = machine.rtc or ERAS[plan.profile.guest].rtc
    why = "machine.rtc" if machine.rtc else f"rule: {plan.profile.guest} guests keep {base} time"
    options = [option("-rtc", why=why, base=base)]
    if machine.boot_menu:
        options.append(option("-boot", why="machine.boot_menu", menu=True))
    if machine.bios:
        options.append(Option("-bios", why="machine.bios", whole=machine.bios))
    options += [
        option("-acpitable", why=f"machine.acpi_tables[{i}].file", file=table.file)
        for i, table in enumerate(machine.acpi_tables)
    ]
    options += [
        option("-fw_cfg", why="machine.fw_cfg", name=name, string=text)
        for name, text in (machine.fw_cfg or {}).items()
    ]
    return options


def control_options(plan: Plan) -> list[Option]:
    """Two QMP sockets: one client at a time is QEMU's rule, so the user has one of their own."""
    options = []
    for kind, why in (
        ("control", "rule: qlaunch's own monitor"), ("qmp", "rule: your monitor, qmp.sock")
    ):
        options += [
            option("-chardev", "socket", why=why, id=kind, fd=plan.fd(kind), server=True,
                   wait=False),
            option("-mon", why=why, chardev=kind, mode="control"),
        ]
    return options
