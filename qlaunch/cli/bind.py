"""Hand PCI devices to VFIO by hand, until `unbind` or the next boot. `run` does
this by itself.

Goes through driver_override, so a twin of the device keeps its driver. Needs
root.
"""

from __future__ import annotations

import argparse

from qlaunch.cli.base import runtime_base
from qlaunch.cli.byhand import (
    add_device_arguments,
    add_force_argument,
    asked_devices,
    need_root,
    refuse,
)
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_OK

EXAMPLE = """\
example:
  qlaunch bind 03:00.0 03:00.1
  qlaunch unbind 03:00.0 03:00.1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Addresses, and --force."""
    add_device_arguments(parser)
    add_force_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Bind them."""
    need_root("bind")
    from qlaunch.plan.handover import obstacles
    from qlaunch.run.manual import bind

    facts, devices = asked_devices(args.address)
    refuse(obstacles(facts, devices, force=args.force))
    bind(runtime_base(), devices, say)
    return EXIT_OK
