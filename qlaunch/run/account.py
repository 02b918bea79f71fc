"""Doing things as the account that QEMU runs as: files in its home, hooks of its profile.

Root never follows a user's own directories as root: a link there could lead anywhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from qlaunch.children import Setup, start_child
from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Account
from qlaunch.vm.spawn import clean_environment, confinement


class Owned(Protocol):
    """A plan, or the info of a machine."""

    @property
    def account(self) -> Account | None: ...
    @property
    def state_dir(self) -> str: ...


@contextlib.contextmanager
def as_account(what: Owned) -> Iterator[None]:
    """Within the block, files are opened and made as the owner of the state directory."""
    account = what.account
    if account is None or what.state_dir.startswith("/var/lib/qlaunch/") or os.geteuid() != 0:
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


def run_hooks(
    hooks: Sequence[Sequence[str]], account: Account | None, trusted: bool,
    say: Callable[[str], None],
) -> None:
    """Run each to its end, in order; as `account` unless the profile is root's own.

    Raises HostError naming the first that fails.
    """
    who = None if trusted or os.geteuid() != 0 else account
    setup: list[Setup] = confinement(who, None, None)
    for words in hooks:
        say(f"hook: {' '.join(words)}")
        pid = start_child(
            words, fds={1: 2, 2: 2}, setup=setup, cwd="/",
            env=clean_environment(os.environ, {}, who),
        )
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            raise HostError(
                Problem("a hook failed", where="hooks", found=f"{words[0]} ended with {code}")
            )
