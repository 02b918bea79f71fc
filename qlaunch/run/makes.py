"""Files that a machine keeps and that are made at its first start: disks, UEFI variables.

They are the user's own from then on: nothing here is undone, and half a file is none.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable

from qlaunch.children import start_child
from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Plan, PlannedMake
from qlaunch.run.account import as_account
from qlaunch.run.locks import make_directory, remedy
from qlaunch.vm.spawn import clean_environment, confinement

EVERY = 2.0  # seconds between two lines of progress


def make_files(plan: Plan, say: Callable[[str], None]) -> None:
    """Make what is missing, as the account that QEMU runs as.

    Raises HostError naming the key; nothing half made stays then, what was finished does.
    """
    for make in plan.makes:
        with as_account(plan):
            if os.path.lexists(make.path):
                continue
            if make.path.startswith(f"{plan.state_dir}/"):
                make_directory(os.path.dirname(make.path))  # noqa: PTH120
        say(f"making {make.what}: {make.path}")
        _make(plan, make, say)


def _make(plan: Plan, make: PlannedMake, say: Callable[[str], None]) -> None:
    new = f"{make.path}.new"
    own = plan.account is None or plan.state_dir.startswith("/var/lib/qlaunch/")
    account = None if own else plan.account
    try:
        with tempfile.TemporaryFile() as words:
            pid = start_child(
                make.argv, fds={1: words.fileno(), 2: words.fileno()},
                setup=confinement(account, None, None), cwd="/",
                env=clean_environment(os.environ, {}, account),
            )
            code = _wait(pid, make, say)
            words.seek(0)
            said = words.read(2000).decode(errors="replace").strip()
        if code:
            from shlex import join

            raise HostError(
                Problem(f"{make.what} could not be made", make.key, found=said or f"exit {code}",
                        hint=f"try it by hand: {join(make.argv)}")
            )
        with as_account(plan):
            os.rename(new, make.path)  # noqa: PTH104
    except OSError as error:
        raise HostError(
            Problem(f"{make.what} could not be made: {error.strerror}", make.key,
                    hint=remedy(error, make.path))
        ) from None
    finally:
        with as_account(plan), contextlib.suppress(OSError):
            os.unlink(new)  # noqa: PTH108


def _wait(pid: int, make: PlannedMake, say: Callable[[str], None]) -> int:
    """The exit code; after an exception (Ctrl-C) the tool has been ended too."""
    start = told = time.monotonic()
    try:
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
            if time.monotonic() - told > EVERY:
                told = time.monotonic()
                say(f"still making {make.what}: {told - start:.0f} s")
    except BaseException:
        with contextlib.suppress(OSError):
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        raise
