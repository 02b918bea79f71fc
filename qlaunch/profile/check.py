"""Rules inside a profile that need no host: contradictions told before anything is looked at.

Each `check_*` is pure and yields findings with the keys they are about. Rules about devices are
in check_devices.py, those about what goes to QEMU verbatim in check_qemu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter

from qlaunch.errors import Problem
from qlaunch.late import Family, load
from qlaunch.profile.check_cpu import CPU_CHECKS
from qlaunch.profile.check_devices import DEVICE_CHECKS
from qlaunch.profile.check_qemu import QEMU_CHECKS
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import Size

MIN_MEMORY = 1 << 20
_PAGES = {True: Size(2 << 20), "2M": Size(2 << 20), "1G": Size(1 << 30)}


def check_profile(profile: Profile) -> list[Finding]:
    """Errors, warnings and notes of all rules."""
    checks = list(CHECKS)
    for tables, target in FAMILIES:
        if any(attrgetter(table)(profile) for table in tables):
            checks += load(target)
    return [finding for check in checks for finding in check(profile)]


def check_boot(profile: Profile) -> Iterator[Finding]:
    """There is something to boot from."""
    others = [d for kind in ("net", "pci", "vgpu", "usb") for d in getattr(profile, kind)]
    bootable = any(device.boot is not None for device in others)
    if not (profile.disk or profile.cdrom or bootable or profile.kernel or profile.qemu.args):
        yield Finding(
            (),
            Problem(
                "there is nothing to boot from",
                allowed="a [[disk]], a [[cdrom]], or boot = 1 in a [[net]] or [[pci]]",
                hint='for a disk: [[disk]] and below it file = "NAME.qcow2", format = "qcow2"',
            ),
        )


def check_boot_order(profile: Profile) -> Iterator[Finding]:
    """No two devices have the same place in the boot order; a kernel's is 0 (the bootindex that
    x86_load_linux, hw/i386/x86-common.c, gives its loader)."""
    seen: dict[int, str] = {0: "kernel"} if profile.kernel else {}
    for kind in ("disk", "cdrom", "net", "pci", "vgpu", "usb"):
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


def check_hooks(profile: Profile) -> Iterator[Finding]:
    """A hook names a program."""
    for key in ("before", "after"):
        for number, argv in enumerate(getattr(profile.hooks, key)):
            if not argv or not argv[0]:
                yield Finding(
                    ("hooks", key, number),
                    Problem("a hook without a program", allowed='["PROGRAM", "ARGUMENT", …]'),
                )


def check_windows11(profile: Profile) -> Iterator[Finding]:
    """Its setup refuses a machine without a TPM 2.0; what is installed already starts without."""
    if profile.guest == "windows11" and profile.tpm is None:
        yield Finding(
            ("guest",),
            Problem("Windows 11 is not installed without a TPM", found="no [tpm]",
                    hint="add a line that says [tpm]; a TPM 2.0 is its default", severity="note"),
        )


CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_boot,
    check_boot_order,
    *CPU_CHECKS,
    check_memory,
    check_hooks,
    check_windows11,
    *DEVICE_CHECKS,
    *QEMU_CHECKS,
)
# Rules that are loaded for the profiles that have one of these tables or keys.
FAMILIES: tuple[Family, ...] = (
    (
        tuple(f"machine.{key}" for key in (
            "firmware", "bios", "secure_boot", "iommu", "boot_timeout", "boot_order",
            "boot_strict", "boot_retry", "rtc", "acpi_tables", "fw_cfg_files",
        )),
        "qlaunch.profile.check_machine:MACHINE_CHECKS",
    ),
    (("vgpu",), "qlaunch.profile.check_vgpu:VGPU_CHECKS"),
    (("memory", "numa"), "qlaunch.profile.check_memory:MEMORY_CHECKS"),
    (("limits",), "qlaunch.profile.check_limits:LIMIT_CHECKS"),
    (("audio",), "qlaunch.profile.check_audio:AUDIO_CHECKS"),
    (("disk", "cdrom", "controller"), "qlaunch.profile.check_storage:STORAGE_CHECKS"),
    (("net",), "qlaunch.profile.check_network:NETWORK_CHECKS"),
    (("tpm",), "qlaunch.profile.check_tpm:TPM_CHECKS"),
    (("share",), "qlaunch.profile.check_shares:SHARE_CHECKS"),
    (("shmem", "watchdog", "rng"), "qlaunch.profile.check_extras:EXTRA_CHECKS"),
    (("serial", "parallel", "debugcon"), "qlaunch.profile.check_ports:PORT_CHECKS"),
    (("channel",), "qlaunch.profile.check_channels:CHANNEL_CHECKS"),
    (("usb",), "qlaunch.profile.check_usb:USB_CHECKS"),
    (("input",), "qlaunch.profile.check_inputs:INPUT_CHECKS"),
)
