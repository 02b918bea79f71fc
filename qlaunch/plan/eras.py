"""What a guest's era decides when the profile does not say: one row a guest, plain data.

Sources: libosinfo's device lists and Proxmox's tables by Windows version (Hyper-V set, slots, no
HPET, no Hyper-V set for OVMF before Windows 8); Windows keeps local time in the hardware clock;
Windows 7 has drivers for neither xHCI nor the generic pcie-root-port, which it puts in code 10/12,
but takes the Intel ioh3420; Windows 11 asks for UEFI, Secure Boot and a TPM 2.0.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Port = Literal["ioh3420", "pcie-root-port", "none"]


class Era(Struct, frozen=True):
    """Defaults of one `guest =` value."""

    rtc: Literal["utc", "localtime"]
    card_port: Port  # a card with x_vga, and its other functions
    other_port: Port  # every other passed-through device
    hyperv: tuple[str, ...]  # the set `hyperv = true` means, and the default for this guest
    extra_port: Port = "pcie-root-port"  # for emulated devices on a port of their own
    hyperv_uefi: bool = True  # the set is for a guest that starts from UEFI as well
    firmware: Literal["bios", "uefi"] = "bios"
    secure_boot: bool = False
    tpm: bool = False  # the guest wants a TPM 2.0
    hpet: bool | None = None  # None: as QEMU has it
    driftfix: Literal["none", "slew"] | None = None  # of the clock's lost ticks
    usb: Literal["xhci", "ehci"] = "xhci"  # the controller its installer has a driver for
    disk: Literal["virtio", "sata"] = "sata"  # the same for disks: `[install] friendly`
    nic: Literal["virtio", "e1000e", "e1000"] = "e1000"  # and network cards


_WINDOWS_7 = (
    "relaxed", "vapic", "spinlocks", "vpindex", "runtime", "time", "synic", "stimer", "reset",
)
_WINDOWS_10 = (*_WINDOWS_7, "frequencies", "tlbflush", "ipi")

ERAS: dict[str, Era] = {
    "windows7": Era(
        "localtime", "ioh3420", "none", _WINDOWS_7, "ioh3420", hyperv_uefi=False, usb="ehci",
    ),
    "windows10": Era(
        "localtime", "pcie-root-port", "pcie-root-port", _WINDOWS_10, hpet=False, driftfix="slew",
        nic="e1000e",
    ),
    "windows11": Era(
        "localtime", "pcie-root-port", "pcie-root-port", _WINDOWS_10, hpet=False, driftfix="slew",
        nic="e1000e", firmware="uefi", secure_boot=True, tpm=True,
    ),
    "linux": Era("utc", "pcie-root-port", "pcie-root-port", (), disk="virtio", nic="virtio"),
    "other": Era("utc", "pcie-root-port", "pcie-root-port", ()),
}

# What QEMU insists on (kvm_hyperv_properties, target/i386/kvm/kvm.c).
HYPERV_NEEDS: dict[str, tuple[str, ...]] = {
    "synic": ("vpindex",),
    "stimer": ("synic", "time"),
    "stimer-direct": ("stimer",),
    "tlbflush": ("vpindex",),
    "tlbflush-ext": ("tlbflush",),
    "tlbflush-direct": ("vapic",),
    "ipi": ("vpindex",),
    "evmcs": ("vapic",),
}


def hyperv_set(
    guest: str, wanted: bool | tuple[str, ...] | None, *, uefi: bool = False
) -> tuple[tuple[str, ...], str]:
    """The enlightenments to enable, in QEMU's spelling order, and why."""
    if wanted is False:
        return (), "cpu.hyperv"
    if wanted is None and uefi and not ERAS[guest].hyperv_uefi:
        return (), f"rule: no Hyper-V set for {guest} guests under UEFI"
    if wanted is None or wanted is True:
        era = ERAS[guest].hyperv
        why = "cpu.hyperv" if wanted else f"rule: {guest} guests get the Hyper-V set"
        return era or (ERAS["windows10"].hyperv if wanted else ()), why
    names = list(wanted)
    for name in names:  # grows while it is walked: needs of needs
        names += [n for n in HYPERV_NEEDS.get(name, ()) if n not in names]
    added = names[len(wanted):]
    rule = f"rule: QEMU refuses that set without {' and '.join(added)}"
    return tuple(names), "; ".join(["cpu.hyperv", *[rule] * bool(added)])
