"""Let a running machine stand still: its vCPUs run no more, and it keeps its
memory and its devices.
"""

from __future__ import annotations

import argparse

from qlaunch.cli import control

EXAMPLE = """\
example:
  qlaunch pause win7
  qlaunch resume win7       it goes on
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME."""
    control.add_name(parser)


def run(args: argparse.Namespace) -> int:
    """Do it, and say so."""
    return control.control(args.name, control.pause)
