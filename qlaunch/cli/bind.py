"""Hand PCI devices to VFIO by hand, until `unbind` or the next boot. `run` does
this by itself.

Goes through driver_override, so a twin of the device keeps its driver. Needs
root.
"""

from __future__ import annotations

import argparse

from qlaunch.cli.base import runtime_base
from qlaunch.cli.byhand import add_device_arguments, asked_devices, need_root
from qlaunch.cli.main import tell
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_OK, HostError

EXAMPLE = """\
example:
  qlaunch bind 03:00.0 03:00.1
  qlaunch unbind 03:00.0 03:00.1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Addresses, and --force."""
    add_device_arguments(parser)
    parser.add_argument(
        "--force", action="store_true",
        help="although a process, or a container's network, uses it; never for a mounted disk, "
        "swap, the default route or that of this SSH connection",
    )


def run(args: argparse.Namespace) -> int:
    """Bind them."""
    need_root("bind")
    from qlaunch.plan.handover import obstacles
    from qlaunch.run.manual import bind

    facts, devices = asked_devices(args.address)
    problems = obstacles(facts, devices, force=args.force)
    if any(p.severity == "error" for p in problems):
        raise HostError(problems)
    tell(problems)
    bind(runtime_base(), devices, say)
    return EXIT_OK
