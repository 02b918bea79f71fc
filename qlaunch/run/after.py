"""The profile's hooks for the end of a run: once the devices are back, and while its journal is
still there, so that `recover` runs them when the launcher is killed before their end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from qlaunch.errors import Problem, QlaunchError
from qlaunch.plan.model import Account
from qlaunch.run.account import run_hooks
from qlaunch.run.journal import HooksRun, Journal
from qlaunch.run.terminal import current


def run_after(
    hooks: Sequence[Sequence[str]], account: Account | None, trusted: bool,
    say: Callable[[str], None], journal: Journal | None,
) -> None:
    """Run them, and note that they were. One that fails is told, and keeps nothing back; so is one
    that does not end, which a request to stop ends."""
    if not hooks:
        return
    try:
        with current().ending("the hook is being ended"):
            run_hooks(hooks, account, trusted, say, kind="after")
    except QlaunchError as error:
        say(str(error))
    except KeyboardInterrupt as error:
        say(str(Problem("interrupted between two hooks", "hooks.after", found=str(error),
                        hint="qlaunch logs NAME tells which were run")))
    if journal is not None:
        with contextlib.suppress(OSError):
            journal.write(HooksRun())
