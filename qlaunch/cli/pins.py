"""Show where each thread of a running machine is, and whether it is where its
profile wants it.

exit code: 0 when all are in place (or nothing is pinned), 1 when one is not.
"""

from __future__ import annotations

import argparse

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine
from qlaunch.cli.reach import reach, talk
from qlaunch.cli.text import columns, write, write_json
from qlaunch.errors import EXIT_FAILED, EXIT_OK, HostError, Problem
from qlaunch.plan.model import PinPlan
from qlaunch.run.info import find_qemu
from qlaunch.vm.pin import read_threads
from qlaunch.vm.placed import Placed, as_json, place_threads

EXAMPLE = """\
example:
  qlaunch pins win7
  qlaunch pins win7 --json | jq '.threads[] | select(.fault != "")'
WANTED is what the profile says (cpu.pin), ALLOWED the kernel's mask, NOW the
CPU it ran on last
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME and --json."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Print them; the exit code tells."""
    base = runtime_base()
    machine = reach(known_machine(base, args.name))  # its plan is the launcher's to read
    pid = find_qemu(f"{base}/{machine.name}")
    if pid is None or machine.info is None:
        raise HostError(Problem(f"{machine.name} has no QEMU yet, or none any more",
                                hint=f"qlaunch status '{machine.name}'"))
    plan = machine.info.pins
    placed = place_threads(talk(machine, lambda monitor: read_threads(monitor, pid)), plan)
    faults = [one for one in placed if one.fault]
    if args.json:
        write_json({"machine": machine.name, "pinned": plan is not None,
                    "in_place": not faults, "threads": [as_json(one) for one in placed]})
    else:
        write(_table(placed, plan))
    return EXIT_FAILED if faults else EXIT_OK


def _table(placed: list[Placed], plan: PinPlan | None) -> str:
    rows = [
        (one.kind, one.name, str(one.tid), "-" if one.wanted is None else str(one.wanted),
         str(one.allowed), "-" if one.last is None else str(one.last), _schedule(one),
         "NOT IN PLACE" if one.fault else "ok" if one.wanted is not None else "")
        for one in placed
    ]
    head = ("KIND", "THREAD", "TID", "WANTED", "ALLOWED", "NOW", "SCHED", "STATE")
    text = columns(rows, head)
    faults = [one for one in placed if one.fault]
    for one in faults:
        who = "" if one.fault.startswith(one.name) else f"{one.name} "
        text += f"error: {who}{one.fault}\n"
    if plan is None:
        return text + "nothing is pinned: [cpu.pin] or cpu.pin = \"auto\" in the profile\n"
    if not faults:
        return text + "every thread is where the profile wants it\n"
    first = next((one for one in faults if one.wanted is not None), None)
    if first is not None:
        text += f"hint: taskset -cp {first.wanted} {first.tid}\n"
    return text


def _schedule(one: Placed) -> str:
    if one.policy in ("fifo", "rr"):
        return f"{one.policy} {one.priority}"
    return one.policy if one.nice == 0 else f"{one.policy} nice {one.nice}"
