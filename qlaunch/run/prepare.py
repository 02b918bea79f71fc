"""Stages 2 to 4 of a run: the name, the logs, the devices. A dead owner's journal is recovered
before anything of it is taken over, and what it left stays its own until then."""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from qlaunch.errors import HostError, Problem
from qlaunch.plan.steps import TakeDevice
from qlaunch.run.account import as_account
from qlaunch.run.cleanup import clean_up
from qlaunch.run.info import LOCK, SUPERVISOR, try_supervise
from qlaunch.run.journal import FILE_NAME
from qlaunch.run.locks import HostLock, make_directory, remedy, try_lock
from qlaunch.run.story import LOG, QEMU_LOG, Story

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
    try:
        lock = try_lock(f"{runtime}/{LOCK}")
    except HostError:
        _unmake(runtime, SUPERVISOR)
        raise
    if lock is None:
        raise _runs(name, runtime)
    stack.callback(os.close, lock)
    if os.path.lexists(f"{runtime}/{FILE_NAME}"):
        from qlaunch.run.recover import recover_dead

        story.say(f"{name} left something behind; putting it back first")
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
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            story.to_file(os.open(f"{plan.state_dir}/{LOG}", flags, 0o600))
            qemu_log = os.open(f"{plan.state_dir}/{QEMU_LOG}", flags, 0o600)
        except OSError as error:
            raise HostError(
                Problem(f"the log cannot be written: {error.strerror}", where=plan.state_dir,
                        hint=remedy(error, plan.state_dir))
            ) from None
    stack.callback(os.close, qemu_log)
    if plan.socket_dir != plan.runtime_dir and plan.account is not None:
        owner = (plan.account.uid, plan.account.gid)
        parent = os.path.dirname(plan.socket_dir)  # noqa: PTH120
        make_directory(os.path.dirname(parent), 0o711)  # noqa: PTH120
        make_directory(parent, 0o700, owner)
        make_directory(plan.socket_dir, 0o700, owner)
    return qemu_log


def claim_devices(
    base: str, plan: Plan, claims: list[Claim], story: Story, host: Host
) -> None:
    """Fill `claims` with the plan's devices, all or none; a dead owner is recovered first.

    Raises HostError for a device that is in use, NotRestoredError when a dead owner's cannot be
    put back; what is in `claims` then is still named after that owner.
    """
    devices = [s.address for s in plan.steps if isinstance(s, TakeDevice)]
    if not devices:
        return
    from qlaunch.run.claims import Owner, sign_claims, take_claims
    from qlaunch.run.recover import recover_dead

    owner = Owner(plan.name, os.getpid(), time.time())
    with HostLock(base, story.say):
        claims += take_claims(base, owner, devices)
    for left_by in sorted({c.left_by for c in claims if c.left_by}):
        story.say(f"{left_by} died with a device of this machine; putting it back first")
        recover_dead(base, left_by, story.say, host, only_if_dead=True)
    claims[:] = sign_claims(claims, owner)
