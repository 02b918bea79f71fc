"""Put back what a dead launcher left: devices to their drivers, bridges, huge
pages, owners.

When the guest still runs without its launcher, this watches it and gives
everything back when it ends. Running it twice does no harm.
"""

from __future__ import annotations

import argparse

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine
from qlaunch.cli.main import tell
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_OK, Problem, QlaunchError, UsageError
from qlaunch.run.info import is_supervised, machine_names
from qlaunch.run.recover import recover

EXAMPLE = """\
example:
  qlaunch recover win7
  qlaunch recover --all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME or --all."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="the machine's name (qlaunch ps)")
    parser.add_argument("--all", action="store_true", help="every machine without a launcher")


def run(args: argparse.Namespace) -> int:
    """Recover one or all."""
    base = runtime_base()
    if args.all == bool(args.name):
        raise UsageError(
            Problem("name one machine, or say --all", where="qlaunch recover",
                    hint="qlaunch ps lists what is left over")
        )
    if args.name:
        return recover(base, known_machine(base, args.name), say)
    worst = EXIT_OK
    names = machine_names(base)
    if not names:
        say("nothing is left over")
    for name in names:
        if is_supervised(f"{base}/{name}"):
            say(f"{name}: watched by its launcher, left alone")
            continue
        try:
            worst = max(worst, recover(base, name, say))
        except QlaunchError as error:
            tell(error.problems)
            worst = max(worst, error.exit_code)
    return worst
