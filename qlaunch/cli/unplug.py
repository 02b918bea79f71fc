"""Take a device from a running guest and give it back to the host.

A PCI device leaves with its whole card, when the guest lets go of it; it is
reset and bound to the driver it had. It stays reserved for this machine:
qlaunch attach brings it back. A USB device leaves at once, as if unplugged.
"""

from __future__ import annotations

import argparse

from qlaunch.cli.plug import add_device_arguments, asked_parts
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_OK

EXAMPLE = """\
example:
  qlaunch detach win7 03:00.0               the card, with its audio
  qlaunch detach win7 03:00.0 04:00.0       two that share an IOMMU group
  qlaunch detach win7 046d:c52b             a USB device
  qlaunch attach win7 03:00.0               the guest gets it again
The guest's system has to let go of a PCI device: end what uses it there first.
Only devices on root ports can leave. CDs are changed with qlaunch media.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, DEVICE… and --timeout."""
    add_device_arguments(parser)
    parser.add_argument("--timeout", metavar="DURATION", default="30s",
                        help="how long the guest may take to let go of it (default: 30s)")


def run(args: argparse.Namespace) -> int:
    """Detach them."""
    from qlaunch.cli.plug import duration

    patience = duration(args)
    base, info, parts = asked_parts(args, "detach")
    from qlaunch.host.handler import telling

    if parts.usbs:
        from qlaunch.run.usbplug import detach_usbs

        detach_usbs(base, info, parts.usbs, say, telling(say))
    if parts.cards:
        from qlaunch.run.plugging import detach_cards

        detach_cards(
            base, info, parts.cards, timeout=patience, say=say, host=telling(say)
        )
    return EXIT_OK
