"""Hand the profile's devices to a guest and take them back, several times over,
before a desktop is trusted to it.

The guest is the firmware and a boot sector of qlaunch's own; the profile's
disks, networks and shares are left out, its hooks are run. What each round took
is shown, and what was not as before after it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from qlaunch.cli.common import load, refuse_faults
from qlaunch.cli.main import tell
from qlaunch.cli.text import columns, say, write, write_json
from qlaunch.errors import EXIT_NOT_RESTORED, EXIT_OK, Problem, QlaunchError, UsageError

if TYPE_CHECKING:
    from qlaunch.plan.model import Plan
    from qlaunch.profile.read import Loaded
    from qlaunch.run.selftest import Round

EXAMPLE = """\
example:
  qlaunch selftest win7.toml                three rounds
  qlaunch selftest win7 --rounds 20 --json
  qlaunch selftest win7 --no-hooks          nothing of the profile's is run
Stop what uses the devices first, or have a hook of the profile do it: what is
in use is refused. Ctrl-C ends after the round that is running.
exit codes: 0 all as before, 1 a round failed, 3 something is not as before
"""
MOST = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROFILE, --rounds, --seconds, --no-hooks, --json."""
    parser.add_argument(
        "profile", metavar="PROFILE",
        help="a file, or a name looked up in ./, ~/.config/qlaunch/ and /etc/qlaunch/",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override one key for this call, e.g. --set pci[0].reset=bus",
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="how many (default: 3)")
    parser.add_argument(
        "--seconds", metavar="N", type=int, default=1,
        help="how long the guest has the devices in each (default: 1)",
    )
    parser.add_argument("--no-hooks", action="store_true", help="leave the profile's hooks out")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what goes wrong")


def run(args: argparse.Namespace) -> int:
    """The rounds, and their table."""
    for value, name in ((args.rounds, "--rounds"), (args.seconds, "--seconds")):
        if not 1 <= value <= MOST:
            raise UsageError(Problem(f"{name} takes a number from 1 to {MOST}",
                                     where="qlaunch selftest", found=str(value),
                                     hint="qlaunch selftest --help"))
    loaded = load(args)
    from qlaunch.run.selftest import boot_disk, selftest_profile

    image = (Path(__file__).parents[1] / "data/bootsector.bin").read_bytes()
    disk = boot_disk(image)
    try:
        profile = selftest_profile(loaded.profile, disk, args.seconds, hooks=not args.no_hooks)
        return _rounds(args, loaded.replaced(profile), disk)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(disk)  # noqa: PTH108 - mkstemp's own


def _rounds(args: argparse.Namespace, loaded: Loaded, disk: str) -> int:
    plan = _plan(loaded, holders=False)
    if plan.needs_root and os.geteuid() != 0:
        from qlaunch.cli.elevate import become_root, refuse_what_pkexec_would

        refuse_what_pkexec_would(loaded)
        os.unlink(disk)  # noqa: PTH108 - root makes its own
        become_root(plan)
    from qlaunch.cli.base import runtime_base
    from qlaunch.host.handler import Host
    from qlaunch.run.compared import host_state
    from qlaunch.run.selftest import EMULATED, GRACE, run_round

    before = host_state(Host(), plan.steps)
    patience = args.seconds + GRACE * (EMULATED if plan.accel == "tcg" else 1)
    done: list[Round] = []
    failure: QlaunchError | None = None
    try:
        for number in range(1, args.rounds + 1):
            if not args.quiet:
                say(f"round {number} of {args.rounds}")
            done.append(
                run_round(
                    number, loaded, lambda holders: _plan(loaded, holders=holders), before,
                    plan.steps, base=runtime_base(), patience=patience,
                    quiet=args.quiet,
                )
            )
            if done[-1].changed or done[-1].code or done[-1].end.startswith("stopped by SIG"):
                break
    except QlaunchError as error:
        failure = error
    _show(args, done, failure)
    if failure is not None:
        raise failure
    if any(one.changed for one in done):
        return EXIT_NOT_RESTORED
    return max((one.code for one in done), default=EXIT_OK)


def _plan(loaded: Loaded, *, holders: bool) -> Plan:
    from qlaunch.facts.probe import read_facts
    from qlaunch.plan.make import make_plan
    from qlaunch.plan.wanted import facts_wanted

    facts = read_facts(facts_wanted(loaded.profile, holders=holders, trusted=loaded.trusted))
    plan = make_plan(loaded.profile, facts)
    told = refuse_faults(plan, loaded)
    if holders:
        tell([p for p in told if p.severity == "warning"])
    return plan


def _show(args: argparse.Namespace, done: list[Round], failure: QlaunchError | None) -> None:
    if args.json:
        write_json({"rounds": done, "failed": str(failure) if failure else ""})
        return
    rows = [
        (str(one.number), *(f"{t:.2f} s" for t in (one.take, one.start, one.run, one.give_back)),
         one.end if not one.changed else f"{one.end}; {len(one.changed)} things changed")
        for one in done
    ]
    if rows:
        write(columns(rows, ("ROUND", "TAKE", "START", "RUN", "RETURN", "END")))
    for one in done:
        if one.code:
            write(f"round {one.number} failed: {one.end}\n")
        for text in one.changed:
            write(f"round {one.number}: {text}\n")
    if done and failure is None and not any(one.changed for one in done):
        write(f"everything is as before after {len(done)} round(s)\n")
