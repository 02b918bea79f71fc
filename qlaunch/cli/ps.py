"""List machines: those that run, and those that left something behind.

As root all of root's; otherwise your own, and those that root runs for you.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

from msgspec import Struct, structs

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import machines_of_root
from qlaunch.cli.text import columns, write, write_json
from qlaunch.errors import EXIT_OK, HostError
from qlaunch.run.info import (
    QMP,
    find_qemu,
    find_supervisor,
    is_alive,
    is_supervised,
    machine_names,
    read_info,
)
from qlaunch.run.journal import FILE_NAME, Stage, read_journal

EXAMPLE = """\
example:
  qlaunch ps
  qlaunch ps --json | jq -r '.[].name'
states: running; starting; giving back; paused, or another of QEMU's words for
a guest that stands still (qlaunch status NAME says what to do); unsupervised
(its launcher is gone: qlaunch recover NAME); left over (both are gone: qlaunch
recover NAME gives its devices back); root's (started through root: status,
stop and recover ask for root again)
"""
STARTING, GIVING_BACK = "starting", "giving back"
AFTER_START = ("9", "10")  # the stages of a run (run/session.py) in which QEMU may be gone


class Machine(Struct, frozen=True, kw_only=True):
    """A row."""

    name: str
    state: str
    qemu_pid: int | None
    launcher_pid: int | None
    started: float | None
    devices: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="for machines")


def machines(base: str) -> list[Machine]:
    """All of them, by name; then those that root runs for this user, as far as can be seen."""
    return _asked(base, [machine(base, name) for name in machine_names(base)]) + [
        Machine(name=name, state="root's", qemu_pid=None, launcher_pid=None, started=None,
                devices=()) for name in machines_of_root()
    ]


def machine(base: str, name: str) -> Machine:
    """One machine's row."""
    runtime = f"{base}/{name}"
    info = read_info(runtime)
    alive, supervised = is_alive(runtime), is_supervised(runtime)
    pid = find_qemu(runtime) if alive else None
    launcher = find_supervisor(runtime) if supervised else None
    if not alive:
        state = "left over"
    elif not supervised:
        state = "unsupervised"
    else:
        state = "running" if pid else without_qemu(runtime, launcher)
    return Machine(
        name=name, state=state, qemu_pid=pid,
        launcher_pid=launcher,
        started=info.started if info else None, devices=info.devices if info else (),
    )


def without_qemu(runtime: str, launcher: int | None) -> str:
    """What a launcher does that has no QEMU: once its guest ran, or when the journal is another's,
    which it has found, it gives back."""
    try:
        contents = read_journal(Path(runtime, FILE_NAME))
    except (HostError, OSError):  # none yet, or none any more
        return STARTING
    if contents.header is not None and launcher not in (None, contents.header.pid):
        return GIVING_BACK
    stages = [record.stage for record in contents.records if isinstance(record, Stage)]
    return GIVING_BACK if stages and stages[-1] in AFTER_START else STARTING


def _asked(base: str, found: list[Machine]) -> list[Machine]:
    """Those that run, in QEMU's words where the guest does not (`paused`); its monitor may be
    another program's just now, then nothing is said of that."""
    infos = {m.name: read_info(f"{base}/{m.name}") for m in found if m.state == "running"}
    if not any(infos.values()):
        return found
    from qlaunch.run.talk import plug
    from qlaunch.vm.glance import close_all, glance

    monitors = {}
    for name, info in infos.items():
        with contextlib.suppress(OSError):
            if info is not None:
                monitors[name] = plug(info, f"{info.socket_dir}/{QMP}")
    try:
        words = dict(zip(monitors, glance([*monitors.values()]), strict=True))
    finally:
        close_all([*monitors.values()])
    return [structs.replace(m, state=words.get(m.name) or m.state) for m in found]


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    found = machines(runtime_base())
    if args.json:
        write_json(found)
    elif not found:
        write("no machine runs\n")
    else:
        write(columns([_row(m) for m in found], ("NAME", "STATE", "PID", "UP", "DEVICES"),
                      fold=True))
    return EXIT_OK


def _row(one: Machine) -> tuple[str, ...]:
    up = duration(time.time() - one.started) if one.started else "-"
    return one.name, one.state, str(one.qemu_pid or "-"), up, " ".join(one.devices) or "-"


def duration(seconds: float) -> str:
    """`3d 4h`, `2h 5m`, `7m`, `12s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m" if minutes else f"{rest}s"
