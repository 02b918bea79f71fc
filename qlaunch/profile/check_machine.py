"""Rules about the board: firmware, Secure Boot, boot order, the guest's own IOMMU, SMBIOS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath, key_text, quote
from qlaunch.profile.machine import FORMS, Uefi
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile

_LONGEST = 65.535  # seconds; QEMU hands the BIOS 16 bits of milliseconds
_Q35 = "q35"


def check_forms(profile: Profile) -> Iterator[Finding]:
    """Texts with a form have it, and a date is one."""
    for key, (pattern, form) in FORMS.items():
        text = getattr(profile.machine, key)
        if text is None:
            continue
        if not re.fullmatch(pattern, text) or (len(set(text)) != len(text) and key == "boot_order"):
            yield Finding(("machine", key), Problem(f"expected {form}", found=quote(text)))
        elif key == "rtc" and text[0].isdigit() and not _is_date(text):
            yield Finding(("machine", key), Problem(
                "there is no such date", found=quote(text), hint='such as "2026-01-31T12:00:00"'))


def _is_date(text: str) -> bool:
    from datetime import datetime

    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def check_firmware(profile: Profile) -> Iterator[Finding]:
    """One firmware, and Secure Boot where it can be."""
    machine = profile.machine
    uefi = machine.firmware == "uefi" or isinstance(machine.firmware, Uefi)
    if machine.bios and (uefi or machine.secure_boot):
        yield _contradiction(
            "bios", "an image of your own and UEFI from the host", "bios",
            'for an OVMF of your own: firmware = {code = "…", vars = "…"}',
            "firmware" if uefi else "secure_boot",
        )
    if machine.secure_boot and machine.firmware == "bios":
        yield _contradiction("secure_boot", "Secure Boot is UEFI's", "secure_boot",
                             'firmware = "uefi"', "firmware")
    if machine.secure_boot and machine.smm is False:
        yield _contradiction("smm", "Secure Boot keeps its variables in SMM", "smm",
                             "leave smm out", "secure_boot")
    if machine.secure_boot and _Q35 not in machine.type:
        yield _contradiction("secure_boot", "Secure Boot needs SMM, which q35 has", "secure_boot",
                             'type = "q35"', "type")
    primary = [n for n, card in enumerate(profile.pci) if card.x_vga]
    if uefi and primary:
        yield Finding(
            ("pci", primary[0], "x_vga"),
            Problem("UEFI does not use legacy VGA, and the host's own card may go dark",
                    found="x_vga = true", hint="leave x_vga out", severity="warning"),
            (("machine", "firmware"),),
        )


def _contradiction(
    key: str, message: str, found: str, hint: str, other: str
) -> Finding:
    return Finding(("machine", key), Problem(message, found=found, hint=hint),
                   (("machine", other),))


def check_boot_settings(profile: Profile) -> Iterator[Finding]:
    """Times that the BIOS can count, and no strict order of nothing."""
    machine = profile.machine
    for key in ("boot_timeout", "boot_retry"):
        seconds = getattr(machine, key)
        if seconds is not None and seconds > _LONGEST:
            yield Finding(("machine", key), Problem("longer than the BIOS can wait",
                                                    found=str(seconds), allowed="65s or less"))
    kinds = ("disk", "cdrom", "net", "pci", "vgpu", "usb")
    devices = [d for kind in kinds for d in getattr(profile, kind)]
    numbered = any(device.boot is not None for device in devices)
    if machine.boot_strict and not numbered and not profile.kernel:
        yield Finding(("machine", "boot_strict"),
                      Problem("no device has a boot number, so nothing would be tried",
                              hint="boot = 1 in a [[disk]], [[cdrom]], [[net]] or [[pci]]"))


def check_guest_iommu(profile: Profile) -> Iterator[Finding]:
    """What each of the three can do."""
    machine = profile.machine
    if machine.iommu is None:
        return
    if _Q35 not in machine.type:
        yield _contradiction("iommu", "the guest's IOMMU needs PCI Express", machine.iommu,
                             'type = "q35"', "type")
    if machine.iommu == "amd" and profile.pci:
        yield Finding(
            ("machine", "iommu"),
            Problem(
                "QEMU's AMD IOMMU does not tell the host what the guest maps, so that devices of "
                "the host do not work behind it", found='iommu = "amd"',
                hint='iommu = "intel" or "virtio", whatever the processor is', severity="warning",
            ),
            (("pci", 0),),
        )


def check_tables(profile: Profile) -> Iterator[Finding]:
    """QEMU splits a table's file at colons (acpi_table_add, hw/acpi/core.c), and ends over a second
    fw_cfg entry of a name (fw_cfg_add_file_callback, hw/nvram/fw_cfg.c)."""
    machine = profile.machine
    for number, table in enumerate(machine.acpi_tables):
        if ":" in table.file:
            yield Finding(
                ("machine", "acpi_tables", number, "file"),
                Problem("QEMU takes what is behind a colon for another table", found=table.file,
                        hint="give the file, or its directory, a name without a colon"),
            )
    names: dict[str, KeyPath] = {key: ("machine", "fw_cfg", key) for key in machine.fw_cfg or {}}
    for number, entry in enumerate(machine.fw_cfg_files):
        here: KeyPath = ("machine", "fw_cfg_files", number, "name")
        first = names.setdefault(entry.name, here)
        if first != here:
            yield Finding(here, Problem(f"{key_text(first)} has the same name", found=entry.name,
                                        hint="leave one of the two out"), (first,))


MACHINE_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_forms, check_firmware, check_boot_settings, check_guest_iommu, check_tables,
)
