"""Print the QEMU command line that `run` would use, one option a line, quoted
for the shell.

Works on a machine that has none of the devices: addresses stay as written,
and what is missing is a warning on stderr. File descriptors (fd=101) are those
that qlaunch hands to QEMU.
"""

from __future__ import annotations

import argparse
from shlex import quote

from qlaunch.argv.render import plan_options, render_argv
from qlaunch.cli.common import add_profile_arguments, make, warnings_of
from qlaunch.cli.main import tell
from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_OK

EXAMPLE = """\
example:
  qlaunch argv win7.toml | less
  qlaunch argv win7.toml --json | jq '.[]'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROFILE and the output's form."""
    add_profile_arguments(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="an array of strings")
    form.add_argument("--oneline", action="store_true", help="one line")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    made = make(args)
    tell(warnings_of(made))
    if args.json:
        write_json(render_argv(made.plan))
    elif args.oneline:
        write(" ".join(quote(word) for word in render_argv(made.plan)) + "\n")
    else:
        lines = [quote(made.plan.qemu)]
        lines += [" ".join(quote(w) for w in o.words) for o in plan_options(made.plan)]
        write(" \\\n  ".join(lines) + "\n")
    return EXIT_OK
