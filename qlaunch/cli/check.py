"""Say whether a profile can run on this host: every fault and warning at once,
then what `qlaunch doctor` says of the parts that it needs. Nothing is changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from qlaunch.cli.common import Made, add_profile_arguments, located, make, quirks_in
from qlaunch.cli.main import tell
from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from qlaunch.advise.finding import Finding

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
    problems = [
        *made.loaded.warnings, *located(made.plan.problems, made.loaded), *quirks_in(made),
    ]
    from qlaunch.cli.findings import findings_json, findings_text

    found = _findings(args, made)
    # What both tell of counts once.
    faults = sum(p.severity == "error" for p in problems) or sum(
        one.level == "fault" for one in found)
    if args.json:
        write_json({
            "name": made.plan.name, "runs": not faults,
            "problems": [p._asdict() for p in problems],
            "findings": findings_json(found),
        })
    else:
        tell(problems)
        write(findings_text(found) + "\n")
        rest = sum(p.severity != "error" for p in problems)
        word = "can run here" if not faults else "cannot run here"
        write(f"{made.plan.name} {word}: {faults} fault(s), {rest} warning(s) or note(s)\n")
    return EXIT_FAILED if faults else EXIT_OK


def _findings(args: argparse.Namespace, made: Made) -> list[Finding]:
    """The host's part in it; subjects that the plan did not ask for are not judged."""
    from qlaunch.advise.examine import examine_for

    if args.facts:
        from qlaunch.facts.health_model import ExaminedFacts
        from qlaunch.facts.probe import read_snapshot

        return examine_for(read_snapshot(Path(args.facts), ExaminedFacts), made.plan)
    from qlaunch.facts.health import with_health

    return examine_for(with_health(made.facts), made.plan)
