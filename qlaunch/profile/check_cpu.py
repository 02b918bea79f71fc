"""Rules about processors that need no host: counts, pins, scheduling, enlightenments."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.cpu import Cpu
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile

MAX_CPUS = 255  # one more needs an emulated IOMMU to deliver interrupts to it


def check_cpu_count(profile: Profile) -> Iterator[Finding]:
    """QEMU's interrupt controllers can reach every vCPU."""
    cpu = profile.cpu
    if cpu.count > MAX_CPUS and profile.machine.iommu != "intel":
        yield Finding(
            ("cpu",),
            Problem(
                f"{cpu.count} vCPUs, and a guest can have {MAX_CPUS}",
                found=_topology(cpu), hint="fewer; or [machine] iommu = \"intel\"",
            ),
        )


def check_pins(profile: Profile) -> Iterator[Finding]:
    """Every vCPU has host CPUs of its own to run on, or none has."""
    cpu = profile.cpu
    if cpu.pin is None or isinstance(cpu.pin, str):
        return
    listed = len(cpu.pin.vcpus)
    if listed and listed != cpu.count:
        yield Finding(
            ("cpu", "pin", "vcpus"),
            Problem(
                f"{listed} entries listed for {cpu.count} vCPUs",
                found=_topology(cpu),
                hint='one entry a vCPU, in order; an entry may be a list such as "2,10"',
            ),
            also=(("cpu", "sockets"), ("cpu", "cores"), ("cpu", "threads")),
        )
    for number, cpus in enumerate(cpu.pin.vcpus):
        if not cpus:
            yield Finding(("cpu", "pin", "vcpus", number), Problem(
                "no host CPU for this vCPU", hint='for example ["2", "3"], or leave pin out'))
    for key in ("emulator", "iothreads"):
        cpus_of = getattr(cpu.pin, key)
        if cpus_of is not None and not cpus_of:
            yield Finding(("cpu", "pin", key), Problem(
                "an empty CPU list", hint='for example "0-1", or leave the key out'))


def check_isolation(profile: Profile) -> Iterator[Finding]:
    """CPUs of a guest's own are those that its vCPUs are pinned to."""
    cpu = profile.cpu
    if cpu.pin == "auto" or (cpu.pin is not None and not isinstance(cpu.pin, str)
                             and cpu.pin.vcpus):
        return
    for key in ("isolate", "governor"):
        value = getattr(cpu, key)
        if value:
            yield Finding(
                ("cpu", key),
                Problem(
                    "this is about the CPUs of vCPUs, and none is pinned",
                    found=f"{key} = {'true' if value is True else value}",
                    hint='pin = "auto" in [cpu], or pin.vcpus with a list of CPUs',
                ),
                also=(("cpu", "pin"),),
            )


def check_hyperv(profile: Profile) -> Iterator[Finding]:
    """Hyper-V enlightenments are told to guests that know them."""
    if profile.guest == "linux" and profile.cpu.hyperv:
        yield Finding(
            ("cpu", "hyperv"),
            Problem(
                "Hyper-V enlightenments do little for a Linux guest, which prefers KVM's own",
                hint="leave hyperv out",
                severity="note",
            ),
            also=(("guest",),),
        )


def check_spinlocks(profile: Profile) -> Iterator[Finding]:
    """A number of tries is for guests that are told to count them."""
    cpu = profile.cpu
    if cpu.hyperv_spinlocks is None:
        return
    if cpu.hyperv is False or (isinstance(cpu.hyperv, tuple) and "spinlocks" not in cpu.hyperv):
        yield Finding(
            ("cpu", "hyperv_spinlocks"),
            Problem(
                "spinlocks are not among the enlightenments", hint='name "spinlocks" in hyperv'
            ),
            also=(("cpu", "hyperv"),),
        )


def check_schedule(profile: Profile) -> Iterator[Finding]:
    """Priorities are for real-time policies, niceness for the others (sched(7))."""
    cpu = profile.cpu
    realtime = cpu.sched in ("fifo", "rr")
    if cpu.priority is not None and not realtime:
        yield Finding(
            ("cpu", "priority"),
            Problem(
                "a priority is for real-time policies", found=f"sched = {cpu.sched or 'other'}",
                allowed='sched = "fifo" or "rr"', hint="for an ordinary thread use nice",
            ),
            also=(("cpu", "sched"),),
        )
    if cpu.nice is not None and realtime:
        yield Finding(
            ("cpu", "nice"),
            Problem(
                "niceness does nothing to real-time threads", found=f"sched = {cpu.sched}",
                hint="leave nice out, or use priority", severity="warning",
            ),
            also=(("cpu", "sched"),),
        )
    if realtime and cpu.pin is None:
        yield Finding(
            ("cpu", "sched"),
            Problem(
                "real-time vCPUs that may run on every CPU can starve this host",
                found=f"sched = {cpu.sched}", hint='give them CPUs: pin = "auto"',
                severity="warning",
            ),
        )


def check_model(profile: Profile) -> Iterator[Finding]:
    """What only models with the real CPU's features have."""
    cpu = profile.cpu
    keys = {"cache": cpu.cache == "passthrough", "migratable": cpu.migratable is not None}
    for key in (key for key, wanted in keys.items() if wanted and cpu.model not in ("host", "max")):
        yield Finding(
            ("cpu", key),
            Problem(
                f"the model {cpu.model} has no such property", found=f"{getattr(cpu, key)}".lower(),
                allowed='model = "host" or "max"', hint="leave it out, or use another model",
            ),
            also=(("cpu", "model"),),
        )


def _topology(cpu: Cpu) -> str:
    dies = f"dies = {cpu.dies}, " if (cpu.dies or 1) > 1 else ""
    return f"sockets = {cpu.sockets}, {dies}cores = {cpu.cores}, threads = {cpu.threads or 1}"


CPU_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_cpu_count, check_pins, check_isolation, check_hyperv, check_spinlocks, check_schedule,
    check_model,
)
