"""The host does not go to sleep while a guest runs that could not survive it.

systemd-inhibit holds logind's lock for as long as its command runs: a `cat` of a pipe whose other
end QEMU has inherited and the launcher keeps until all is given back. So it needs nobody to end
it, whoever is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
from pathlib import Path

from qlaunch.children import start_child
from qlaunch.errors import HostError

LOGIND = Path("/run/systemd/seats")  # logind's own: without it nobody puts the host to sleep
LOST = (
    "warning: the host may go to sleep under this guest: systemd-inhibit was refused\n"
    'hint: systemd-inhibit --what=sleep true says why; [stop] on_host_sleep = "allow" goes without'
)


def keep_awake(name: str) -> int | None:
    """The end of the pipe that QEMU is to have; None where there is no logind to ask."""
    if not LOGIND.is_dir() or shutil.which("systemd-inhibit") is None:
        return None
    words = ["systemd-inhibit", "--what=sleep", "--mode=block", "--who=qlaunch",
             f"--why=the machine {name} runs", "cat"]
    reader, writer = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:  # its child is nobody's to wait for
            code = 1
            with contextlib.suppress(HostError):
                start_child(words, fds={0: reader})
                code = 0
            os._exit(code)
        os.waitpid(pid, 0)
    finally:
        os.close(reader)
    return writer


def is_kept(writer: int) -> bool:
    """Whether anybody still reads: a systemd-inhibit that is refused ends at once."""
    poll = select.poll()
    poll.register(writer, 0)
    return not poll.poll(0)
