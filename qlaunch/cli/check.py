"""Say whether a profile can run on this host: every fault and warning at once.
Nothing is changed.
"""

from __future__ import annotations

import argparse

from qlaunch.cli.common import add_profile_arguments, located, make
from qlaunch.cli.main import tell
from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_FAILED, EXIT_OK

EXAMPLE = """\
example:
  qlaunch check win7.toml
  qlaunch check win7.toml --json | jq '.problems[].message'
exit codes: 0 it can run, 1 this host cannot run it, 2 the profile is at fault
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROFILE and --json."""
    add_profile_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Print what was found."""
    made = make(args, holders=True)
    problems = [*made.loaded.warnings, *located(made.plan.problems, made.loaded)]
    faults = sum(p.severity == "error" for p in problems)
    if args.json:
        write_json({
            "name": made.plan.name, "runs": not faults,
            "problems": [p._asdict() for p in problems],
        })
    else:
        tell(problems)
        rest = len(problems) - faults
        word = "can run here" if not faults else "cannot run here"
        write(f"{made.plan.name} {word}: {faults} fault(s), {rest} warning(s) or note(s)\n")
    return EXIT_FAILED if faults else EXIT_OK
