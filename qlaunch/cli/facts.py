"""Write down what this host is: CPUs, memory, PCI devices, KVM, IOMMU, QEMU,
links, kernel.

The snapshot can be given to check, plan and argv with --facts, here or on
another machine.
"""

from __future__ import annotations

import argparse

from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_OK

EXAMPLE = """\
example:
  qlaunch facts --json > rack7.json
  qlaunch plan win7.toml --facts rack7.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the snapshot, or a summary of it."""
    from qlaunch.facts.model import EVERYTHING
    from qlaunch.facts.probe import read_facts

    facts = read_facts(EVERYTHING)
    if args.json:
        write_json(facts)
        return EXIT_OK
    online = [c for c in facts.cpus or () if c.online]
    kvm, iommu, qemu = facts.kvm, facts.iommu, facts.qemu
    total = sum(n.total for n in facts.memory or ())
    rows = [
        ("kernel", facts.kernel.release if facts.kernel else "?"),
        ("CPUs", f"{len(online)} online of {len(facts.cpus or ())}, "
                 f"{len({(c.package, c.core) for c in online})} cores, "
                 f"{len({c.node for c in online})} NUMA node(s)"),
        ("memory", f"{total / (1 << 30):.1f} GiB"),
        ("KVM", "usable" if kvm and kvm.usable else f"no: {kvm.reason if kvm else '?'}"),
        ("IOMMU", f"{iommu.kind} with {iommu.groups} groups" if iommu and iommu.enabled
         else f"off: {iommu.reason if iommu else '?'}"),
        ("PCI", f"{len(facts.pci or ())} functions (qlaunch devices)"),
        ("QEMU", f"{'.'.join(map(str, qemu.version))} ({qemu.path})" if qemu else "not installed"),
        ("bridges", ", ".join(x.name for x in facts.links or () if x.kind == "bridge") or "none"),
    ]
    write("".join(f"{name:8} {text}\n" for name, text in rows))
    return EXIT_OK
