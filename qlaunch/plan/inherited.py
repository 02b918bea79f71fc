"""What QEMU inherits from the launcher, as part of the plan."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

FdKind = Literal[
    "lock", "control", "qmp", "tap", "vhost", "serial", "terminal", "file", "claim", "helper",
    "listen", "overlay", "secret", "awake",
]


class PlannedFd(Struct, frozen=True, kw_only=True):
    """A file descriptor that QEMU inherits under a fixed number, so that plan and run agree."""

    number: int
    kind: FdKind
    of: str = ""  # socket or file path, tap's key, device address, helper's id
    writable: bool = True
    direct: bool = False  # O_DIRECT, as the block node says: QEMU 9.1 takes no other fd for it
    device: str | None = None  # the block device (major:minor) that the path has to lead to
