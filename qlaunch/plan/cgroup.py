"""A control group of the machine's own for QEMU and its helpers, with limits when they are asked.

Without limits it lies in our own group, and who cannot make it does without. A limited group has
to lie where its controllers are on, and a group that holds processes cannot have them on for the
groups in it: so it is mostly beside ours, in the slice or scope that ours is in.
"""

from __future__ import annotations

from qlaunch.facts.cgroup_model import CgroupLevel
from qlaunch.plan.draft import Draft
from qlaunch.plan.steps import MakeCgroup


def plan_cgroup(draft: Draft) -> None:
    """The step that makes it, and its place."""
    levels, limits = draft.facts.cgroup, draft.profile.limits
    asked = {
        name: int(value) for name in ("memory", "pids")
        if limits is not None and (value := getattr(limits, name)) is not None
    }
    if levels is None:
        return
    if not asked:
        if levels and levels[0].domain and _usable(draft, levels[0]):
            _make(draft, levels[0], {}, (), "rule: a machine has a cgroup of its own")
        return
    fit = [level for level in levels if _fits(level, set(asked))]
    usable = [level for level in fit if _usable(draft, level)]
    if usable:
        missing = tuple(name for name in asked if name not in usable[0].on)
        where = f"limits.{next(iter(asked))}"
        if not usable[0].mine:  # as root, for a user who has to ask for it
            draft.decided.setdefault("root_for", where)
        _make(draft, usable[0], asked, missing, where)
    else:
        _say_why_not(draft, levels, fit, list(asked))


def _fits(level: CgroupLevel, asked: set[str]) -> bool:
    """Whether groups in it are limited, or can be: at the top, controllers can be turned on."""
    return level.domain and asked <= set((*level.on, *level.has) if level.top else level.on)


def _usable(draft: Draft, level: CgroupLevel) -> bool:
    invoker = draft.facts.invoker
    return level.root if invoker is not None and invoker.root else level.mine


def _make(
    draft: Draft, level: CgroupLevel, asked: dict[str, int], missing: tuple[str, ...], why: str
) -> None:
    path = f"{level.path}/qlaunch-{draft.profile.name}"
    draft.decided["cgroup"] = path
    draft.last_steps.append(MakeCgroup(path=path, enable=missing, why=why, **asked))


def _say_why_not(
    draft: Draft, levels: tuple[CgroupLevel, ...], fit: list[CgroupLevel], asked: list[str]
) -> None:
    where = f"limits.{asked[0]}"
    invoker = draft.facts.invoker
    if not levels:
        draft.problem(
            "this host's control groups cannot limit a machine", where,
            found="no unified hierarchy (cgroup v2) at /sys/fs/cgroup",
            hint="start the host with systemd.unified_cgroup_hierarchy=1, or leave the limits out",
        )
    elif not fit:
        gone = [name for name in asked if not any(_fits(level, {name}) for level in levels)]
        draft.problem(
            f"this host's control groups do not limit {' and '.join(gone or asked)}", where,
            found=f"not on in {levels[-1].path or '/sys/fs/cgroup'} or below",
            hint="cgroup_disable=memory on the kernel's command line and a hierarchy of v1 take "
            "them away; a container has those that it is given",
        )
    elif invoker is not None and not invoker.root and any(level.root for level in fit):
        draft.decided.setdefault("root_for", where)
    else:
        draft.problem(
            "the control groups are read-only here", where, found=f"/sys/fs/cgroup{fit[0].path}",
            hint="a container has to be given them writable, or set the limit itself",
        )
