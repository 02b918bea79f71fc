"""Which port's Access Control Services make a group as large as it is.

The kernel asks a port for four of them: source validation, request and completion redirect, and
upstream forwarding (REQ_ACS_FLAGS in drivers/iommu/iommu.c); one that the port cannot do, it does
not miss (pci_acs_flags_enabled in drivers/pci/pci.c). It switches them on itself when it starts
with the IOMMU on, unless pci=disable_acs_redir= or pci=config_acs= is on its command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qlaunch.advise.finding import Evidence, Host
from qlaunch.advise.fixes import drop_parameter
from qlaunch.facts.health_model import AcsPort
from qlaunch.facts.model import PciDevice

_WANTED = 0x01 | 0x04 | 0x08 | 0x10  # PCI_ACS_SV, _RR, _CR, _UF of linux/pci_regs.h
_PORTS = ("root port", "downstream port")  # of others the kernel does not ask it
_EXTENDED = 256  # bytes of configuration space before the part that ACS is in
_GENERAL = ("plug the card into another slot, or switch on ACS in the BIOS setup",)


class Ports(NamedTuple):
    """What a group's ports are found to be."""

    message: str  # goes on the sentence about the group
    evidence: tuple[Evidence, ...]
    fix: tuple[str, ...]
    hidden: tuple[str, ...]  # addresses of those that could not be looked at
    unread: tuple[Evidence, ...]


def ports_of(host: Host, card: PciDevice) -> Ports:
    """Those in the card's group: what has no ACS is in the group of what is below it."""
    members = {d.address for d in host.facts.pci or () if d.iommu_group == card.iommu_group}
    ports = [port for port in host.health.acs or () if port.address in members]
    hidden = [port for port in ports if not _seen(port)]
    seen = [port for port in ports if _seen(port)]
    none = [p.address for p in seen if p.kind in _PORTS and p.at is None]
    off = [p.address for p in seen if p.at is not None and not _on(p)]
    old = [p.address for p in seen if p.kind == "bridge"]
    said = [
        f"{', '.join(addresses)} {words}" for addresses, words in (
            (none, "has no ACS" if len(none) == 1 else "have no ACS"),
            (off, "has ACS, switched off" if len(off) == 1 else "have ACS, switched off"),
            (old, "leads to conventional PCI, which has none"),
        ) if addresses
    ]
    return Ports(
        message=f": {'; '.join(said)}" if said else "",
        evidence=tuple(_evidence(port) for port in seen),
        fix=_fix(host, [*none, *old], off),
        hidden=tuple(port.address for port in hidden),
        unread=tuple(_evidence(port) for port in hidden),
    )


def _seen(port: AcsPort) -> bool:
    """Whether as much was read as tells of ACS."""
    return bool(port.kind) and (port.kind not in _PORTS or port.read > _EXTENDED)


def _on(port: AcsPort) -> bool:
    wanted = _WANTED & port.capability
    return port.kind not in _PORTS or port.control & wanted == wanted


def _evidence(port: AcsPort) -> Evidence:
    file = f"/sys/bus/pci/devices/{port.address}/config"
    if not _seen(port):
        return Evidence(file, f"{port.read} bytes of 4096")
    if port.at is None:
        return Evidence(file, f"{port.kind}, no extended capability 000d (ACS)")
    return Evidence(file, f"{port.kind}, ACS at {port.at:#x}: capability {port.capability:04x}, "
                    f"control {port.control:04x}")


def _fix(host: Host, none: Sequence[str], off: Sequence[str]) -> tuple[str, ...]:
    cmdline = host.facts.kernel.cmdline if host.facts.kernel else ""
    word = next((w for w in cmdline.split() if w.startswith("pci=") and "_acs" in w), "")
    lines: list[str] = []
    if off and word:
        lines += drop_parameter(host.health, word)
    elif off:
        lines += ["switch on ACS in the BIOS setup; with the IOMMU on, the kernel does the rest"]
    if none:
        lines += [f"plug the card into another slot, behind another port than {', '.join(none)}",
                  "some boards hide ACS until it is switched on in their BIOS setup"]
    return tuple(lines) or _GENERAL
