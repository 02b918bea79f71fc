"""asyncio for this room, without OpenSSL, and the two waits that all of it is made of.

asyncio and qemu.qmp import ssl although no socket here is encrypted: 4.5 MiB of resident memory in
a process that lives as long as the guest. Both work in a Python built without ssl, so that is what
they are shown while they are imported. Import asyncio from here, before anything else does.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Coroutine, Iterator
from types import ModuleType
from typing import Any

from qlaunch.vm.process import Exit, QemuProcess


@contextlib.contextmanager
def without_ssl() -> Iterator[None]:
    """Imports in the block see an ssl module with nothing in it; later ones see the real one."""
    if "ssl" in sys.modules:
        yield
        return
    empty = ModuleType("ssl")
    empty.SSLContext = empty.SSLSocket = object  # type: ignore[attr-defined]
    empty.SSLWantReadError = empty.SSLSyscallError = OSError  # type: ignore[attr-defined]
    sys.modules["ssl"] = empty
    try:
        yield
    finally:
        del sys.modules["ssl"]


if "asyncio" not in sys.modules and "ssl" not in sys.modules:
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio as asyncio
    finally:
        del sys.modules["ssl"]
else:
    import asyncio as asyncio


async def exited(process: QemuProcess) -> Exit:
    """Wait until the process has ended, and reap it. Any number may wait at once."""
    if (ended := process.poll()) is not None:
        return ended
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    own = os.dup(process.pidfd)  # a loop has one reader an fd
    loop.add_reader(own, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(own)
        os.close(own)
    return process.poll() or Exit()


async def first(timeout: float | None, *waits: Coroutine[Any, Any, object]) -> int | None:
    """The index of the wait that ended first (the lowest of several), or None after `timeout`.

    The others have been cancelled and are over when this returns, however it returns.
    """
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return next((i for i, task in enumerate(tasks) if task.done()), None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
