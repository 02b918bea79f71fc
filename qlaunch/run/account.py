"""Doing things as the account that QEMU runs as: files in its home, hooks of its profile.

Root never follows a user's own directories as root: a link there could lead anywhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from qlaunch.children import Setup, start_child
from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Account, Plan
from qlaunch.vm.spawn import clean_environment, confinement

GOING = 5.0  # seconds that an interrupted hook gets


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
    a machine with limits does not come to."""
    group = f"/sys/fs/cgroup{plan.cgroup}"
    if plan.profile.limits is None and not os.path.isdir(group):  # noqa: PTH112
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
    say: Callable[[str], None],
) -> None:
    """Run each to its end, in order; as `account` unless the profile is root's own. An interrupt
    ends the one that runs.

    Raises HostError naming the first that fails.
    """
    who = None if trusted or os.geteuid() != 0 else account
    setup: list[Setup] = confinement(who, None, None, powers=True)
    for words in hooks:
        say(f"hook: {' '.join(words)}")
        pid = start_child(
            words, fds={1: 2, 2: 2}, setup=setup, cwd="/",
            env=clean_environment(os.environ, {}, who),
        )
        try:
            _, status = os.waitpid(pid, 0)
        except BaseException:  # interrupted: it does not go on without the run it is for
            _end(pid)
            raise
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            raise HostError(
                Problem("a hook failed", where="hooks", found=f"{words[0]} ended with {code}",
                        hint=f"try it by hand: {' '.join(words)}")
            )


def _end(pid: int) -> None:
    """A hook and all that it has started."""
    os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + GOING
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    os.waitpid(pid, 0)
