"""Start a machine from its profile, watch it, and give everything back when it
ends.

Ctrl-C presses the guest's power button; again, and QEMU is told to quit. What
needs root is known from the plan: without root, qlaunch asks for it through
sudo (or pkexec on a desktop); QEMU itself always runs as you.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from qlaunch.cli.common import add_profile_arguments, load, plan_for, refuse_faults
from qlaunch.cli.main import tell
from qlaunch.cli.text import say
from qlaunch.errors import Problem, UsageError

if TYPE_CHECKING:
    from qlaunch.plan.model import Plan
    from qlaunch.profile.read import Loaded

EXAMPLE = """\
example:
  qlaunch run win7.toml
  qlaunch run win7 --detach                 it outlives the terminal
  qlaunch run win7.toml --set cpu.cores=4   once, without editing the profile
  qlaunch run win7.toml --install           from its CD, without the card
  qlaunch run win7.toml --dry-run           the same as qlaunch plan
exit codes: 0 ended well, 1 failed and the host is as it was, 2 the profile is
at fault, 3 something is not given back (what, and what to type, is told)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROFILE, --detach, --guest-status, --dry-run."""
    add_profile_arguments(parser, facts=False)
    parser.add_argument(
        "--detach", action="store_true",
        help="return once the guest runs; with systemd it is the service qlaunch-NAME",
    )
    parser.add_argument(
        "--guest-status", action="store_true",
        help="exit as QEMU did, with what the guest wrote to its isa-debug-exit (n is 2n+1), "
        "unless something is not given back",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan, change nothing")
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what goes wrong")


def run(args: argparse.Namespace) -> int:
    """Carry the plan out."""
    if args.detach and args.guest_status:
        raise UsageError(Problem(
            "--guest-status waits for the guest's end, and --detach does not", "qlaunch run",
            hint="leave one of them out",
        ))
    if args.dry_run:
        from qlaunch.cli.plan import run as show_plan

        args.facts = args.diff = None
        args.json = False
        return show_plan(args)
    import os

    from qlaunch.cli.elevate import become_root, refuse_what_pkexec_would

    loaded = load(args)
    if os.geteuid() != 0:
        plan = plan_for(loaded, None, holders=not loaded.profile.hooks.before)[1]
        if _left_behind(plan):
            from qlaunch.cli.elevate import run_as_root

            say(f"{plan.name} may have left something behind, which root puts back first")
            run_as_root(plan.name)
        warnings = refuse_faults(plan, loaded)
        if plan.needs_root:
            tell(warnings)
            refuse_what_pkexec_would(loaded)
            become_root(plan)
    return _detached(args, loaded) if args.detach else _session(args, loaded, None)


def _left_behind(plan: Plan) -> bool:
    """Whether what stands against a user's plan may be this machine's own, of a run by root that
    died: a slice in its place, which root puts back before it plans."""
    import os

    faults = [p.where for p in plan.problems if p.severity == "error"]
    if not faults or not all(where.startswith("vgpu[") for where in faults):
        return False
    from qlaunch.plan.paths import runtime_root

    return os.path.lexists(f"{runtime_root(True, 0, '')}/{plan.name}")


def _detached(args: argparse.Namespace, loaded: Loaded) -> int:
    """As a service of systemd's where it can be one, else as a child of its own session."""
    from qlaunch.cli import early, unit

    def session(running: Callable[[], None]) -> int:
        return _session(args, loaded, running)

    if unit.is_service():
        return unit.reported(session)
    manager = unit.manager()
    if not manager:
        from qlaunch.cli.detach import detached

        return detached(loaded.profile.name, session)
    if early.helper is not None:
        early.helper.close()  # the service has its own
    return unit.in_unit(loaded.profile.name, manager)


def _started() -> None:
    """The guest runs: a service has been started."""
    import os

    if "NOTIFY_SOCKET" in os.environ:
        from qlaunch.cli.notify import notify

        notify("READY=1\nSTATUS=the guest runs")


def _session(
    args: argparse.Namespace, loaded: Loaded, running: Callable[[], None] | None
) -> int:
    from qlaunch.cli import early
    from qlaunch.cli.base import runtime_base
    from qlaunch.run.session import Session
    from qlaunch.run.story import Story

    told: list[Problem] = []

    def make_plan(holders: bool) -> Plan:
        plan = plan_for(loaded, None, holders=holders)[1]
        fresh = [p for p in refuse_faults(plan, loaded) if p not in told]
        tell(fresh)
        told.extend(fresh)
        return plan

    story = Story(quiet=args.quiet)
    try:
        session = Session(
            loaded, make_plan, story, base=runtime_base(), terminal=running is None,
            on_running=running or _started, net=early.helper,
        )
        code = session.run()
        return session.status if args.guest_status and session.status else code
    finally:
        story.close()

