"""Taps, opened as file descriptors through /dev/net/tun.

They are not persistent: one vanishes, from its bridge too, with the last process that has it open.
A library's taps are links, which stay behind when both launcher and QEMU are killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from qlaunch.errors import HostError, Problem

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
_FLAGS = struct.Struct("16sH22x")  # struct ifreq with ifr_flags

_TAP_HINTS = {
    errno.EBUSY: "another process has this tap open",
    errno.EPERM: "opening a new tap needs root; an existing one must belong to you",
    errno.EINVAL: "a link of this name is no tap, or was made with another number of queues",
    errno.ENOENT: "modprobe tun",
    errno.ENODEV: "modprobe tun",
}


def open_tap(name: str | None, queues: int, vnet_hdr: bool) -> tuple[str, list[int]]:
    """Open a tap, one fd a queue, and return its name: the kernel's choice when `name` is None.

    The fds are close-on-exec. Raises HostError; nothing is open and no tap is left then.
    """
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0)
    flags |= IFF_MULTI_QUEUE if queues > 1 else 0
    ifname = name or "tap%d"
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            reply = fcntl.ioctl(fds[-1], TUNSETIFF, _FLAGS.pack(ifname.encode(), flags))
            ifname = _FLAGS.unpack(reply)[0].rstrip(b"\0").decode()
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise HostError(
            Problem(
                "the tap cannot be opened", where=name or "", found=error.strerror or "",
                hint=_TAP_HINTS.get(error.errno or 0, ""),
            )
        ) from error
    return ifname, fds
