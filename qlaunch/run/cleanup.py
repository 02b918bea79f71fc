"""Take away a machine's runtime files once nothing is left to recover."""

from __future__ import annotations

import contextlib
import os
import stat

from qlaunch.run.info import FILE, LOCK, SUPERVISOR, read_info
from qlaunch.run.journal import FILE_NAME


def clean_up(base: str, name: str) -> list[str]:
    """Remove the runtime directory and all sockets; call it with both of its locks held.

    A journal that is still there keeps its directory, for `recover`. Never raises. Returns the
    names of files that are none of ours and keep the directory.
    """
    runtime = f"{base}/{name}"
    if os.path.lexists(f"{runtime}/{FILE_NAME}"):
        return []
    info = read_info(runtime)
    if info is not None and info.socket_dir != runtime and info.socket_dir.startswith(f"{base}/."):
        import shutil

        shutil.rmtree(info.socket_dir, ignore_errors=True)
    # The locks last, and the supervisor's after the other: whoever begins here takes it first.
    for entry in (*_sockets(runtime), FILE, f"{FILE}.new", LOCK, SUPERVISOR):
        with contextlib.suppress(OSError):
            os.unlink(f"{runtime}/{entry}")  # noqa: PTH108
    with contextlib.suppress(OSError):
        os.rmdir(runtime)  # noqa: PTH106
        return []
    with contextlib.suppress(OSError):
        return sorted(set(os.listdir(runtime)) - {LOCK, SUPERVISOR})  # noqa: PTH208
    return []


def _sockets(runtime: str) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(runtime) as entries:
        return [e.name for e in entries if stat.S_ISSOCK(e.stat(follow_symlinks=False).st_mode)]
    return []
