"""Take away a machine's runtime files once nothing is left to recover."""

from __future__ import annotations

import contextlib
import os
import stat

from qlaunch.facts.own_uid import is_own
from qlaunch.plan.model import Account
from qlaunch.plan.paths import sockets_of
from qlaunch.run.account import being
from qlaunch.run.info import FILE, KILLED, LOCK, SUPERVISOR, read_info
from qlaunch.run.journal import FILE_NAME
from qlaunch.run.locks import open_own
from qlaunch.run.noted import QEMU

HELPERS = "helpers"  # pid and start time of each helper, a line each
UNPLUGGED = "unplugged"  # ids of USB devices that `detach` took, a line each


def clean_up(base: str, name: str) -> list[str]:
    """Remove the runtime directory and all sockets; call it with both of its locks held.

    A journal that is still there keeps its directory, for `recover`, and so does a directory that
    is not ours. Never raises. Returns the names of files that are none of ours and keep it.
    """
    runtime = f"{base}/{name}"
    end_helpers(runtime)
    if os.path.lexists(f"{runtime}/{FILE_NAME}") or not _is_own(runtime):
        return []
    info = read_info(runtime)
    if info is not None and info.account is not None:
        sockets = sockets_of(base, info.account.uid, name)
        if info.socket_dir == sockets:  # and nowhere else, whatever the file says
            _remove_sockets(sockets, info.account)
    # The locks last, and the supervisor's after the other: whoever begins here takes it first.
    ours = (HELPERS, UNPLUGGED, f"{UNPLUGGED}.new", KILLED, QEMU, FILE, f"{FILE}.new")
    for entry in (*_sockets(runtime), *ours, LOCK, SUPERVISOR):
        with contextlib.suppress(OSError):
            os.unlink(f"{runtime}/{entry}")  # noqa: PTH108
    with contextlib.suppress(OSError):
        os.rmdir(runtime)  # noqa: PTH106
        return []
    with contextlib.suppress(OSError):
        return sorted(set(os.listdir(runtime)) - {LOCK, SUPERVISOR})  # noqa: PTH208
    return []


def end_helpers(runtime: str) -> None:
    """End the helpers of a machine whose launcher and QEMU are dead: its locks are held by us.

    Only our own notes in our own directory are believed: whoever they name gets signals.
    """
    if not os.path.lexists(f"{runtime}/{HELPERS}") or not _is_own(runtime):
        return
    with contextlib.suppress(OSError), os.fdopen(open_own(f"{runtime}/{HELPERS}"), "rb") as file:
        from qlaunch.vm.helpers import end_left

        end_left(file.read())


def _is_own(runtime: str) -> bool:
    """Whether it is a directory, no link to one, that nobody else could write to."""
    try:
        found = os.lstat(runtime)
    except OSError:
        return False
    return (stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            and not found.st_mode & 0o022)


def _remove_sockets(directory: str, account: Account) -> None:
    """As the account whose directory it is, and who could have put anything in it: links that lead
    elsewhere, or directories in one another without end."""
    import shutil

    with being(account), contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(directory, ignore_errors=True)
    if is_own(account.uid):
        with contextlib.suppress(OSError):  # no other machine's is in it
            os.rmdir(os.path.dirname(directory))  # noqa: PTH106, PTH120


def _sockets(runtime: str) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(runtime) as entries:
        return [e.name for e in entries if stat.S_ISSOCK(e.stat(follow_symlinks=False).st_mode)]
    return []
