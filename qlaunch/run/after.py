"""The profile's hooks for the end of a run: once the devices are back, and while its journal is
still there, so that `recover` runs them when the launcher is killed before their end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from qlaunch.errors import QlaunchError
from qlaunch.plan.model import Account
from qlaunch.run.account import run_hooks
from qlaunch.run.journal import HooksRun, Journal


def run_after(
    hooks: Sequence[Sequence[str]], account: Account | None, trusted: bool,
    say: Callable[[str], None], journal: Journal | None,
) -> None:
    """Run them, and note that they were. One that fails is told, and keeps nothing back."""
    if not hooks:
        return
    try:
        run_hooks(hooks, account, trusted, say)
    except QlaunchError as error:
        say(str(error))
    if journal is not None:
        with contextlib.suppress(OSError):
            journal.write(HooksRun())
