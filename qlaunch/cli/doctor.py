"""Examine this host: what stops machines with passed-through devices, what slows
them, what could not be told; each with where it was seen, why it matters, and
what to type. Nothing is changed. Run as root it sees everything.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_FAILED, EXIT_OK

EXAMPLE = """\
example:
  qlaunch doctor
  sudo qlaunch doctor                         and what only root can see
  qlaunch doctor --json | jq '.findings[] | select(.level == "fault")'
  qlaunch doctor --facts rack7.json           another host, by its snapshot
exit codes: 0 no fault (there may be warnings), 1 at least one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--facts, --json."""
    parser.add_argument(
        "--facts", metavar="FILE",
        help="examine this snapshot (qlaunch facts --json) instead of the host",
    )
    parser.add_argument("--json", action="store_true", help="for machines, evidence of all")


def run(args: argparse.Namespace) -> int:
    """Print what was found."""
    from qlaunch.advise.examine import examine
    from qlaunch.cli.findings import findings_json, findings_text, summary
    from qlaunch.facts.health_model import ExaminedFacts, health_of
    from qlaunch.facts.model import Wanted
    from qlaunch.facts.probe import read_facts, read_snapshot

    facts = read_snapshot(Path(args.facts), ExaminedFacts) if args.facts else read_facts(
        Wanted(health=True, holders=True, overrides=True, firewall=True)
    )
    found = examine(facts)
    faults = sum(one.level == "fault" for one in found)
    if args.json:
        write_json({"host": facts.host, "faults": faults, "findings": findings_json(found)})
    else:
        health, kernel = health_of(facts), facts.kernel
        about = ", ".join(filter(None, (
            health.system if health else "", f"Linux {kernel.release}" if kernel else "",
        )))
        write(f"{facts.host or 'this host'}: {about}\n\n{findings_text(found)}\n{summary(found)}\n")
    return EXIT_FAILED if faults else EXIT_OK
