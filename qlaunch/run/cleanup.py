"""Take away a machine's runtime files once nothing is left to recover."""

from __future__ import annotations

import contextlib
import os

from qlaunch.run.info import CONTROL, FILE, LOCK, SUPERVISOR, read_info
from qlaunch.run.journal import FILE_NAME


def clean_up(base: str, name: str) -> None:
    """Remove the runtime directory and the sockets; call it with the machine's lock held.

    A journal that is still there keeps its directory, for `recover`. Never raises.
    """
    runtime = f"{base}/{name}"
    if os.path.lexists(f"{runtime}/{FILE_NAME}"):
        return
    info = read_info(runtime)
    if info is not None and info.socket_dir != runtime and info.socket_dir.startswith(f"{base}/."):
        import shutil

        shutil.rmtree(info.socket_dir, ignore_errors=True)
    for entry in (CONTROL, "qmp.sock", "spice.sock", "vnc.sock", FILE, f"{FILE}.new"):
        with contextlib.suppress(OSError):
            os.unlink(f"{runtime}/{entry}")  # noqa: PTH108
    # The locks last: until they are gone nobody else can begin here.
    for entry in (SUPERVISOR, LOCK):
        with contextlib.suppress(OSError):
            os.unlink(f"{runtime}/{entry}")  # noqa: PTH108
    with contextlib.suppress(OSError):
        os.rmdir(runtime)  # noqa: PTH106
