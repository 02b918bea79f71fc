"""Files of shared memory, for guests and programs of the host that look at the same pages.

The file is memory for as long as it is there, so it goes when the machine does; one that
somebody had made before (systemd-tmpfiles, say) is theirs.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import MakeShared

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class MakeSharedHandler:
    """A file below /dev/shm."""

    def capture(self, host: Host, step: MakeShared) -> Captured:
        """Whether it is there. Raises HostError for one that cannot be used."""
        path = _path(host, step)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return {"there": False}
        problem = _unusable(found, step)
        if problem:
            raise HostError(
                Problem("this file cannot be the guest's shared memory", str(path), found=problem,
                        hint=f"when nothing uses it: rm '{step.path}'; machines of root's that "
                        "share it need the same [qemu] user")
            )
        return {"there": True}

    def apply(self, host: Host, step: MakeShared, captured: Captured) -> None:
        """Make it, all pages given. Raises HostError when there is no memory for it."""
        if captured["there"] or not step.ours:
            return
        path = _path(host, step)
        try:
            fd = os.open(path, _NEW, step.mode)
            try:
                captured["ino"] = os.fstat(fd).st_ino
                os.fchown(fd, step.uid, step.gid)
                os.fchmod(fd, step.mode)  # the umask was taken off it
                os.posix_fallocate(fd, 0, step.size)
            finally:
                os.close(fd)
        except OSError as error:
            if "ino" in captured:  # what holds half of the memory
                with suppress(OSError):
                    path.unlink()
            raise HostError(
                Problem(f"the shared memory cannot be made: {error.strerror}", str(path),
                        hint=f"df -h '{step.path.rpartition('/')[0]}' shows what room there is")
            ) from error

    def undo(self, host: Host, step: MakeShared, captured: Captured) -> str | None:
        """Remove what was made; another's of that name stays."""
        path = _path(host, step)
        if captured["there"]:
            return None
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        if found.st_ino != captured.get("ino", found.st_ino) or _unusable(found, step):
            return None
        if not step.ours and found.st_uid != step.uid:  # the path is the profile's: any user's word
            return None
        try:
            path.unlink()
        except OSError as error:
            raise HostError(
                Problem("the shared memory cannot be removed", str(path), found=str(error),
                        hint=f"by hand: sudo rm '{path}'")
            ) from error
        return None


def _path(host: Host, step: MakeShared) -> Path:
    return host.path(step.path.lstrip("/"))


def _unusable(found: os.stat_result, step: MakeShared) -> str:
    """Why the file is not one for QEMU to map; an empty one is grown by QEMU."""
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    if found.st_uid not in (0, step.uid):
        return f"it belongs to uid {found.st_uid}"
    if 0 < found.st_size < step.size:
        return f"it has {found.st_size} bytes, and {step.size} are wanted"
    return ""
