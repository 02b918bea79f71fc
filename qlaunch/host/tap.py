"""Taps, opened as file descriptors through /dev/net/tun, and macvtaps through /dev/tapN.

Taps are not persistent: one vanishes, from its bridge too, with the last process that has it open.
A library's taps are links, which stay behind when both launcher and QEMU are killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
import time

from qlaunch import children
from qlaunch.errors import HostError, Problem

TUNSETIFF = 0x400454CA
TUNGETIFF = 0x800454D2
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


def open_macvtap(name: str, queues: int, settle: float = 5.0) -> list[int]:
    """Open a macvtap's node, /dev/tap and its link's index, once a queue (drivers/net/tap.c).

    Waits `settle` seconds for the node. The fds are close-on-exec. Raises HostError; nothing is
    open then.
    """
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
    fds: list[int] = []
    try:
        path = f"/dev/tap{socket.if_nametoindex(name)}"
        for _ in range(queues):
            fds.append(_open_node(path, settle))
            fcntl.ioctl(fds[-1], TUNSETIFF, _FLAGS.pack(b"", flags))
            reply = fcntl.ioctl(fds[-1], TUNGETIFF, bytes(_FLAGS.size))
            if _FLAGS.unpack(reply)[0].rstrip(b"\0").decode() != name:
                raise OSError(errno.ENXIO, f"{path} belongs to another link")
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise HostError(
            Problem(
                "the macvtap cannot be opened", where=name, found=error.strerror or str(error),
                hint="its node /dev/tapN is made by devtmpfs; a container may not have it"
                if error.errno == errno.ENOENT else "",
            )
        ) from error
    return fds


def _open_node(path: str, settle: float) -> int:
    end = time.monotonic() + settle
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def ask_bridge_helper(helper: str, bridge: str, patience: float = 10.0) -> int:
    """The fd of a new tap that QEMU's setuid helper has plugged into a bridge, with its headers.

    Run by us, since a sandboxed QEMU may start nothing. Raises HostError with the helper's words.
    """
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with ours, os.fdopen(reader, "rb") as words:
        try:
            with theirs:
                argv = [helper, "--use-vnet", "--fd=3", f"--br={bridge}"]
                pid = children.start_child(argv, fds={3: theirs.fileno(), 2: writer})
        finally:
            os.close(writer)
        ours.settimeout(patience)
        fds: list[int] = []
        try:
            _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if not fds:
            raise HostError(
                Problem(
                    f"QEMU's bridge helper gives no tap on {bridge}", where=helper,
                    found=words.read().decode(errors="replace").strip(),
                    hint=f"allow {bridge} in /etc/qemu/bridge.conf; or start it as root",
                )
            )
        os.set_inheritable(fds[0], False)
    return fds[0]
