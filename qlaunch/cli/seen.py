"""What QEMU says of its machine at this moment, for `status`: does it run, where are its ports,
where can it be looked at. Told only when the monitor is free: `status` waits for nobody.
"""

from __future__ import annotations

from msgspec import Struct

from qlaunch.cli.reach import Reached
from qlaunch.cli.viewers import WINDOWS
from qlaunch.errors import HostError
from qlaunch.run.info import Info
from qlaunch.run.talk import connect
from qlaunch.vm.attach import Port, read_ports
from qlaunch.vm.viewing import Viewing, read_viewing

PATIENCE = 1.0  # seconds that the monitor gets to answer
NEXT = {  # QEMU's RunState (qapi/run-state.json) → what to type
    "paused": "qlaunch resume '{name}'",
    "suspended": "qlaunch resume '{name}' wakes the guest",
    "io-error": "a disk could not be written: qlaunch logs '{name}', df -h; then qlaunch resume "
    "'{name}'",
    "guest-panicked": "qlaunch reset '{name}'",
    "internal-error": "qlaunch logs '{name}'; qlaunch reset '{name}'",
}


class Seen(Struct, frozen=True):
    """QEMU's word for what it does (`running`, `paused`, …), ports, and what shows it."""

    status: str
    ports: tuple[Port, ...]
    viewing: Viewing

    def lines(self) -> list[str]:
        """A line a port and a display."""
        view = self.viewing
        rows = [(port.id, f"{port.kind} {port.where}".strip()) for port in self.ports]
        rows += [("window", view.window)] * (view.window in WINDOWS)
        rows += [(name, where) for name, where in
                 (("SPICE", view.spice), ("VNC", view.vnc), ("memory", view.memory)) if where]
        return [f"  {name:9} {where}" for name, where in rows]

    def record(self) -> dict[str, object]:
        """For `--json`."""
        return {"status": self.status, "ports": [port._asdict() for port in self.ports],
                **self.viewing._asdict()}


def look(info: Info) -> Seen | None:
    """None when the monitor does not answer."""
    from qlaunch.vm.loop import asyncio

    try:
        return asyncio.run(_seen(Reached(info.name, info.socket_dir, info)))
    except HostError:
        return None


async def _seen(machine: Reached) -> Seen:
    async with await connect(machine, PATIENCE) as monitor:
        status = str((await monitor.execute("query-status"))["status"])
        return Seen(status, tuple(await read_ports(monitor)), await read_viewing(monitor))
