"""Taps: made, plugged into a bridge that is there, and nothing else, so the kernel's own calls do.

A tap is opened through /dev/net/tun and is not persistent: it vanishes, from its bridge too, with
the last process that has it open. Plugging it in takes five ioctls and 0.1 ms; pyroute2, which
makes bridges, would take longer to import than QEMU takes to start.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from qlaunch.errors import HostError, Problem

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
SIOCGIFMTU, SIOCSIFMTU = 0x8921, 0x8922
SIOCGIFINDEX = 0x8933
SIOCBRADDIF = 0x89A2
IFF_UP = 0x0001
MAX_MTU = 65521  # drivers/net/tun.c: 65535 less an Ethernet header
_FLAGS = struct.Struct("16sH22x")  # struct ifreq with ifr_flags
_NUMBER = struct.Struct("16si20x")  # with ifr_ifindex or ifr_mtu

_TAP_HINTS = {
    errno.EBUSY: "another process has this tap open",
    errno.EPERM: "opening a new tap needs root; an existing one must belong to you",
    errno.EINVAL: "a link of this name is no tap, or was made with another number of queues",
    errno.ENOENT: "modprobe tun",
    errno.ENODEV: "modprobe tun",
}
_BRIDGE_FAULTS = {errno.ENODEV: "does not exist", errno.EOPNOTSUPP: "is no bridge"}


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


def attach_tap(ifname: str, bridge: str, mtu: int | None = None) -> None:
    """Plug a tap into a bridge and bring it up. Raises HostError when the bridge is not there.

    Without `mtu` the tap gets the bridge's: a smaller one would lower the whole bridge's
    (net/bridge/br_if.c br_mtu_auto_adjust).
    """
    tap, master = ifname.encode(), bridge.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        try:
            index = _get(door, SIOCGIFINDEX, tap)
        except OSError as error:
            raise HostError(Problem("the tap is gone", ifname, error.strerror or "")) from None
        try:
            size = _get(door, SIOCGIFMTU, master) if mtu is None else mtu
            fcntl.ioctl(door, SIOCSIFMTU, _NUMBER.pack(tap, min(size, MAX_MTU)))
            fcntl.ioctl(door, SIOCBRADDIF, _NUMBER.pack(master, index))
            flags = _FLAGS.unpack(fcntl.ioctl(door, SIOCGIFFLAGS, _FLAGS.pack(tap, 0)))[1]
            fcntl.ioctl(door, SIOCSIFFLAGS, _FLAGS.pack(tap, flags | IFF_UP))
        except OSError as error:
            raise _no_bridge(error, ifname, bridge) from None


def _get(door: socket.socket, request: int, name: bytes) -> int:
    number: int = _NUMBER.unpack(fcntl.ioctl(door, request, _NUMBER.pack(name, 0)))[1]
    return number


def _no_bridge(error: OSError, ifname: str, bridge: str) -> HostError:
    if fault := _BRIDGE_FAULTS.get(error.errno or 0):
        hint = "make_bridge = true makes it, or: ip link add NAME type bridge"
        return HostError(Problem(f"the bridge {bridge} {fault}", where=bridge, hint=hint))
    hint = "this needs root" if error.errno == errno.EPERM else ""
    found = error.strerror or str(error)
    return HostError(
        Problem(f"{ifname} cannot be plugged in", where=bridge, found=found, hint=hint)
    )
