"""A control group of the machine's own for QEMU and its helpers, with limits when they are asked.

Without limits it lies in our own group, and who cannot make it does without. A limited group has
to lie where its controllers are on, and a group that holds processes cannot have them on for the
groups in it: so it is mostly beside ours, in the slice or scope that ours is in.

With CPUs of its own (cpu.isolate) it lies at the host's top, beside the groups that leave them. A
group there that systemd has not made is left alone by it, as those of Docker's cgroupfs driver are:
it makes and removes the groups of its units only (systemd.io/CGROUP_DELEGATION).
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
    alone = bool(draft.isolated)
    if not asked and not alone:
        if levels and levels[0].domain and _usable(draft, levels[0]):
            _make(draft, levels[0], {}, (), "rule: a machine has a cgroup of its own")
        return
    fit = [level for level in levels if _fits(level, set(asked), alone=alone)]
    usable = [level for level in fit if _usable(draft, level)]
    where = "cpu.isolate" if alone else f"limits.{next(iter(asked))}"
    if usable:
        missing = tuple(name for name in asked if name not in usable[0].on)
        if not usable[0].mine:  # as root, for a user who has to ask for it
            draft.decided.setdefault("root_for", where)
        _make(draft, usable[0], asked, missing, where)
    else:
        _say_why_not(draft, levels, fit, where, [*asked, *["cpuset"] * alone])


def _fits(level: CgroupLevel, asked: set[str], *, alone: bool) -> bool:
    """Whether groups in it are limited, or can be: at the top, controllers can be turned on."""
    if alone and not (level.top and "cpuset" in level.has):
        return False
    return level.domain and asked <= set((*level.on, *level.has) if level.top else level.on)


def _usable(draft: Draft, level: CgroupLevel) -> bool:
    invoker = draft.facts.invoker
    return level.root if invoker is not None and invoker.root else level.mine


def _make(
    draft: Draft, level: CgroupLevel, asked: dict[str, int], missing: tuple[str, ...], why: str
) -> None:
    path = f"{level.path}/qlaunch-{draft.profile.name}"
    draft.decided["cgroup"] = path
    draft.last_steps.append(MakeCgroup(
        path=path, enable=missing, isolated=bool(draft.isolated), why=why, **asked
    ))


def _say_why_not(
    draft: Draft, levels: tuple[CgroupLevel, ...], fit: list[CgroupLevel], where: str,
    asked: list[str],
) -> None:
    invoker = draft.facts.invoker
    if not levels:
        draft.problem(
            "this host's control groups cannot "
            + ("keep tasks off CPUs" if draft.isolated else "limit a machine"), where,
            found="no unified hierarchy (cgroup v2) at /sys/fs/cgroup",
            hint="start the host with systemd.unified_cgroup_hierarchy=1, or leave "
            f"{'isolate' if draft.isolated else 'the limits'} out",
        )
    elif not fit:
        gone = [name for name in asked
                if not any(_fits(level, {name}, alone=name == "cpuset") for level in levels)]
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
