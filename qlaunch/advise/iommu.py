"""The IOMMU: on, remapping interrupts, and how finely it tells devices apart."""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.advise.acs import ports_of
from qlaunch.advise.finding import Evidence, Finding, Host, unexamined
from qlaunch.advise.fixes import add_parameter, drop_parameter
from qlaunch.facts.model import Iommu, PciDevice
from qlaunch.plan.cards import card_of, is_display

_GROUPS = "/sys/kernel/iommu_groups"
_CMDLINE = "/proc/cmdline"
_UNSAFE = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
_KINDS = {"intel": "Intel VT-d", "amd": "AMD-Vi"}


def iommu(host: Host) -> Iterator[Finding]:
    """On or off, and why."""
    found = host.facts.iommu
    if found is None:
        yield unexamined("IOMMU", "whether there is one")
        return
    kind = _KINDS.get(found.kind, "an IOMMU")
    if found.enabled:
        yield Finding(
            subject="IOMMU", level="ok", message=f"{kind} is on, with {found.groups} groups",
            evidence=(Evidence(_GROUPS, f"{found.groups} groups"),),
        )
        return
    kernel = host.facts.kernel
    cmdline = kernel.cmdline if kernel else ""
    table = {"intel": "DMAR", "amd": "IVRS"}.get(found.kind)
    yield Finding(
        subject="IOMMU", level="fault", message=f"off: {found.reason}",
        evidence=(
            Evidence(_GROUPS, "no group"),
            Evidence("/sys/firmware/acpi/tables", f"{table} is there" if table
                     else "neither DMAR nor IVRS"),
            Evidence(_CMDLINE, _options(cmdline)),
        ),
        reason="a device may reach all of the host's memory, so the kernel hands none to a guest",
        fix=_switch_on(host, found, cmdline),
    )


def _options(cmdline: str) -> str:
    """What is said of IOMMUs, or that nothing is."""
    words = [word for word in cmdline.split() if "iommu" in word or "intremap" in word]
    return " ".join(words) or "no word of an IOMMU"


def _switch_on(host: Host, found: Iommu, cmdline: str) -> tuple[str, ...]:
    off = next((w for w in cmdline.split() if w in found.reason and w.endswith("iommu=off")), "")
    if off:
        return drop_parameter(host.health, off)
    if "intel_iommu=on" in found.hint:
        return (
            "qlaunch host setup --apply", "reboot",
            "or by hand:", *add_parameter(host.health, "intel_iommu=on"),
        )
    return (found.hint, "reboot") if "BIOS" in found.hint else (found.hint,)


def remapping(host: Host) -> Iterator[Finding]:
    """Without it VFIO refuses (vfio_iommu_type1_attach_group says EPERM)."""
    found = host.facts.iommu
    if found is None or not found.enabled:
        return
    chips = Evidence("/proc/interrupts", "IR- chips" if found.interrupt_remapping
                     else "no IR- chips")
    reason = "a device could send the host interrupts as if it were another"
    if found.interrupt_remapping:
        yield Finding(subject="interrupt remapping", level="ok", message="on", evidence=(chips,))
    elif found.interrupt_remapping is None:
        yield unexamined("interrupt remapping", "whether it is on",
                         fix="" if host.root else "sudo qlaunch doctor")
    else:
        unsafe = bool(found.unsafe_interrupts)
        yield Finding(
            subject="interrupt remapping", level="warning" if unsafe else "fault",
            message="off, and allowed to be" if unsafe else "off, so VFIO refuses every device",
            evidence=(chips, Evidence(_UNSAFE, {True: "Y", False: "N", None: "not loaded"}[
                found.unsafe_interrupts])),
            reason=reason,
            fix=(
                "switch on interrupt remapping or x2APIC in the BIOS setup, and take "
                "intremap=off off the kernel's command line",
                "or, for guests you trust: echo options vfio_iommu_type1 "
                "allow_unsafe_interrupts=1 | sudo tee /etc/modprobe.d/qlaunch-vfio.conf",
            ),
        )


def groups(host: Host) -> Iterator[Finding]:
    """Cards that share a group with what is no part of them; groups that were only claimed."""
    facts = host.facts
    if facts.pci is None or facts.iommu is None or not facts.iommu.enabled:
        return
    cmdline = facts.kernel.cmdline if facts.kernel else ""
    override = next((w for w in cmdline.split() if w.startswith("pcie_acs_override=")), "")
    if override:
        yield Finding(
            subject="groups", level="warning",
            message="the groups are what the kernel was told, not what the hardware keeps apart",
            evidence=(Evidence(_CMDLINE, override),),
            reason="devices in groups of their own may still reach each other, past the IOMMU",
            fix=drop_parameter(host.health, override),
        )
    cards = [d for d in facts.pci if is_display(d) and d.iommu_group is not None]
    shared = [(card, others) for card in cards if (others := _strangers(host, card))]
    for card, others in shared:
        yield from _shared(host, card, others)
    if cards and not shared and not override:
        yield Finding(
            subject="groups", level="ok", message="every graphics card has a group of its own",
            evidence=tuple(
                Evidence(f"{_GROUPS}/{card.iommu_group}/devices", card.address) for card in cards
            ),
        )


def _strangers(host: Host, card: PciDevice) -> list[PciDevice]:
    group = host.facts.group(card.iommu_group if card.iommu_group is not None else -1)
    return [
        member for member in group
        if not member.is_bridge and card_of(member.address) != card_of(card.address)
    ]


def _shared(host: Host, card: PciDevice, others: list[PciDevice]) -> Iterator[Finding]:
    names = ", ".join(f"{d.address} [{d.id}] on {d.driver or 'no driver'}" for d in others)
    found = ports_of(host, card)
    yield Finding(
        subject="groups", level="warning", devices=(card.address,),
        message=f"{card.address} shares group {card.iommu_group} with devices that are no part "
        f"of the card{found.message}",
        evidence=(
            Evidence(f"{_GROUPS}/{card.iommu_group}/devices", names), *found.evidence,
        ),
        reason="a group is handed over whole: the guest would get these too, or the host must "
        "do without them",
        fix=(*found.fix, 'or give all of them to the guest: group = "take" in its [[pci]]'),
    )
    if found.hidden:
        yield Finding(
            subject="ACS", level="unknown", devices=(card.address,),
            message=f"could not tell whether {', '.join(found.hidden)}, above {card.address}, "
            f"{'has' if len(found.hidden) == 1 else 'have'} ACS",
            evidence=found.unread, fix=() if host.root else ("run as root: sudo qlaunch doctor",),
        )
