"""Doing things as the account that QEMU runs as: files in its home, hooks of its profile.

Root never follows a user's own directories as root: a link there could lead anywhere.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, Protocol

from qlaunch.children import Setup, held_signals, start_child
from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Account, Plan
from qlaunch.vm.spawn import clean_environment, confinement

GOING = 5.0  # seconds that an interrupted hook gets
TOLD = 1.0  # seconds after which a hook is told to be waited for


class Owned(Protocol):
    """A plan, or the info of a machine."""

    @property
    def account(self) -> Account | None: ...
    @property
    def state_dir(self) -> str: ...


@contextlib.contextmanager
def as_account(what: Owned) -> Iterator[None]:
    """Within the block, files are opened and made as the owner of the state directory."""
    account = None if what.state_dir.startswith("/var/lib/qlaunch/") else what.account
    with being(account):
        yield


@contextlib.contextmanager
def being(account: Account | None) -> Iterator[None]:
    """Within the block root is this account, as far as files are concerned."""
    if account is None or os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups(account.groups)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def group_of(plan: Plan) -> str:
    """The control group that QEMU and its helpers enter; "" for one that could not be made, which
    a machine with limits or CPUs of its own does not come to."""
    group = f"/sys/fs/cgroup{plan.cgroup}"
    needed = plan.profile.limits is not None or plan.profile.cpu.isolate
    if not needed and not os.path.isdir(group):  # noqa: PTH112
        return ""
    return plan.cgroup


def give_over(path: str, uid: int, gid: int) -> None:
    """A directory that a machine keeps, made by the account it had before, becomes `uid`'s with all
    that was that account's in it; the directory last. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # not there yet; or no directory, which whoever needs it says
        return
    try:
        before = os.fstat(fd).st_uid
        if before not in (0, uid):
            _give_over(fd, before, uid, gid)
    finally:
        os.close(fd)


def _give_over(folder: int, before: int, uid: int, gid: int) -> None:
    for name in os.listdir(folder):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # a link, a socket
            fd = os.open(name, flags, dir_fd=folder)
            try:
                found = os.fstat(fd)
                if stat.S_ISDIR(found.st_mode) and found.st_uid == before:
                    _give_over(fd, before, uid, gid)
                elif stat.S_ISREG(found.st_mode) and (found.st_uid, found.st_nlink) == (before, 1):
                    os.fchown(fd, uid, gid)
            finally:
                os.close(fd)
    os.fchown(folder, uid, gid)


def run_hooks(
    hooks: Sequence[Sequence[str]], account: Account | None, trusted: bool,
    say: Callable[[str], None], *, kind: Literal["before", "after"] = "before",
) -> None:
    """Run each to its end, in order; as `account` unless the profile is root's own. An interrupt
    ends the one that runs, and so does the end of this process: its journal has them run again.

    Raises HostError naming the first that fails; one of the end that was interrupted has failed.
    """
    from qlaunch.vm.powers import end_with_parent  # now: the account may not read our files

    who = None if trusted or os.geteuid() != 0 else account
    setup: list[Setup] = confinement(who, None, None, powers=True)
    # Not what sudo makes of it: the kernel forgets it there, prctl(2).
    setup.append(Setup("prctl(PR_SET_PDEATHSIG)",
                       partial(end_with_parent, os.getpid(), signal.SIGTERM)))
    for words in hooks:
        say(f"hook: {' '.join(words)}")
        pid = 0
        try:
            with held_signals():
                pid = start_child(
                    words, fds={1: 2, 2: 2}, setup=setup, cwd="/",
                    env=clean_environment(os.environ, {}, who),
                )
            text = f"waiting for the hook [{kind}] {' '.join(words)} (pid {pid}); Ctrl-C ends it"
            code = _wait(pid, text, say)
        except BaseException as error:  # it does not go on without the run it is for
            ended = not pid or _end(pid)
            if kind == "before" or not pid or not isinstance(error, KeyboardInterrupt):
                raise
            raise HostError(_interrupted(words, pid, str(error), ended)) from None
        if code != 0:
            raise HostError(
                Problem("a hook failed", where=f"hooks.{kind}",
                        found=f"{words[0]} ended with {code}",
                        hint=f"try it by hand: {' '.join(words)}")
            )


def _interrupted(words: Sequence[str], pid: int, by: str, ended: bool) -> Problem:
    return Problem(
        f"a hook was ended by {by}" if ended else "a hook cannot be ended, and is left alone",
        where="hooks.after", found=f"{' '.join(words)} (pid {pid})",
        hint=f"run it by hand: {' '.join(words)}" if ended else f"sudo kill -9 {pid}",
    )


def _wait(pid: int, text: str, say: Callable[[str], None]) -> int:
    """Its exit code; `text` is told when that takes a while."""
    if not _has_ended(pid, TOLD):
        say(text)
        _has_ended(pid, None)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end(pid: int) -> bool:
    """A hook and all that it has started; whether it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, number)
        except PermissionError:  # it has become another account's
            return False
        if _has_ended(pid, GOING):
            os.waitpid(pid, 0)
            return True
    return False


def _has_ended(pid: int, seconds: float | None) -> bool:
    fd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(None if seconds is None else seconds * 1000))
    finally:
        os.close(fd)
