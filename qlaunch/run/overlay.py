"""The temporary file of a throwaway disk: nobody can name it, and it is gone with the last process
that has it open, whoever is killed. There is nothing to undo and nothing to recover."""

from __future__ import annotations

import fcntl
import os
import tempfile

from qlaunch.children import start_child
from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Plan, PlannedDisk
from qlaunch.run.account import as_account
from qlaunch.run.locks import remedy
from qlaunch.vm.spawn import clean_environment, confinement

_INNER = 3


def make_overlay(plan: Plan, disk: PlannedDisk) -> int:
    """An fd of an empty qcow2 image of the disk's size, in the machine's state directory (the
    runtime directory is memory). Raises HostError."""
    try:
        with as_account(plan), tempfile.TemporaryFile(dir=plan.state_dir) as file:
            fd = os.dup(file.fileno())
    except OSError as error:
        raise HostError(
            Problem(f"no temporary file could be made: {error.strerror}", f"{disk.key}.throwaway",
                    found=plan.state_dir, hint=remedy(error, plan.state_dir))
        ) from None
    direct = next(f.direct for f in plan.fds if f.number == disk.overlay)
    try:
        _format(plan, disk, fd)
        if direct:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError as error:
        os.close(fd)
        raise HostError(
            Problem("the cache mode needs direct I/O, and the temporary file's place has none",
                    f"{disk.key}.cache", found=f"{plan.state_dir}: {error.strerror}",
                    hint="use another cache for this disk")
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _format(plan: Plan, disk: PlannedDisk, fd: int) -> None:
    own = plan.account is None or plan.state_dir.startswith("/var/lib/qlaunch/")
    account = None if own else plan.account
    argv = (plan.qemu_img, "create", "-q", "-f", "qcow2", f"/proc/self/fd/{_INNER}",
            str(disk.capacity))
    with tempfile.TemporaryFile() as words:
        pid = start_child(
            argv, fds={1: words.fileno(), 2: words.fileno(), _INNER: fd},
            setup=confinement(account, None, None), cwd="/",
            env=clean_environment(os.environ, {}, account),
        )
        _, status = os.waitpid(pid, 0)
        words.seek(0)
        said = words.read(2000).decode(errors="replace").strip()
    if code := os.waitstatus_to_exitcode(status):
        raise HostError(
            Problem("the temporary file could not be made", f"{disk.key}.throwaway",
                    found=said or f"{plan.qemu_img}: exit {code}",
                    hint=f"df -h '{plan.state_dir}' shows what room there is")
        )
