"""A running machine by its name, and a talk with its monitor: what `media`, `qmp`, `console` share.

Whoever the machine belongs to has its sockets, even when root started it: none of these verbs asks
for root again then. The monitor is left at once, because QEMU talks to one client at a time.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine, machine_name, machines_of_root
from qlaunch.errors import HostError, Problem
from qlaunch.plan.paths import runtime_root
from qlaunch.run.info import Info, is_alive, machine_names, read_info

if TYPE_CHECKING:
    from qlaunch.plan.model import Account
    from qlaunch.vm.monitor import Monitor

T = TypeVar("T")


class Reached(NamedTuple):
    """A running machine as far as this user sees it; `info` is None when root keeps it."""

    name: str
    socket_dir: str
    info: Info | None

    @property
    def account(self) -> Account | None:
        """Whom QEMU runs as, where that is somebody else than we are."""
        return self.info.account if self.info else None

    @property
    def state_dir(self) -> str:
        """Where its log is; "" when that is not told to us."""
        return self.info.state_dir if self.info else ""


def reach(text: str) -> Reached:
    """The machine. Raises HostError when it does not run."""
    base, name = runtime_base(), machine_name(text)
    if name not in machine_names(base) and name in machines_of_root():
        uid = os.geteuid()
        return Reached(name, f"{runtime_root(True, uid, '')}/.by-uid/{uid}/{name}", None)
    name = known_machine(base, text)
    info = read_info(f"{base}/{name}")
    if info is None or not is_alive(f"{base}/{name}"):
        raise HostError(Problem(f"{name} does not run", hint=f"qlaunch status '{name}'"))
    return Reached(name, info.socket_dir, info)


def talk(machine: Reached, work: Callable[[Monitor], Awaitable[T]]) -> T:
    """What `work` returns of a connected monitor, which is closed then. Raises HostError."""
    from qlaunch.run.talk import connect
    from qlaunch.vm.loop import asyncio

    async def all_of_it() -> T:
        async with await connect(machine) as monitor:
            return await work(monitor)

    try:
        return asyncio.run(all_of_it())
    except HostError as error:
        error.of(machine.name)
        raise


def ask(
    machine: Reached, command: str, arguments: dict[str, object] | None = None
) -> object:
    """One QMP command's answer. Raises HostError."""
    return talk(machine, lambda monitor: monitor.execute(command, arguments))
