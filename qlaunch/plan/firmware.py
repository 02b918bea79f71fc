"""What the board starts with: BIOS or UEFI, and the files that its firmware reads.

Which firmware it is follows from the profile alone; which UEFI of those on this host is found in
plan/uefi.py, that is loaded for UEFI machines only.
"""

from __future__ import annotations

from typing import Literal

from qlaunch.facts.model import QemuBinary
from qlaunch.plan.draft import Draft
from qlaunch.plan.eras import ERAS
from qlaunch.plan.files import check_file
from qlaunch.plan.model import Place
from qlaunch.profile.profile import Profile
from qlaunch.values import GuestSlot


def firmware_kind(profile: Profile) -> tuple[Literal["bios", "uefi"], str]:
    """The firmware, and why: the profile's key, Secure Boot's need, or the guest's era."""
    machine = profile.machine
    if machine.firmware is not None:
        return ("bios" if machine.firmware == "bios" else "uefi"), "machine.firmware"
    if machine.bios is not None:
        return "bios", "machine.bios"
    if machine.secure_boot:
        return "uefi", "machine.secure_boot"
    if ERAS[profile.guest].firmware == "uefi" and not any(p.x_vga for p in profile.pci):
        return "uefi", f"rule: {profile.guest} guests start from UEFI"
    return "bios", "rule: SeaBIOS is QEMU's own"


def secure_boot(profile: Profile) -> tuple[bool | Literal["setup"], str]:
    """Whether a UEFI machine has Secure Boot, and why."""
    if profile.machine.secure_boot is not None:
        return profile.machine.secure_boot, "machine.secure_boot"
    if ERAS[profile.guest].secure_boot and profile.machine.firmware in (None, "uefi"):
        return True, f"rule: {profile.guest} guests ask for Secure Boot"
    return False, ""


def plan_firmware(draft: Draft) -> None:
    """The firmware and the files that the board is given; the guest's own IOMMU."""
    _check_files(draft)
    _check_pinned(draft)
    _check_tpm(draft)
    if firmware_kind(draft.profile)[0] == "uefi":
        from qlaunch.plan.uefi import plan_uefi

        draft.decided["firmware"] = plan_uefi(draft)
    if draft.profile.machine.iommu is not None:
        _place_iommu(draft, draft.profile.machine.iommu)


def _check_files(draft: Draft) -> None:
    """QEMU reads these by itself, as its own account."""
    machine, kernel = draft.profile.machine, draft.profile.kernel
    named: list[tuple[str | None, str]] = [
        (t.file, f"machine.acpi_tables[{i}].file") for i, t in enumerate(machine.acpi_tables)
    ]
    named += [(t.file, f"machine.fw_cfg_files[{i}].file")
              for i, t in enumerate(machine.fw_cfg_files)]
    named.append((machine.bios, "machine.bios"))
    if kernel is not None:
        named += [(kernel.file, "kernel.file"), (kernel.initrd, "kernel.initrd")]
    for path, where in named:
        if path:
            check_file(draft, draft.facts.file(path), where, read_only=True, handed=False)


def _check_pinned(draft: Draft) -> None:
    """Windows takes a newer QEMU's machine for another computer."""
    qemu, machine = draft.facts.qemu, draft.profile.machine.type
    if not draft.profile.guest.startswith("windows") or machine not in ("q35", "pc"):
        return
    pinned = machine_name(draft)
    if qemu is not None and pinned != machine:
        draft.problem(
            f'"{machine}" is a newer machine with every newer QEMU, and Windows may ask for '
            "drivers and activation again", "machine.type", found=f"it is {pinned} today",
            hint=f'type = "{pinned}" keeps it', severity="note",
        )


def _check_tpm(draft: Draft) -> None:
    """What the guest's own installer insists on."""
    if draft.era.tpm and draft.profile.tpm is None:
        draft.problem("this guest asks for a TPM 2.0", "guest", found=draft.profile.guest,
                      hint="add [tpm]", severity="note")


def machine_name(draft: Draft) -> str:
    """The versioned name behind an alias like q35; the alias when this QEMU does not tell."""
    return versioned(draft.facts.qemu, draft.profile.machine.type)


def versioned(qemu: QemuBinary | None, name: str) -> str:
    """The same of one QEMU."""
    if qemu is None or name not in ("q35", "pc"):
        return name
    major, minor, _ = qemu.version
    derived = f"pc-{'q35' if name == 'q35' else 'i440fx'}-{major}.{minor}"
    return qemu.aliases.get(name) or (derived if derived in qemu.machines else name)


def _place_iommu(draft: Draft, kind: str) -> None:
    """Straight on bus 0, whose devices it serves: there virtio-iommu takes the function that is
    kept for it. The others are the board's."""
    draft.need({"intel": "intel-iommu", "amd": "amd-iommu", "virtio": "virtio-iommu-pci"}[kind],
               "machine.iommu")
    if kind == "virtio":
        slot = draft.slots.extra_function("iommu", "machine.iommu")
        draft.places["iommu"] = Place(draft.bus, GuestSlot(slot))
