"""A picture of a machine's screen, by QMP's screendump.

QEMU, confined and another user, opens no file for it: it writes into memory that is handed over
as an fd set, and whoever asked writes the file.
"""

from __future__ import annotations

import contextlib
import os

from qlaunch.errors import HostError, Problem
from qlaunch.vm.monitor import Monitor, QmpError


async def take(
    monitor: Monitor, form: str, device: str | None = None, head: int = 0
) -> bytes:
    """The picture as "png" or "ppm". `device` is an id of `-device`; None: the first screen.

    Raises HostError.
    """
    memory = os.memfd_create("screen", os.MFD_CLOEXEC)
    try:
        # QEMU takes an fd of exactly the access it wants (monitor_fdset_dup_fd_add).
        writing = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            lent = (await monitor.add_fd(writing, "screen"))["fdset-id"]
        finally:
            os.close(writing)
        arguments: dict[str, object] = {"filename": f"/dev/fdset/{lent}", "format": form}
        if device is not None:
            arguments |= {"device": device, "head": head}
        try:
            await monitor.execute("screendump", arguments)
        except QmpError as error:
            raise _refused(error, form) from None
        finally:
            with contextlib.suppress(HostError):
                await monitor.execute("remove-fd", {"fdset-id": lent})
        return _content(memory)
    finally:
        os.close(memory)


def _content(memory: int) -> bytes:
    size = os.fstat(memory).st_size
    chunks = []
    offset = 0
    while offset < size:
        chunks.append(os.pread(memory, size - offset, offset))
        offset += len(chunks[-1])
    return b"".join(chunks)


def _refused(error: QmpError, form: str) -> HostError:
    if "no console" in error.desc or "no surface" in error.desc:
        return HostError(
            Problem("the machine has no screen that QEMU draws", found=error.desc,
                    hint="what a passed-through card shows is on its own connectors; "
                    'an emulated card: display.vga = "std"')
        )
    if "not bound" in error.desc or error.error_class == "DeviceNotFound":
        return HostError(Problem("the machine has no such screen", found=error.desc,
                                 hint="display.heads is how many its card has"))
    if form == "png" and ("png" in error.desc.lower() or "format" in error.desc):
        return HostError(Problem("this QEMU writes no PNG", found=error.desc,
                                 hint="name a file that ends in .ppm"))
    return error
