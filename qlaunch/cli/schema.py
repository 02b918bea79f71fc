"""Print the JSON Schema of profiles, for editors that complete and check them."""

from __future__ import annotations

import argparse

from qlaunch.cli.text import write_json
from qlaunch.errors import EXIT_OK

EXAMPLE = """\
example:
  qlaunch schema > ~/.config/qlaunch/schema.json
  # then, as the first line of a profile:
  #:schema ~/.config/qlaunch/schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from qlaunch.profile.schema import profile_schema

    write_json(profile_schema())
    return EXIT_OK
