"""Was QEMU killed for want of memory? The kernel sends the same SIGKILL as anybody, but says why.

The counter of the machine's own control group tells it for sure. Without one, the kernel's log
does where it may be read, and has the pid that we know (not from within a container).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

from qlaunch.errors import HostError, Problem
from qlaunch.run.info import was_killed
from qlaunch.values import Size

if TYPE_CHECKING:
    from qlaunch.vm.process import QemuProcess
    from qlaunch.vm.watch import End

_RECORD = 8192  # bytes of one of /dev/kmsg's records at most (PRINTK_MESSAGE_MAX and its prefix)
_RECORDS = 1 << 16
MOUNT = "/sys/fs/cgroup"
KILLED = "killed for want of memory"


def explained(
    live: Callable[[], End], process: QemuProcess, cgroup: str, runtime: str = ""
) -> End:
    """Call `live`; the reason of a death goes into the end's `detail`, or before what it raises.

    One that was asked for (by `stop --force`, in the directory `runtime`) is a stop.
    """
    try:
        end = live()
    except HostError as error:
        reason = want_of_memory(process.pid, cgroup) if process.poll() is not None else ""
        if not reason:
            raise
        hint = "raise limits.memory, or give the guest less: machine.memory"
        raise HostError([Problem(f"QEMU was {reason}", hint=hint), *error.problems]) from None
    if end.reason != "died":
        return end
    killed = end.exit.signal == SIGKILL
    if killed and was_killed(runtime, process.pid):
        return end._replace(reason="stopped", rungs=("kill",))
    return end._replace(detail=want_of_memory(process.pid, cgroup) if killed else "")


def want_of_memory(pid: int, cgroup: str) -> str:
    """What is known of it, in words; "" when nothing is. `cgroup` is the plan's. Never raises."""
    if _killed_in(cgroup):
        limit = _number(f"{MOUNT}{cgroup}/memory.max")
        told = f", limits.memory is {Size(limit)}" if limit else ""
        return f"{KILLED} in its own cgroup{told}"
    return f"{KILLED}, as the kernel's log says" if _in_kernel_log(pid) else ""


def _killed_in(cgroup: str) -> bool:
    """memory.events counts those below as well; the file is there only in a limited group."""
    if not cgroup:
        return False
    try:
        lines = Path(f"{MOUNT}{cgroup}/memory.events").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("oom_kill ") and not line.endswith(" 0") for line in lines)


def _number(path: str) -> int:
    """Of a file that may say "max", or not be there: 0 then."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


def _in_kernel_log(pid: int) -> bool:
    """mm/oom_kill.c: "Out of memory: Killed process 7 (qemu-system-x86) total-vm:…"."""
    said = re.compile(rb"[Oo]ut of memory.*: Killed process %d \(qemu" % pid)
    with contextlib.suppress(OSError):
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for _ in range(_RECORDS):
                try:
                    if said.search(os.read(fd, _RECORD)):
                        return True
                except BrokenPipeError:  # the record was overwritten while we read
                    continue
        finally:
            os.close(fd)
    return False
