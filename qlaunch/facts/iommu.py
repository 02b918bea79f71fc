"""The IOMMU: on or off, why, and whether it remaps interrupts.

On means that the kernel made groups (/sys/kernel/iommu_groups). Why not is told from the firmware
tables DMAR (Intel) and IVRS (AMD) and the kernel command line; interrupt remapping from the names
of the interrupt chips ("IR-IO-APIC"), the ecap register (VT-d specification, bit 3 IR) and the
DMAR table's flags (bit 0 INTR_REMAP).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from qlaunch.facts.kvm import read_cpu_flags
from qlaunch.facts.model import Iommu
from qlaunch.facts.tree import base_of, list_names, read_attribute, read_number, read_whole

Kind = Literal["", "intel", "amd", "other"]
_DMAR_FLAGS = 37  # after the 36 bytes of an ACPI table's header and the address width
_ECAP_IR = 1 << 3


def read_iommu(root: Path = Path("/")) -> Iommu:
    """The IOMMU; `reason` and `hint` are filled when it is off."""
    base = base_of(root)
    groups = len(list_names(f"{base}/sys/kernel/iommu_groups"))
    units = list_names(f"{base}/sys/class/iommu")
    options = (read_attribute(f"{base}/proc/cmdline") or "").split()
    kind = _kind(base, units)
    reason, hint = ("", "") if groups else _why_off(root, kind, options)
    unsafe = read_attribute(
        f"{base}/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
    )
    return Iommu(
        enabled=groups > 0,
        kind=kind,
        groups=groups,
        interrupt_remapping=_remapping(base, kind, units, options) if groups else None,
        unsafe_interrupts=unsafe in ("Y", "1") if unsafe is not None else None,
        reason=reason,
        hint=hint,
    )


def _kind(base: str, units: list[str]) -> Kind:
    """By the units the kernel runs (dmar0, ivhd0), else by the table the firmware has."""
    tables = list_names(f"{base}/sys/firmware/acpi/tables")
    if any(unit.startswith("dmar") for unit in units):
        return "intel"
    if any(unit.startswith("ivhd") for unit in units):
        return "amd"
    if units:
        return "other"
    if "DMAR" in tables:
        return "intel"
    return "amd" if "IVRS" in tables else ""


def _why_off(root: Path, kind: Kind, options: list[str]) -> tuple[str, str]:
    off = next(
        (o for o in options if o in ("iommu=off", "intel_iommu=off", "amd_iommu=off")), None
    )
    if off:
        return f"the kernel parameter {off} turns it off", f"take {off} off the kernel command line"
    if kind == "intel" and "intel_iommu=on" not in options:
        return (
            "the firmware offers VT-d, but the kernel was not told to use it",
            "add intel_iommu=on to the kernel command line",
        )
    if kind:
        return "the firmware offers it, but the kernel did not start it", _LOOK[kind]
    return _no_table(root)


def _no_table(root: Path) -> tuple[str, str]:
    if "hypervisor" in read_cpu_flags(root):
        return (
            "this is a virtual machine without an emulated IOMMU",
            "give it one (QEMU: -device intel-iommu,intremap=on)",
        )
    vendor = _vendor(base_of(root))
    if vendor == "GenuineIntel":
        return "the firmware has no DMAR table", "switch on VT-d in the BIOS setup"
    if vendor == "AuthenticAMD":
        return "the firmware has no IVRS table", "switch on IOMMU (AMD-Vi) in the BIOS setup"
    return "the firmware has no DMAR or IVRS table", "switch on VT-d or IOMMU in the BIOS setup"


def _vendor(base: str) -> str:
    text = (read_whole(f"{base}/proc/cpuinfo", 4096) or b"").decode(errors="replace")
    for line in text.splitlines():
        if line.startswith("vendor_id"):
            return line.partition(":")[2].strip()
    return ""


def _remapping(base: str, kind: Kind, units: list[str], options: list[str]) -> bool | None:
    """None when no source tells: without root the DMAR table cannot be read, for one."""
    chips = read_whole(f"{base}/proc/interrupts", 1 << 18) or b""
    if b"IR-" in chips:
        return True
    if b" IO-APIC" in chips or "intremap=off" in options or "nointremap" in options:
        return False
    if kind == "intel":
        return _intel_remapping(base, units)
    if kind == "amd":  # every unit with an extended feature register remaps (amd/init.c)
        known = [read_number(f"{base}/sys/class/iommu/{u}/amd-iommu/features", base=16)
                 for u in units]
        return True if known and all(value is not None for value in known) else None
    return None


def _intel_remapping(base: str, units: list[str]) -> bool | None:
    caps = [read_number(f"{base}/sys/class/iommu/{u}/intel-iommu/ecap", base=16) for u in units]
    if any(cap is not None and not cap & _ECAP_IR for cap in caps):
        return False
    table = read_whole(f"{base}/sys/firmware/acpi/tables/DMAR", 4096)
    if table is not None and len(table) > _DMAR_FLAGS:
        return bool(table[_DMAR_FLAGS] & 1)
    return True if caps and None not in caps else None


_LOOK = {
    "intel": "see dmesg | grep -e DMAR",
    "amd": "see dmesg | grep AMD-Vi; add amd_iommu=on or update the BIOS",
    "other": "see dmesg | grep -i iommu",
}
