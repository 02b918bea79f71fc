"""`detach` and `attach` of a host USB device: the guest is not asked, as at a real port.

Whoever watches the machine plugs its USB devices in again when they come back (vm/replug.py); the
file `unplugged` in the runtime directory names those that it leaves alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from qlaunch.argv.cards import device_add
from qlaunch.argv.usb import host_option
from qlaunch.errors import HostError, Problem
from qlaunch.host.handler import Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.plugs import PlannedUsb
from qlaunch.plan.steps import LendUsb, Step
from qlaunch.run.beside import pluggable, read_unplugged
from qlaunch.run.cleanup import UNPLUGGED
from qlaunch.run.engine import Engine
from qlaunch.run.info import Info
from qlaunch.run.journal import Intent
from qlaunch.run.plugging import open_running, with_monitor
from qlaunch.vm.monitor import Monitor, QmpError
from qlaunch.vm.replug import attach, detach, read_attached
from qlaunch.vm.unplug import plugged_in

Say = Callable[[str], None]


def detach_usbs(base: str, info: Info, usbs: Sequence[PlannedUsb], say: Say, host: Host) -> None:
    """Have these out of the guest, their interfaces back on the host's drivers, until `attach`.

    Raises HostError, NotRestoredError.
    """
    for usb in usbs:
        note_unplugged(info.runtime_dir, usb.id, out=True)
        with_monitor(info, lambda monitor, usb=usb: _out(monitor, usb))  # type: ignore[misc]
        with open_running(base, info.name, say) as (journal, records):
            outcome = Engine.resume(
                host, journal, HANDLERS, records, only=lends(usb)
            ).undo_all()
        for sentence in outcome.sentences or (f"{pluggable(usb).label} is out of the guest",):
            say(sentence)
        outcome.check()


def attach_usbs(base: str, info: Info, usbs: Sequence[PlannedUsb], say: Say, host: Host) -> None:
    """Plug these into the guest. Raises HostError when one is not plugged into the host, or QEMU
    refuses it."""
    for usb in usbs:
        if usb.id in with_monitor(info, plugged_in):
            note_unplugged(info.runtime_dir, usb.id, out=False)
            say(f"the guest has {pluggable(usb).label} already")
            continue
        node = "" if usb.sought else _node(usb)
        with open_running(base, info.name, say) as (journal, records):
            mine = lends(usb)
            engine = Engine.resume(host, journal, HANDLERS, records, only=mine)
            steps = dict.fromkeys(
                r.step for r in records if isinstance(r, Intent) and mine(r.step))
            engine.apply([step for step in steps if step not in engine.pending])
        try:
            with_monitor(info, lambda m, usb=usb, node=node: _in(m, usb, node))  # type: ignore[misc]
        except QmpError as error:
            raise HostError(
                Problem(f"{pluggable(usb).label} could not be attached", found=error.desc,
                        hint=f"qlaunch logs '{info.name}' may tell more; then try again")
            ) from None
        note_unplugged(info.runtime_dir, usb.id, out=False)
        say(f"the guest has {pluggable(usb).label}")


async def _out(monitor: Monitor, usb: PlannedUsb) -> None:
    await detach(monitor, pluggable(usb), await read_attached(monitor, pluggable(usb)))
    if usb.id in await plugged_in(monitor):
        raise HostError(Problem("QEMU keeps the USB device", where=usb.key,
                                hint="qlaunch monitor NAME 'info usb' shows it; then try again"))


async def _in(monitor: Monitor, usb: PlannedUsb, node: str) -> None:
    if usb.sought:
        await monitor.execute("device_add", device_add(host_option(usb)))
    else:
        await attach(monitor, pluggable(usb), node)


def _node(usb: PlannedUsb) -> str:
    node = pluggable(usb).find("")
    if not node:
        raise HostError(Problem(f"{pluggable(usb).label} is not plugged into this host",
                                where=usb.key, hint="lsusb lists what is"))
    return node


def lends(usb: PlannedUsb) -> Callable[[Step], bool]:
    """Whether a step is this device's."""
    return lambda step: isinstance(step, LendUsb) and (step.name, step.id, step.serial) == (
        usb.name, usb.ident, usb.serial)


def note_unplugged(runtime_dir: str, ident: str, *, out: bool) -> None:
    """Add or take away one id. Raises HostError when it cannot be written."""
    now = read_unplugged(runtime_dir)
    wanted = now | {ident} if out else now - {ident}
    path = Path(runtime_dir, UNPLUGGED)
    try:
        if wanted:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(f"{path}.new", flags, 0o600), "w", encoding="utf-8") as file:
                file.write("\n".join(sorted(wanted)) + "\n")
            path.with_name(f"{UNPLUGGED}.new").replace(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    except OSError as error:
        raise HostError(
            Problem(f"the file cannot be written: {error.strerror}", where=str(path),
                    hint="df -h shows full disks")
        ) from None
