"""Stages 2 to 4 of a run: the name, the logs, the devices. A dead owner's journal is recovered
before anything of it is taken over, and what it left stays its own until then."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qlaunch.errors import HostError, Problem
from qlaunch.facts.own_uid import is_own, keep_uid
from qlaunch.run.account import as_account
from qlaunch.run.cleanup import clean_up, end_helpers
from qlaunch.run.info import LOCK, SUPERVISOR, has_qemu, try_supervise
from qlaunch.run.journal import FILE_NAME
from qlaunch.run.locks import HostLock, make_directory, remedy, try_lock
from qlaunch.run.story import LOG, QEMU_LOG, Story, open_log
from qlaunch.run.terminal import current

if TYPE_CHECKING:
    from qlaunch.host.handler import Host
    from qlaunch.plan.model import Plan
    from qlaunch.run.claims import Claim


def claim_name(base: str, name: str, stack: ExitStack, story: Story, host: Host) -> int:
    """The machine's lock, for QEMU to inherit; what a dead run of that name left is put back.

    Raises HostError when the machine runs, NotRestoredError when its left-overs cannot be put back.
    """
    runtime = f"{base}/{name}"
    make_directory(base, 0o711 if os.geteuid() == 0 else 0o700)
    make_directory(runtime)
    # In this order, as `recover` does; and with both held nobody takes us for a QEMU left alone.
    try:
        supervisor = try_supervise(runtime)
    except HostError:
        _unmake(runtime)
        raise
    if supervisor is None:
        raise _runs(name, runtime)
    stack.callback(os.close, supervisor)
    was_there = os.path.lexists(f"{runtime}/{LOCK}")
    try:
        lock = try_lock(f"{runtime}/{LOCK}")
    except HostError:
        _unmake(runtime, SUPERVISOR)
        raise
    if lock is None:
        raise _runs(name, runtime)
    stack.callback(os.close, lock)
    if was_there and has_qemu(runtime):  # unlocked, and running all the same
        raise _runs(name, runtime)
    end_helpers(runtime)
    if os.path.lexists(f"{runtime}/{FILE_NAME}"):
        from qlaunch.run.recover import recover_dead

        story.say(f"{name} left something behind; putting it back first")
        with current().undivided("what an earlier run had left is put back"):
            recover_dead(base, name, story.say, host)
    stack.callback(clean_up, base, name)
    return lock


def _unmake(runtime: str, *made: str) -> None:
    """A directory that cannot be locked is not left behind; one that holds more stays."""
    with contextlib.suppress(OSError):
        for entry in made:
            os.unlink(f"{runtime}/{entry}")  # noqa: PTH108
        os.rmdir(runtime)  # noqa: PTH106


def _runs(name: str, runtime: str) -> HostError:
    return HostError(
        Problem(f"{name} is running", where=runtime,
                hint=f"qlaunch status '{name}'; qlaunch stop '{name}'")
    )


def open_logs(plan: Plan, stack: ExitStack, story: Story) -> int:
    """The story goes on in the machine's log; returns the fd of QEMU's. Raises HostError."""
    with as_account(plan):
        make_directory(plan.state_dir)
        try:
            story.to_file(open_log(f"{plan.state_dir}/{LOG}"))
            qemu_log = open_log(f"{plan.state_dir}/{QEMU_LOG}")
        except OSError as error:
            raise HostError(
                Problem(f"the log cannot be written: {error.strerror}", where=plan.state_dir,
                        hint=remedy(error, plan.state_dir))
            ) from None
    stack.callback(os.close, qemu_log)
    if plan.account is not None and is_own(plan.account.uid):
        _keep_uid(plan.account.uid, plan.state_dir, story)
    return qemu_log


def make_socket_directory(plan: Plan) -> None:
    """For the account that QEMU runs as; run.json is there, by which `clean_up` finds it. Raises
    HostError."""
    if plan.socket_dir != plan.runtime_dir and plan.account is not None:
        owner = (plan.account.uid, plan.account.gid)
        parent = os.path.dirname(plan.socket_dir)  # noqa: PTH120
        make_directory(os.path.dirname(parent), 0o711)  # noqa: PTH120
        make_directory(parent, 0o700, owner)
        make_directory(plan.socket_dir, 0o700, owner)


def _keep_uid(uid: int, state: str, story: Story) -> None:
    try:
        keep_uid(uid, state)
    except OSError as error:  # a full disk keeps no guest from running
        story.say(f"warning: {state}: the machine's uid {uid} is not noted: {error.strerror}")
        story.say(f"hint: {remedy(error, state)}")


def claim_devices(
    base: str, plan: Plan, claims: list[Claim], story: Story, host: Host,
    make_plan: Callable[[bool], Plan],
) -> Plan:
    """Fill `claims` with the plan's devices, all or none; a dead owner is recovered first. Returns
    the plan, which is another one when another start was quicker to claim a slice that it chose,
    and the host has more of that kind.

    Raises HostError for a device that is in use, NotRestoredError when a dead owner's cannot be
    put back; what is in `claims` then is still named after that owner.
    """
    if not _claimed(plan):
        return plan
    from qlaunch.run.claims import Owner, sign_claims, take_claims
    from qlaunch.run.recover import recover_dead

    owner = Owner(plan.name, os.getpid(), time.time())
    with HostLock(base, story.say):
        while True:
            try:
                claims += take_claims(base, owner, _claimed(plan))
                break
            except HostError:
                other = make_plan(not plan.profile.hooks.before) if plan.vgpus else plan
                if _claimed(other) == _claimed(plan):
                    raise
                plan = other
    for left_by in sorted({c.left_by for c in claims if c.left_by}):
        story.say(f"{left_by} died with a device of this machine; putting it back first")
        with current().undivided(f"what {left_by} had left is put back"):
            recover_dead(base, left_by, story.say, host, only_if_dead=True)
    claims[:] = sign_claims(claims, owner)
    return plan


def _claimed(plan: Plan) -> list[str]:
    return [f.of for f in plan.fds if f.kind == "claim"]
