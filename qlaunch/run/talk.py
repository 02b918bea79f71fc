"""A word with a running machine through its user's own monitor; the other one is its launcher's."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

from qlaunch.errors import HostError, Problem
from qlaunch.run.account import Owned, as_account
from qlaunch.run.info import QMP, Info, is_alive, read_info
from qlaunch.vm.sockets import connect_unix

if TYPE_CHECKING:
    from qlaunch.vm.monitor import Monitor

ANSWER = 10.0  # seconds until QEMU has said hello


def live_info(base: str, name: str) -> Info:
    """What is known of a machine that runs. Raises HostError when it does not."""
    info = read_info(f"{base}/{name}")
    if info is None or not is_alive(f"{base}/{name}"):
        raise HostError(Problem(f"{name} does not run", hint=f"qlaunch status '{name}'"))
    return info


class Reachable(Owned, Protocol):
    """An Info, or what is known of a machine whose Info is root's to read."""

    @property
    def socket_dir(self) -> str: ...


def plug(machine: Reachable, path: str) -> socket.socket:
    """A connected, non-blocking socket, with the rights of the machine's user. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with as_account(machine):
            connect_unix(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


async def connect(machine: Reachable, timeout: float = ANSWER) -> Monitor:
    """Raises HostError when the monitor cannot be had."""
    from qlaunch.vm.monitor import Monitor

    path = f"{machine.socket_dir}/{QMP}"
    try:
        return await Monitor.connect(plug(machine, path), timeout=timeout)
    except (HostError, OSError) as error:
        said = error.problems[0].message if isinstance(error, HostError) else str(error.strerror)
        raise HostError(
            Problem("the machine's monitor does not answer", where=path, found=said,
                    hint="one program at a time can have it: end the one that has it open")
        ) from None
