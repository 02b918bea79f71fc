"""Give PCI devices back to their host drivers: to the one they had before `bind`,
to the one named with --driver, or to whichever the kernel finds for them.

One that does not take a device leaves it where it was. Needs root.
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
from qlaunch.errors import EXIT_OK, Problem, UsageError

EXAMPLE = """\
example:
  qlaunch unbind 03:00.0 03:00.1
  qlaunch unbind 03:00.0 --driver nouveau
"""
NAME_MAX = 255  # a driver is a directory in sysfs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Addresses, --driver and --force."""
    add_device_arguments(parser)
    parser.add_argument("--driver", metavar="NAME", help="the host driver that shall have them")
    add_force_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Give them back."""
    need_root("unbind")
    from qlaunch.plan.handover import hindrances
    from qlaunch.run.manual import unbind

    if args.driver is not None:
        _check_name(args.driver)
    facts, devices = asked_devices(args.address)
    if args.driver is not None:
        refuse(hindrances(facts, devices, args.driver, force=args.force))
    unbind(runtime_base(), devices, args.driver, say)
    return EXIT_OK


def _check_name(driver: str) -> None:
    if driver in ("", ".", "..") or "/" in driver or len(driver) > NAME_MAX:
        raise UsageError(Problem("--driver takes a driver's name", where="qlaunch unbind",
                                 found=driver, hint="ls /sys/bus/pci/drivers"))
