"""asyncio for this room, without OpenSSL, and the two waits that all of it is made of.

asyncio and qemu.qmp import ssl although no socket here is encrypted: 4.4 MiB of resident memory in
a process that lives as long as the guest. Both run on a Python built without ssl, so that is what
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
def without_ssl(stand_in: ModuleType | None = None) -> Iterator[None]:
    """`import ssl` in the block gives `stand_in` (None: ImportError); later ones the real module.

    Does nothing when ssl is loaded already.
    """
    if "ssl" in sys.modules:
        yield
        return
    sys.modules["ssl"] = stand_in  # type: ignore[assignment]  # None is how a module is refused
    try:
        yield
    finally:
        del sys.modules["ssl"]


with without_ssl():
    import asyncio

__all__ = ["asyncio", "exited", "first", "without_ssl"]


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

    Its exception is raised here. The others have been cancelled, and are over however this ends.
    """
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for index, task in enumerate(tasks):
            if task.done():
                task.result()
                return index
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
