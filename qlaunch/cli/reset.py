"""Reset a running machine, as by the button: the guest is not asked, and loses
what it has not written. Its devices stay with it.
"""

from __future__ import annotations

import argparse

from qlaunch.cli import control

EXAMPLE = """\
example:
  qlaunch reset win7
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME."""
    control.add_name(parser)


def run(args: argparse.Namespace) -> int:
    """Do it, and say so."""
    return control.control(args.name, control.reset)
