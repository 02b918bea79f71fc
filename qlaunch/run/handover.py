"""What QEMU inherits: sockets, taps and files opened by us, under the plan's fixed numbers.

All of it is freed by the kernel with the processes that hold it, so none of it is a host step.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qlaunch.errors import HostError, Problem
from qlaunch.host.tap import ask_bridge_helper, open_macvtap, open_tap
from qlaunch.plan.inherited import PlannedFd
from qlaunch.plan.model import Plan, PlannedNic
from qlaunch.run.account import as_account, being
from qlaunch.run.info import CONTROL, QMP
from qlaunch.run.locks import remedy
from qlaunch.vm.sockets import listen_unix

if TYPE_CHECKING:
    from qlaunch.run.claims import Claim


class Handover:
    """Open things by planned number; `taps` are those to be plugged in: name, bridge, MTU."""

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}
        self.taps: list[tuple[str, str, int | None]] = []
        self.terminal: socket.socket | None = None  # our end of the serial port on stdio
        self.awake: int | None = None  # ours to close once all is given back
        self._stack = ExitStack()

    def keep(self, number: int, fd: int) -> None:
        """An fd that is ours to close once QEMU has it."""
        self._stack.callback(os.close, fd)
        self.fds[number] = fd

    def lend(self, number: int, fd: int) -> None:
        """An fd that stays open with us too (locks)."""
        self.fds[number] = fd

    def close(self) -> None:
        """Close our copies: QEMU has its own, or was never started."""
        self._stack.close()
        self.fds.clear()


@contextmanager
def opened(plan: Plan, lock: int, claims: list[Claim]) -> Iterator[Handover]:
    """Open everything the plan hands over. Raises HostError; nothing stays open then."""
    handover = Handover()
    try:
        _open_all(plan, handover, lock, {c.device: c.fd for c in claims})
        yield handover
    finally:
        handover.close()


def _open_all(plan: Plan, handover: Handover, lock: int, claims: dict[str, int]) -> None:
    for planned in plan.fds:
        if planned.kind == "lock":
            handover.lend(planned.number, lock)
        elif planned.kind == "claim":
            handover.lend(planned.number, claims[planned.of])
        elif planned.kind in ("control", "qmp", "listen"):
            handover.keep(planned.number, _listening(plan, planned))
        elif planned.kind == "file":
            handover.keep(planned.number, open_file(
                planned.of, planned.writable, direct=planned.direct, device=planned.device
            ))
        elif planned.kind == "terminal":
            handover.terminal, theirs = socket.socketpair()
            handover.keep(planned.number, theirs.detach())
        elif planned.kind in ("serial", "secret"):
            open_it = _append_to if planned.kind == "serial" else _secret
            with as_account(plan):
                handover.keep(planned.number, open_it(planned.of))
    for nic in plan.nics:
        if nic.kind in ("tap", "macvtap"):
            _open_nic(handover, nic)
    _open_overlays(plan, handover)
    _keep_awake(plan, handover)  # last: from here on it is the session's to close


def _listening(plan: Plan, planned: PlannedFd) -> int:
    """Our own monitor's socket is the launcher's alone; the others are for the user as well."""
    if planned.kind == "control":
        return listen_unix(f"{plan.runtime_dir}/{CONTROL}").detach()
    path = f"{plan.socket_dir}/{QMP}" if planned.kind == "qmp" else planned.of
    with being(plan.account):  # whose directory it is, and who could put a link in its way
        return listen_unix(path, account=plan.account).detach()


def _keep_awake(plan: Plan, handover: Handover) -> None:
    for planned in plan.fds:
        if planned.kind == "awake":
            from qlaunch.run.awake import keep_awake

            handover.awake = keep_awake(plan.name)
            if handover.awake is not None:
                handover.lend(planned.number, handover.awake)


def _open_overlays(plan: Plan, handover: Handover) -> None:
    for disk in plan.disks:
        if disk.overlay is not None:
            from qlaunch.run.overlay import make_overlay

            handover.keep(disk.overlay, make_overlay(plan, disk))


def _open_nic(handover: Handover, nic: PlannedNic) -> None:
    if nic.kind == "macvtap":
        name, fds = str(nic.ifname), open_macvtap(str(nic.ifname), nic.queues)
    elif nic.bridge_helper:
        name, fds = "", [ask_bridge_helper(nic.bridge_helper, str(nic.bridge))]
    else:
        name, fds = open_tap(nic.ifname, nic.queues, vnet_hdr=True)
    for number, fd in zip(nic.tap_fds, fds, strict=True):
        handover.keep(number, fd)
    for number in nic.vhost_fds:
        handover.keep(number, open_file("/dev/vhost-net", writable=True))
    if nic.bridge and not nic.bridge_helper:
        handover.taps.append((name, nic.bridge, nic.mtu))


def _secret(path: str) -> int:
    """The first line of a file, in memory: QEMU would take its newline for part of the password."""
    try:
        with Path(path).open("rb") as file:
            line = file.readline(4096).rstrip(b"\r\n")
    except OSError as error:
        raise HostError(
            Problem("the password cannot be read", where=path, found=error.strerror or str(error),
                    hint=remedy(error, path))
        ) from None
    if not line:
        raise HostError(Problem("there is no password in this file's first line", where=path,
                                hint="write it there with an editor, and nothing else"))
    fd = os.memfd_create("secret", os.MFD_CLOEXEC)
    os.write(fd, line)
    return fd


def _append_to(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise HostError(
            Problem("the serial port's file cannot be written", where=path,
                    found=error.strerror or str(error), hint=remedy(error, path))
        ) from None


def _way_on(error: OSError, path: str) -> str:
    if error.errno == errno.EINVAL:  # open(2): the file system has no O_DIRECT
        return 'cache = "writeback" for this disk: its file system cannot bypass the page cache'
    if path == "/dev/vhost-net" and error.errno in (errno.ENOENT, errno.ENODEV):
        return "sudo modprobe vhost_net"
    return remedy(error, path)


def open_file(
    path: str, writable: bool, *, direct: bool = False, device: str | None = None
) -> int:
    """For QEMU or a helper of it; with `device` it has to be that block device (major:minor), as
    the plan has seen it: a link in the path may lead elsewhere by now. Raises HostError."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_DIRECT if direct else 0)
    try:
        if device is not None:
            return _open_device(path, flags | os.O_CLOEXEC, device)
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            Problem("the file cannot be opened for the guest", where=path,
                    found=error.strerror or str(error), hint=_way_on(error, path))
        ) from None


def _open_device(path: str, flags: int, device: str) -> int:
    """Look first, and open what was looked at: an O_PATH fd does nothing to what it leads to."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        if not stat.S_ISBLK(status.st_mode) or number != device:
            raise HostError(
                Problem("this is not the block device that was checked before", where=path,
                        found=number if stat.S_ISBLK(status.st_mode) else "no block device",
                        allowed=device or "a device that /sys/dev/block has",
                        hint="somebody changed a link or a node meanwhile: start again")
            )
        return os.open(f"/proc/self/fd/{handle}", flags)
    finally:
        os.close(handle)
