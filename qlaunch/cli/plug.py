"""Give a running guest a device that qlaunch detach took from it.

It is taken from the host by the same steps as at the machine's start, and
refused when something on the host has begun to use it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from shlex import join
from typing import TYPE_CHECKING

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine
from qlaunch.cli.main import tell
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_OK, HostError, Problem, UsageError

if TYPE_CHECKING:
    from qlaunch.run.info import Info
    from qlaunch.run.parts import Parts
    from qlaunch.values import PciAddress

EXAMPLE = """\
example:
  qlaunch attach win7 03:00.0               after: qlaunch detach win7 03:00.0
  qlaunch attach win7 046d:c52b             a USB device
"""


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME and DEVICE…"""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument(
        "device", metavar="DEVICE", nargs="+",
        help='a PCI address, a USB port or id ("1-4.2", "046d:c52b"), or its key ("pci[0]")',
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, DEVICE… and --force."""
    add_device_arguments(parser)
    parser.add_argument(
        "--force", action="store_true",
        help="although a process, or a container's network, uses it; never for a mounted disk, "
        "swap, the default route or that of this SSH connection",
    )


def run(args: argparse.Namespace) -> int:
    """Attach them."""
    base, info, parts = asked_parts(args, "attach")
    from qlaunch.host.handler import telling

    if parts.usbs:
        from qlaunch.run.usbplug import attach_usbs

        attach_usbs(base, info, parts.usbs, say, telling(say))
    if parts.cards:
        from qlaunch.run.plugging import attach_cards

        attach_cards(
            base, info, parts.cards, say=say, host=telling(say),
            check=lambda addresses: _check(addresses, force=args.force),
        )
    return EXIT_OK


def asked_parts(args: argparse.Namespace, verb: str) -> tuple[str, Info, Parts]:
    """Where the machines are, the one that is meant, and its devices. Raises UsageError, HostError.
    """
    base = runtime_base()
    name = known_machine(base, args.name)
    from qlaunch.run.beside import planned_usbs
    from qlaunch.run.parts import named_parts
    from qlaunch.run.talk import live_info

    info = live_info(base, name)
    usbs = planned_usbs(info) if info.usbs else []
    return base, info, named_parts(info, usbs, args.device, verb)


def _check(addresses: Sequence[PciAddress], *, force: bool) -> None:
    if not addresses:
        return
    from qlaunch.cli.byhand import asked_devices
    from qlaunch.plan.handover import obstacles

    facts, devices = asked_devices(list(addresses))
    problems = obstacles(facts, devices, force=force)
    if any(p.severity == "error" for p in problems):
        raise HostError(problems)
    tell(problems)


def duration(args: argparse.Namespace) -> float:
    """Seconds of --timeout. Raises UsageError."""
    from qlaunch.values import parse_duration

    try:
        return float(parse_duration(args.timeout))
    except ValueError as error:
        raise UsageError(
            Problem(f"--timeout takes {error}", where="qlaunch detach", found=args.timeout,
                    hint=f"qlaunch detach '{args.name}' {join(args.device)} --timeout 90s")
        ) from None
