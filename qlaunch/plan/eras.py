"""What a guest's era decides when the profile does not say: one row a guest, plain data.

Sources: libosinfo's device lists and Proxmox's tables by Windows version (Hyper-V set, slots);
Windows keeps local time in the hardware clock; Windows 7 has drivers for neither xHCI nor the
generic pcie-root-port, which it puts in code 10/12, but takes the Intel ioh3420.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Port = Literal["ioh3420", "pcie-root-port", "none"]


class Era(NamedTuple):
    """Defaults of one `guest =` value."""

    rtc: Literal["utc", "localtime"]
    card_port: Port  # a card with x_vga, and its other functions
    other_port: Port  # every other passed-through device
    hyperv: tuple[str, ...]  # the set `hyperv = true` means, and the default for this guest


_WINDOWS_7 = (
    "relaxed", "vapic", "spinlocks", "vpindex", "runtime", "time", "synic", "stimer", "reset",
)
_WINDOWS_10 = (*_WINDOWS_7, "frequencies", "tlbflush", "ipi")

ERAS: dict[str, Era] = {
    "windows7": Era("localtime", "ioh3420", "none", _WINDOWS_7),
    "windows10": Era("localtime", "pcie-root-port", "pcie-root-port", _WINDOWS_10),
    "windows11": Era("localtime", "pcie-root-port", "pcie-root-port", _WINDOWS_10),
    "linux": Era("utc", "pcie-root-port", "pcie-root-port", ()),
    "other": Era("utc", "pcie-root-port", "pcie-root-port", ()),
}

# What QEMU insists on (kvm_hyperv_properties, target/i386/kvm/kvm.c).
HYPERV_NEEDS: dict[str, tuple[str, ...]] = {
    "synic": ("vpindex",),
    "stimer": ("synic", "time"),
    "tlbflush": ("vpindex",),
    "ipi": ("vpindex",),
}


def hyperv_set(guest: str, wanted: bool | tuple[str, ...] | None) -> tuple[tuple[str, ...], str]:
    """The enlightenments to enable, in QEMU's spelling order, and why."""
    if wanted is False:
        return (), "cpu.hyperv"
    if wanted is None or wanted is True:
        era = ERAS[guest].hyperv
        why = "cpu.hyperv" if wanted else f"rule: {guest} guests get the Hyper-V set"
        return era or (ERAS["windows10"].hyperv if wanted else ()), why
    names = list(wanted)
    for name in names:  # grows while it is walked: needs of needs
        names += [n for n in HYPERV_NEEDS.get(name, ()) if n not in names]
    return tuple(names), "cpu.hyperv"
