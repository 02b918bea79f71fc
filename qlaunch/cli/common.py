"""What verbs with a PROFILE share: its arguments, reading it, facts, the plan, and its faults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from qlaunch.errors import HostError, Problem
from qlaunch.profile.read import Loaded, find_profile, read_profile

if TYPE_CHECKING:
    from qlaunch.facts.model import HostFacts
    from qlaunch.plan.model import Plan


class Made(Struct, frozen=True):
    """A profile, the facts it was planned with, and the plan."""

    loaded: Loaded
    facts: HostFacts
    plan: Plan


def add_profile_arguments(parser: argparse.ArgumentParser, *, facts: bool = True) -> None:
    """PROFILE, --set, --install and --facts."""
    parser.add_argument(
        "profile", metavar="PROFILE",
        help="a file, or a name looked up in ./, ~/.config/qlaunch/ and /etc/qlaunch/",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override one key for this call, e.g. --set cpu.cores=4",
    )
    parser.add_argument(
        "--install", action="store_true",
        help="for the guest's installation: an emulated display in a window, none of the host's "
        "devices, the CD first",
    )
    if facts:
        parser.add_argument(
            "--facts", metavar="FILE",
            help="use this snapshot (qlaunch facts --json) instead of the host",
        )


def load(args: argparse.Namespace) -> Loaded:
    """The profile that the arguments name. Raises ProfileError or UsageError."""
    loaded = read_profile(find_profile(args.profile), args.overrides)
    if not getattr(args, "install", False):
        return loaded
    from qlaunch.plan.install import for_installing

    profile, keys, changes = for_installing(loaded.profile)
    return loaded.changed(profile, keys, "--install", "; ".join(changes) or "nothing to change")


def make(args: argparse.Namespace, *, holders: bool = False) -> Made:
    """Read the profile and the facts it needs, and plan."""
    loaded = load(args)
    return Made(loaded, *plan_for(loaded, getattr(args, "facts", None), holders=holders))


def plan_for(loaded: Loaded, snapshot: str | None, *, holders: bool) -> tuple[HostFacts, Plan]:
    """Facts from the host or a snapshot, and the plan they give."""
    from qlaunch.facts.probe import read_facts, read_snapshot
    from qlaunch.plan.make import make_plan
    from qlaunch.plan.wanted import facts_wanted

    if snapshot is None:
        facts = read_facts(facts_wanted(loaded.profile, holders=holders, trusted=loaded.trusted))
    else:
        from pathlib import Path

        facts = read_snapshot(Path(snapshot))
    profile = loaded.profile
    if loaded.by:
        from qlaunch.plan.install import with_window

        profile = with_window(profile, facts)
    return facts, make_plan(profile, facts)


def located(problems: Sequence[Problem], loaded: Loaded) -> list[Problem]:
    """Key paths become places in the profile: `disk[0].file` → `win7.toml:12: disk[0].file`."""
    placed = []
    for problem in problems:
        origin = loaded.origin(problem.where) if problem.where else ""
        where = f"{origin}: {problem.where}" if origin else problem.where
        placed.append(problem._replace(where=where))
    return placed


def warnings_of(made: Made) -> list[Problem]:
    """All that the plan found, as warnings: for verbs that only show."""
    problems = [*made.loaded.warnings, *located(made.plan.problems, made.loaded)]
    return [p._replace(severity="warning") if p.severity == "error" else p for p in problems]


def quirks_in(made: Made) -> list[Problem]:
    """What is known of the host devices that the profile names."""
    if not made.plan.cards:
        return []
    from qlaunch.plan.quirks import quirk_problems

    return located(quirk_problems(made.plan, made.facts), made.loaded)


def refuse_faults(plan: Plan, loaded: Loaded) -> list[Problem]:
    """Warnings of a plan that can run. Raises HostError with every fault of one that cannot."""
    problems = located(plan.problems, loaded)
    if any(p.severity == "error" for p in problems):
        raise HostError(problems)
    return [*loaded.warnings, *problems]
