"""What `bind` and `unbind` share."""

from __future__ import annotations

import argparse
import os

from qlaunch.cli.main import tell
from qlaunch.cli.text import say
from qlaunch.errors import HostError, Problem, UsageError
from qlaunch.facts.model import HostFacts, PciDevice, Wanted
from qlaunch.values import PciAddress, parse_pci_address


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """ADDRESS…"""
    parser.add_argument(
        "address", nargs="+", metavar="ADDRESS", help="PCI addresses (qlaunch devices)"
    )


def add_force_argument(parser: argparse.ArgumentParser) -> None:
    """--force."""
    parser.add_argument(
        "--force", action="store_true",
        help="although a process, or a container's network, uses it; never for a mounted disk, "
        "swap, the default route or that of this SSH connection",
    )


def refuse(problems: list[Problem]) -> None:
    """Tell what stands against it. Raises HostError when one does."""
    if any(p.severity == "error" for p in problems):
        raise HostError(problems)
    tell(problems)


def need_root(verb: str) -> None:
    """For anybody but root: this command again, through sudo or pkexec. Raises HostError where
    neither can ask."""
    if os.geteuid() != 0:
        from qlaunch.cli.elevate import run_as_root

        say(f"{verb} needs root")
        run_as_root(f"qlaunch {verb}")


def asked_devices(texts: list[str]) -> tuple[HostFacts, list[PciDevice]]:
    """The devices that were named, with their holders. Raises UsageError for all bad ones."""
    from qlaunch.facts.probe import read_facts
    from qlaunch.run.manual import named_devices

    addresses = addresses_of(texts)
    facts = read_facts(
        Wanted(holders=True, cpus=False, memory=False, kvm=False, links=False, qemu=None)
    )
    return facts, named_devices(facts, addresses)


def addresses_of(texts: list[str]) -> list[PciAddress]:
    """The addresses, each once. Raises UsageError for all that are none."""
    addresses: dict[PciAddress, None] = {}
    bad = []
    for text in texts:
        try:
            addresses[parse_pci_address(text)] = None
        except ValueError as error:
            bad.append(Problem("this is no PCI address", found=text, allowed=str(error),
                               hint="qlaunch devices lists them"))
    if bad:
        raise UsageError(bad)
    return list(addresses)
