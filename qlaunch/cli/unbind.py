"""Give PCI devices back to their host drivers: to the one they had before `bind`,
to the one named with --driver, or to whichever the kernel finds for them.
Needs root.
"""

from __future__ import annotations

import argparse

from qlaunch.cli.base import runtime_base
from qlaunch.cli.byhand import add_device_arguments, asked_devices, need_root
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_OK

EXAMPLE = """\
example:
  qlaunch unbind 03:00.0 03:00.1
  qlaunch unbind 03:00.0 --driver nouveau
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Addresses, and --driver."""
    add_device_arguments(parser)
    parser.add_argument("--driver", metavar="NAME", help="the host driver that shall have them")


def run(args: argparse.Namespace) -> int:
    """Give them back."""
    need_root("unbind")
    from qlaunch.run.manual import unbind

    _, devices = asked_devices(args.address)
    unbind(runtime_base(), devices, args.driver, say)
    return EXIT_OK
