"""List PCI devices by IOMMU group: driver, reset methods, who holds them, and
whether the group could be handed to a guest, and why not. Run as root it sees
every user's processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import wrap

from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_OK, Problem
from qlaunch.facts.model import HostFacts, PciDevice
from qlaunch.plan.cards import is_display
from qlaunch.plan.handover import Group, groups
from qlaunch.values import PciAddress

EXAMPLE = """\
example:
  qlaunch devices               all groups
  qlaunch devices 03:00.0       the group of one device
  qlaunch devices --cards       groups with a graphics card
  qlaunch devices --vgpu        what can be shared between guests
  qlaunch devices --json | jq '.[] | select(.obstacles == [])'
"""

# PCI code and ID assignment specification; the words are lspci's, shortened.
_CLASSES = {
    0x0100: "SCSI", 0x0101: "IDE", 0x0104: "RAID", 0x0106: "SATA", 0x0107: "SAS", 0x0108: "NVMe",
    0x0200: "Ethernet", 0x0280: "network", 0x0300: "VGA", 0x0302: "3D", 0x0380: "display",
    0x0401: "audio", 0x0403: "audio", 0x0500: "RAM", 0x0600: "host bridge", 0x0601: "ISA bridge",
    0x0604: "PCI bridge", 0x0703: "modem", 0x0780: "comm", 0x0880: "system", 0x0C03: "USB",
    0x0C05: "SMBus", 0x0C80: "serial bus", 0x1180: "signal", 0x0D11: "bluetooth",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which devices, and --json."""
    parser.add_argument("address", nargs="*", metavar="ADDRESS", help="only the groups of these")
    parser.add_argument("--cards", action="store_true", help="only groups with a graphics card")
    parser.add_argument(
        "--vgpu", action="store_true",
        help="what can be sliced: mediated device types, virtual functions",
    )
    parser.add_argument("--facts", metavar="FILE", help="a snapshot instead of this host")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Print the groups."""
    if args.vgpu:
        from qlaunch.cli.slices import run_slices

        return run_slices(args)
    from qlaunch.facts.model import Wanted
    from qlaunch.facts.probe import read_facts, read_snapshot

    wanted = Wanted(holders=True, overrides=True, cpus=False, memory=False, kvm=False,
                    links=False, qemu=None)
    facts = read_snapshot(Path(args.facts)) if args.facts else read_facts(wanted)
    wanted_devices = set(named(facts, args.address))
    found = [
        g for g in groups(facts)
        if (not args.address or wanted_devices & {d.address for d in g.devices})
        and (not args.cards or any(is_display(d) for d in g.devices))
    ]
    if args.json:
        write_json(
            [
                {
                    "group": g.number,
                    "devices": g.devices,
                    "obstacles": [p._asdict() for p in g.obstacles],
                    "warnings": [p._asdict() for p in g.warnings],
                    "quirks": [p._asdict() for p in _quirks(g)],
                }
                for g in found
            ]
        )
        return EXIT_OK
    write("\n".join(group_text(g) for g in found) or "no graphics card\n")
    return EXIT_OK


def named(facts: HostFacts, texts: list[str]) -> list[PciAddress]:
    """The addresses of these devices. Raises UsageError for what is none, or is not there."""
    from qlaunch.cli.byhand import addresses_of
    from qlaunch.run.manual import named_devices

    return [d.address for d in named_devices(facts, addresses_of(texts))]


def group_text(group: Group) -> str:
    """One group, at most 80 columns wide."""
    head = "no IOMMU group" if group.number is None else f"group {group.number}"
    if not group.obstacles:
        verdict = "could be handed over"
    elif all(d.is_bridge for d in group.devices):
        verdict = "bridges: stay with the host"
    else:
        verdict = "cannot be handed over"
    lines = [f"{head}: {verdict}"]
    for device in group.devices:
        lines += _device_lines(device)
    if not all(d.is_bridge for d in group.devices):
        for problem in (*group.obstacles, *group.warnings, *_quirks(group)):
            said = f"{problem.message} ({problem.found})" if problem.found else problem.message
            lines += wrap(f"{problem.severity}: {said}", 80, initial_indent="  ",
                          subsequent_indent="    ")
            if problem.hint:
                lines += wrap(f"hint: {problem.hint}", 80, initial_indent="  ",
                              subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def _device_lines(device: PciDevice) -> list[str]:
    kind = _kind(device.class_code >> 8)
    resets = "" if device.is_bridge else f"  reset: {_resets(device)}"
    override = f" (override {device.driver_override})" if device.driver_override else ""
    line = f"  {device.address}  {device.id}  {kind:11}  {device.driver or '-'}{override}{resets}"
    extra = []
    if device.stuck:
        extra.append("does not answer: taking it from its driver, or a reset, hangs in the kernel")
    if device.sriov_total:
        extra.append(f"{device.sriov_count or 0} of {device.sriov_total} virtual functions on")
    if device.physfn:
        extra.append(f"virtual function of {device.physfn}")
    if device.boot_vga:
        extra.append("the firmware's boot display")
    return [line, *(f"      {text}" for text in extra)]


def _quirks(group: Group) -> list[Problem]:
    from qlaunch.plan.quirks import quirks_of

    return [quirk.problem(device, "") for device in group.devices for quirk in quirks_of(device)]


def _kind(code: int) -> str:
    """ff00 to ffff belong to no class, and 00ff is how virtio devices say so."""
    return _CLASSES.get(code) or ("other" if code >= 0xFF00 or code == 0x00FF else f"{code:04x}")


def _resets(device: PciDevice) -> str:
    if device.reset_methods is None:
        return "?"
    return " ".join(device.reset_methods) or "none"
