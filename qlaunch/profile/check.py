"""Rules inside a profile that need no host: contradictions told before anything is looked at.

Each `check_*` is pure and yields findings with the keys they are about. Rules about devices are
in check_devices.py, those about what goes to QEMU verbatim in check_qemu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.check_devices import DEVICE_CHECKS
from qlaunch.profile.check_qemu import QEMU_CHECKS
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import Size

MAX_CPUS = 255  # one more needs an emulated IOMMU to deliver interrupts to it
MIN_MEMORY = 1 << 20
_PAGES = {True: Size(2 << 20), "2M": Size(2 << 20), "1G": Size(1 << 30)}


def check_profile(profile: Profile) -> list[Finding]:
    """Errors, warnings and notes of all rules."""
    return [finding for check in CHECKS for finding in check(profile)]


def check_boot(profile: Profile) -> Iterator[Finding]:
    """There is something to boot from."""
    boots = [device.boot for device in profile.net] + [device.boot for device in profile.pci]
    bootable = any(boot is not None for boot in boots)
    if not (profile.disk or profile.cdrom or bootable or profile.qemu.args):
        yield Finding(
            (),
            Problem(
                "there is nothing to boot from",
                allowed="a [[disk]], a [[cdrom]], or boot = 1 in a [[net]] or [[pci]]",
                hint='for a disk: [[disk]] and below it file = "NAME.qcow2", format = "qcow2"',
            ),
        )


def check_boot_order(profile: Profile) -> Iterator[Finding]:
    """No two devices have the same place in the boot order."""
    seen: dict[int, str] = {}
    for kind in ("disk", "cdrom", "net", "pci"):
        for number, device in enumerate(getattr(profile, kind)):
            boot = device.boot
            if boot is None:
                continue
            here = f"{kind}[{number}]"
            first = seen.setdefault(boot, here)
            if first != here:
                yield Finding(
                    (kind, number, "boot"),
                    Problem(
                        f"{first} has the same place in the boot order",
                        found=str(boot),
                        hint="give each its own number; the lowest is tried first",
                    ),
                )


def check_cpu_count(profile: Profile) -> Iterator[Finding]:
    """QEMU's interrupt controllers can reach every vCPU."""
    cpu = profile.cpu
    if cpu.count > MAX_CPUS:
        yield Finding(
            ("cpu",),
            Problem(
                f"{cpu.count} vCPUs, and a guest can have {MAX_CPUS}",
                found=f"sockets = {cpu.sockets}, cores = {cpu.cores}, threads = {cpu.threads}",
            ),
        )


def check_pins(profile: Profile) -> Iterator[Finding]:
    """Every vCPU has host CPUs of its own to run on, or none has."""
    cpu = profile.cpu
    if cpu.pin is None:
        return
    listed = len(cpu.pin.vcpus)
    if listed and listed != cpu.count:
        yield Finding(
            ("cpu", "pin", "vcpus"),
            Problem(
                f"{listed} entries listed for {cpu.count} vCPUs",
                found=f"sockets = {cpu.sockets}, cores = {cpu.cores}, threads = {cpu.threads}",
                hint='one entry a vCPU, in order; an entry may be a list such as "2,10"',
            ),
            also=(("cpu", "sockets"), ("cpu", "cores"), ("cpu", "threads")),
        )
    for number, cpus in enumerate(cpu.pin.vcpus):
        if not cpus:
            yield Finding(("cpu", "pin", "vcpus", number), Problem("no host CPU for this vCPU"))
    for key in ("emulator", "iothreads"):
        cpus_of = getattr(cpu.pin, key)
        if cpus_of is not None and not cpus_of:
            yield Finding(("cpu", "pin", key), Problem("an empty CPU list"))


def check_memory(profile: Profile) -> Iterator[Finding]:
    """Memory is some, and whole pages of it."""
    memory, page = profile.machine.memory, _PAGES.get(profile.machine.hugepages)
    if memory < MIN_MEMORY:
        yield Finding(
            ("machine", "memory"),
            Problem("less than a machine can start with", found=str(memory), allowed="1M or more"),
        )
    elif page and memory % page:
        yield Finding(
            ("machine", "memory"),
            Problem(
                f"{memory} of memory is not a whole number of {page} pages",
                hint=f"use {Size(memory // page * page + page)}, or other hugepages",
            ),
            also=(("machine", "hugepages"),),
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


def check_hooks(profile: Profile) -> Iterator[Finding]:
    """A hook names a program."""
    for key in ("before", "after"):
        for number, argv in enumerate(getattr(profile.hooks, key)):
            if not argv or not argv[0]:
                yield Finding(
                    ("hooks", key, number),
                    Problem("a hook without a program", allowed='["PROGRAM", "ARGUMENT", …]'),
                )


CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_boot,
    check_boot_order,
    check_cpu_count,
    check_pins,
    check_memory,
    check_hyperv,
    check_hooks,
    *DEVICE_CHECKS,
    *QEMU_CHECKS,
)
