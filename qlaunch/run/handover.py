"""What QEMU inherits: sockets, taps and files opened by us, under the plan's fixed numbers.

All of it is freed by the kernel with the processes that hold it, so none of it is a host step.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from qlaunch.errors import HostError, Problem
from qlaunch.host.tap import open_tap
from qlaunch.plan.model import Plan, PlannedNic
from qlaunch.run.account import as_account
from qlaunch.run.info import CONTROL, QMP
from qlaunch.vm.sockets import listen_unix

if TYPE_CHECKING:
    from qlaunch.run.claims import Claim


class Handover:
    """Open things by planned number; `taps` maps interface names to their bridges."""

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}
        self.taps: dict[str, str] = {}
        self.terminal: socket.socket | None = None  # our end of the serial port on stdio
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
    paths = {"control": f"{plan.runtime_dir}/{CONTROL}", "qmp": f"{plan.socket_dir}/{QMP}"}
    for planned in plan.fds:
        if planned.kind == "lock":
            handover.lend(planned.number, lock)
        elif planned.kind == "claim":
            handover.lend(planned.number, claims[planned.of])
        elif planned.kind in paths:
            account = plan.account if planned.kind == "qmp" else None
            listening = listen_unix(paths[planned.kind], account=account)
            handover.keep(planned.number, listening.detach())
        elif planned.kind == "file":
            handover.keep(planned.number, _open_file(planned.of, planned.writable))
        elif planned.kind == "terminal":
            handover.terminal, theirs = socket.socketpair()
            handover.keep(planned.number, theirs.detach())
        elif planned.kind == "serial":
            with as_account(plan):
                handover.keep(planned.number, _append_to(planned.of))
    for nic in plan.nics:
        if nic.kind == "tap":
            _open_nic(handover, nic)


def _open_nic(handover: Handover, nic: PlannedNic) -> None:
    name, fds = open_tap(nic.ifname, nic.queues, vnet_hdr=True)
    for number, fd in zip(nic.tap_fds, fds, strict=True):
        handover.keep(number, fd)
    for number in nic.vhost_fds:
        handover.keep(number, _open_file("/dev/vhost-net", writable=True))
    if nic.bridge:
        handover.taps[name] = nic.bridge


def _append_to(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise HostError(
            Problem("the serial port's file cannot be written", where=path,
                    found=error.strerror or str(error))
        ) from None


def _open_file(path: str, writable: bool) -> int:
    try:
        return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            Problem("the file cannot be opened for the guest", where=path,
                    found=error.strerror or str(error))
        ) from None
