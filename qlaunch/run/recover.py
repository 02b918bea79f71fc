"""Put back what a dead launcher left, from its journal; or watch again a guest it left running."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from qlaunch.errors import EXIT_FAILED, EXIT_OK, HostError, NotRestoredError, Problem
from qlaunch.host.handler import Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import Step
from qlaunch.run.claims import CLAIMS, read_owner
from qlaunch.run.cleanup import clean_up
from qlaunch.run.engine import Engine, Outcome
from qlaunch.run.info import LOCK, SUPERVISOR, Info, find_qemu, is_alive, read_info
from qlaunch.run.journal import (
    FILE_NAME,
    End,
    Record,
    open_journal,
    read_boot_id,
    read_journal,
    read_start_time,
)
from qlaunch.run.locks import HostLock, try_lock

Say = Callable[[str], None]


def recover(base: str, name: str, say: Say) -> int:
    """Recover one machine; returns the exit code.

    A guest that still runs is watched until it ends. Raises HostError when there is nothing of
    that name or a launcher watches it, NotRestoredError when something could not be put back.
    """
    runtime = f"{base}/{name}"
    if not Path(runtime).is_dir():
        raise HostError(
            Problem(f"there is no machine {name} that runs or left something behind",
                    hint="qlaunch ps")
        )
    supervisor = try_lock(f"{runtime}/{SUPERVISOR}")
    if supervisor is None:
        raise HostError(
            Problem(f"{name} is watched by its launcher", hint=f"qlaunch status '{name}'")
        )
    try:
        code = _watch_again(runtime, name, say) if is_alive(runtime) else EXIT_OK
        lock = try_lock(f"{runtime}/{LOCK}")
        if lock is None:
            raise NotRestoredError(
                Problem("QEMU could not be ended; its devices stay with it", where=name,
                        hint=f"qlaunch recover '{name}'")
            )
        try:
            recover_dead(base, name, say, Host())
        finally:
            clean_up(base, name)
            os.close(lock)
        return code
    finally:
        os.close(supervisor)


def _watch_again(runtime: str, name: str, say: Say) -> int:
    """Supervise a QEMU without launcher until it is gone."""
    from qlaunch.run.live import Life, adopt
    from qlaunch.vm.process import QemuProcess

    pid = find_qemu(runtime)
    if pid is None:
        return EXIT_OK
    info = read_info(runtime)
    life = Life(
        control=f"{runtime}/control.sock", pins=None, memory=0, ready_timeout=30.0,
        stop_timeout=info.stop_timeout if info else 60.0, devices=len(info.devices) if info else 0,
        last_words=lambda: "", before_cont=lambda: None,
        stage=lambda number, text: say(f"{name}: {text} (pid {pid})"),
    )
    try:
        process = QemuProcess.adopt(pid, read_start_time(Host(), pid) or 0)
    except (HostError, OSError):
        return EXIT_OK  # it ended just now
    with process:
        end = adopt(process, life, say)
    return EXIT_FAILED if end.reason in ("died", "panic") and end.exit.code != 0 else EXIT_OK


def recover_dead(
    base: str, name: str, say: Say, host: Host, *, only_if_dead: bool = False
) -> Outcome:
    """Undo what a machine's journal says is not undone; the caller holds its lock.

    With `only_if_dead` nothing is done for a machine that lives (its lock is taken here). Raises
    NotRestoredError when something is left; the journal stays then.
    """
    runtime = f"{base}/{name}"
    with contextlib.ExitStack() as stack:
        if only_if_dead:
            if not Path(runtime, FILE_NAME).exists():
                return Outcome()
            lock = try_lock(f"{runtime}/{LOCK}")
            if lock is None:
                raise HostError(Problem(f"{name} still runs", hint=f"qlaunch stop '{name}'"))
            stack.callback(os.close, lock)
            stack.callback(clean_up, base, name)
        return _replay(base, name, say, host)


def _replay(base: str, name: str, say: Say, host: Host) -> Outcome:
    path = Path(base, name, FILE_NAME)
    if not path.exists():
        return Outcome()
    contents = read_journal(path)
    if contents.unreadable:
        lines = ", ".join(map(str, contents.unreadable))
        say(f"warning: {path}: line(s) {lines} cannot be read; undoing what the others say")
    outcome = Outcome()
    if not contents.is_stale(read_boot_id(host)):
        journal = open_journal(path)
        try:
            with HostLock(base, say):
                engine = Engine.resume(host, journal, HANDLERS, contents.records)
                outcome = engine.undo_all()
            with contextlib.suppress(OSError):
                journal.write(End(restored=not outcome.left))
        finally:
            journal.close()
    for sentence in outcome.sentences:
        say(sentence)
    if outcome.left:
        raise NotRestoredError(
            [*outcome.problems,
             Problem("the host is not as it was", where=name, hint=f"qlaunch recover '{name}'")]
        )
    path.unlink(missing_ok=True)
    _forget_claims(base, name)
    return outcome


def _forget_claims(base: str, name: str) -> None:
    """Claim files of a dead owner, unless somebody has taken them over."""
    directory = Path(base, CLAIMS)
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        owner = read_owner(str(path))
        if owner is None or owner.name != name:
            continue
        fd = try_lock(str(path))
        if fd is not None:
            path.unlink(missing_ok=True)
            os.close(fd)


def leftovers(base: str, names: list[str]) -> list[tuple[str, Info | None]]:
    """Machines without a live launcher or QEMU that have a journal."""
    return [
        (name, read_info(f"{base}/{name}"))
        for name in names
        if not is_alive(f"{base}/{name}") and Path(base, name, FILE_NAME).exists()
    ]


def pending_steps(records: Sequence[Record]) -> tuple[Step, ...]:
    """The steps that a journal says are not undone."""
    return Engine.resume(Host(), _Nowhere(), HANDLERS, records).pending


class _Nowhere:
    def write(self, record: Record) -> None:
        """For an engine that is only asked."""
