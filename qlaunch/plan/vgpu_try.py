"""Planning with a wish granted, on a scratch draft: what goes wrong then, and did not before,
refuses the wish, so that the next one has its turn."""

from __future__ import annotations

from collections.abc import Mapping

from qlaunch.errors import Problem
from qlaunch.plan.cards import plan_cards
from qlaunch.plan.display import plan_display
from qlaunch.plan.draft import Draft
from qlaunch.plan.platform import check_devices
from qlaunch.plan.takeover import plan_takeover
from qlaunch.plan.vgpu_want import Choice
from qlaunch.profile.profile import Profile


def find_fault(
    draft: Draft, profile: Profile, vgpus: Mapping[int, Choice] | None = None
) -> Problem | None:
    """The first error that the draft's own profile and slices do not have; None when all is well.

    `vgpus` are the slices that the machine then has, those of the draft when absent.
    """
    known = _errors(draft, draft.profile, draft.vgpus)
    errors = _errors(draft, profile, draft.vgpus if vgpus is None else vgpus)
    return next((p for p in errors if p not in known), None)


def _errors(draft: Draft, profile: Profile, vgpus: Mapping[int, Choice]) -> list[Problem]:
    """Of the families that have to do with cards, in the order of a plan."""
    from qlaunch.plan.vgpu import plan_vgpus, want_gl

    scratch = Draft(profile, draft.facts, draft.account, draft.uuid)
    scratch.vgpus = dict(vgpus)
    want_gl(scratch)
    plan_cards(scratch)
    plan_display(scratch)
    plan_vgpus(scratch)
    plan_takeover(scratch, scratch.decided["cards"])
    check_devices(scratch, scratch.needs)
    problems = (*scratch.problems, *scratch.slots.problems)
    return [p for p in problems if p.severity == "error"]


def given_whole(draft: Draft, profile: Profile) -> frozenset[str]:
    """Addresses of all that the profile's [[pci]] tables take from the host."""
    if not profile.pci:
        return frozenset()
    scratch = Draft(profile, draft.facts, draft.account, draft.uuid)
    plan_cards(scratch)
    plan_takeover(scratch, scratch.decided["cards"])
    return frozenset(fd.of for fd in scratch.fds if fd.kind == "claim")
