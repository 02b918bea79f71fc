"""Let a paused machine go on, or wake a guest that has gone to sleep."""

from __future__ import annotations

import argparse

from qlaunch.cli import control

EXAMPLE = """\
example:
  qlaunch resume win7
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME."""
    control.add_name(parser)


def run(args: argparse.Namespace) -> int:
    """Do it, and say so."""
    return control.control(args.name, control.resume)
