"""Take away a machine's runtime files once nothing is left to recover."""

from __future__ import annotations

import contextlib
import os
import stat

from qlaunch.facts.own_uid import is_own
from qlaunch.run.info import FILE, KILLED, LOCK, SUPERVISOR, read_info
from qlaunch.run.journal import FILE_NAME

HELPERS = "helpers"  # pid and start time of each helper, a line each
UNPLUGGED = "unplugged"  # ids of USB devices that `detach` took, a line each


def clean_up(base: str, name: str) -> list[str]:
    """Remove the runtime directory and all sockets; call it with both of its locks held.

    A journal that is still there keeps its directory, for `recover`. Never raises. Returns the
    names of files that are none of ours and keep the directory.
    """
    runtime = f"{base}/{name}"
    end_helpers(runtime)
    if os.path.lexists(f"{runtime}/{FILE_NAME}"):
        return []
    info = read_info(runtime)
    if info is not None and info.socket_dir != runtime and info.socket_dir.startswith(f"{base}/."):
        import shutil

        shutil.rmtree(info.socket_dir, ignore_errors=True)
        if info.account is not None and is_own(info.account.uid):
            with contextlib.suppress(OSError):  # no other machine's is in it
                os.rmdir(os.path.dirname(info.socket_dir))  # noqa: PTH106, PTH120
    # The locks last, and the supervisor's after the other: whoever begins here takes it first.
    ours = (HELPERS, UNPLUGGED, f"{UNPLUGGED}.new", KILLED, FILE, f"{FILE}.new", LOCK, SUPERVISOR)
    for entry in (*_sockets(runtime), *ours):
        with contextlib.suppress(OSError):
            os.unlink(f"{runtime}/{entry}")  # noqa: PTH108
    with contextlib.suppress(OSError):
        os.rmdir(runtime)  # noqa: PTH106
        return []
    with contextlib.suppress(OSError):
        return sorted(set(os.listdir(runtime)) - {LOCK, SUPERVISOR})  # noqa: PTH208
    return []


def end_helpers(runtime: str) -> None:
    """End the helpers of a machine whose launcher and QEMU are dead: its locks are held by us."""
    if os.path.lexists(f"{runtime}/{HELPERS}"):
        from qlaunch.vm.helpers import end_left

        end_left(f"{runtime}/{HELPERS}")


def _sockets(runtime: str) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(runtime) as entries:
        return [e.name for e in entries if stat.S_ISSOCK(e.stat(follow_symlinks=False).st_mode)]
    return []
