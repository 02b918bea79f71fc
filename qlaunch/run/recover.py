"""Put back what a dead launcher left, from its journal; or watch again a guest it left running."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qlaunch.errors import (
    EXIT_FAILED,
    EXIT_OK,
    HostError,
    NotRestoredError,
    Problem,
    QlaunchError,
)
from qlaunch.host.handler import Host, telling
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import Step
from qlaunch.run.account import as_account
from qlaunch.run.after import run_after
from qlaunch.run.claims import CLAIMS, read_owner
from qlaunch.run.cleanup import clean_up, end_helpers
from qlaunch.run.engine import Engine, Outcome
from qlaunch.run.info import (
    CONTROL,
    LOCK,
    Info,
    find_qemu,
    has_qemu,
    is_alive,
    is_qemu,
    machine_names,
    read_info,
    try_supervise,
)
from qlaunch.run.journal import (
    FILE_NAME,
    End,
    HooksRun,
    Record,
    read_boot_id,
    read_journal,
    read_start_time,
)
from qlaunch.run.locks import HostLock, try_lock
from qlaunch.run.story import LOG, Story
from qlaunch.run.terminal import Interrupts
from qlaunch.run.unknown import opened_journal, what_is_lost
from qlaunch.run.verdict import why

if TYPE_CHECKING:
    from qlaunch.vm.watch import Beside

Say = Callable[[str], None]
Stop = Literal["", "ask", "now", "kill"]
ASKED = {"ask": "qlaunch stop", "now": "qlaunch stop --now"}
ENDS_IT = "; Ctrl-C presses {name}'s power button"
LET_GO = 30.0  # seconds that the kernel may need for a QEMU that was killed


def recover(
    base: str,
    name: str,
    say: Say,
    *,
    stop: Stop = "",
    on_watched: Callable[[], None] = lambda: None,
) -> int:
    """Recover one machine; returns the exit code. What is told is in the machine's log too.

    A guest that still runs is watched until it ends (`on_watched` is called when that begins), or
    is ended as `stop` says. Raises HostError when there is nothing of that name or a launcher
    watches it, NotRestoredError when something could not be put back.
    """
    runtime = f"{base}/{name}"
    if name not in machine_names(base):
        raise HostError(
            Problem(f"there is no machine {name} that runs or left something behind",
                    hint="qlaunch ps")
        )
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(say))
        supervisor = try_supervise(runtime)
        if supervisor is None:
            raise HostError(
                Problem(f"{name} is watched by its launcher",
                        hint=f"qlaunch stop '{name}' ends it, and gives its devices back")
            )
        stack.callback(os.close, supervisor)
        story = _machines_log(read_info(runtime), stack)

        def tell(text: str) -> None:
            say(text)
            story.note(text)

        code = EXIT_OK
        if is_alive(runtime):
            code = _watch_again(runtime, name, tell, stop, interrupts, on_watched)
        interrupts.disarm()
        stack.callback(os.close, _free_lock(runtime, name, tell))
        try:
            recover_dead(base, name, tell, telling(tell))
        except QlaunchError as error:
            story.note(str(error))
            raise
        if rest := clean_up(base, name):
            tell(f"{runtime} stays: {', '.join(rest)} is not qlaunch's")
        return code


def _machines_log(info: Info | None, stack: contextlib.ExitStack) -> Story:
    """A story that goes on in the machine's log, when it has one."""
    story = Story(quiet=True)
    if info is not None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with contextlib.suppress(OSError), as_account(info):
            story.to_file(os.open(f"{info.state_dir}/{LOG}", flags))
            stack.callback(story.close)
    return story


def _free_lock(runtime: str, name: str, say: Say) -> int:
    """The machine's lock. A QEMU that is being taken down by the kernel has no name any more and
    still holds it. Raises NotRestoredError when it is not let go of."""
    deadline = time.monotonic() + LET_GO
    told = False
    while (lock := _try_own(runtime)) is None:
        if find_qemu(runtime) is not None or time.monotonic() > deadline:
            raise NotRestoredError(
                Problem("QEMU could not be ended; its devices stay with it", where=name,
                        hint=f"qlaunch recover '{name}'")
            )
        if not told:
            say(f"{name}: waiting for the kernel to take QEMU down")
            told = True
        time.sleep(0.05)
    return lock


def _try_own(runtime: str) -> int | None:
    """The lock, unless QEMU runs: it could have unlocked it."""
    lock = try_lock(f"{runtime}/{LOCK}")
    if lock is not None and has_qemu(runtime):
        os.close(lock)
        return None
    return lock


def _watch_again(
    runtime: str, name: str, say: Say, stop: Stop, interrupts: Interrupts,
    on_watched: Callable[[], None],
) -> int:
    """Supervise a QEMU without launcher until it is gone."""
    interrupts.hold()
    from qlaunch.run.live import Life, adopt
    from qlaunch.run.oom import want_of_memory
    from qlaunch.vm.process import QemuProcess

    pid = find_qemu(runtime)
    if pid is None:
        return EXIT_OK
    info = read_info(runtime)

    def watched(number: int, text: str) -> None:
        say(f"{name}: {text} (pid {pid})" + ("" if stop else ENDS_IT.format(name=name)))
        on_watched()

    life = Life(
        control=f"{runtime}/{CONTROL}", pins=None, memory=info.memory if info else 0,
        ready_timeout=info.ready_timeout if info else 60.0,
        stop_timeout=info.stop_timeout if info else 60.0, devices=len(info.devices) if info else 0,
        last_words=lambda: "", before_cont=lambda: None, stage=watched, tell=say,
        asked=lambda: interrupts.pending or ASKED.get(stop, ""),
        beside=_beside(info),
    )
    try:
        process = QemuProcess.adopt(pid, read_start_time(Host(), pid) or 0)
    except (HostError, OSError):
        return EXIT_OK  # it ended just now
    with process:
        if stop == "kill" and is_qemu(runtime, pid):
            process.send(signal.SIGKILL)
        end = adopt(process, life, say)
    if end.reason != "stuck":
        reason = "" if stop else want_of_memory(pid, info.cgroup if info else "")
        say(f"{name}: ended ({'killed' if stop == 'kill' else reason or why(end)})")
    return EXIT_FAILED if end.reason in ("died", "panic") else EXIT_OK


def _beside(info: Info | None) -> Beside | None:
    if info is None or not info.usbs:
        return None
    from qlaunch.run.beside import beside

    return beside(info)


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
            if not os.path.lexists(f"{runtime}/{FILE_NAME}"):
                return Outcome()
            for take in (try_supervise, _try_own):
                lock = take(runtime)
                if lock is None:
                    raise HostError(Problem(f"{name} still runs", hint=f"qlaunch stop '{name}'"))
                stack.callback(os.close, lock)
        outcome = _replay(base, name, say, host)
        if only_if_dead:  # never what a journal that was refused lies in
            clean_up(base, name)
        return outcome


def _replay(base: str, name: str, say: Say, host: Host) -> Outcome:
    path = Path(base, name, FILE_NAME)
    if not os.path.lexists(path):
        return Outcome()
    contents, journal = opened_journal(path)
    end_helpers(f"{base}/{name}")
    if contents.unreadable:
        lines = ", ".join(map(str, contents.unreadable))
        say(f"warning: {path}: line(s) {lines} cannot be read; undoing what the others say")
    outcome, lost = Outcome(), list[Problem]()
    try:
        if not contents.is_stale(read_boot_id(host)):
            with HostLock(base, say, undoing=True):
                contents = read_journal(path)  # a `detach` may have been at it until now
                lost = [] if contents.is_restored else what_is_lost(path, contents)
                engine = Engine.resume(host, journal, HANDLERS, contents.records)
                outcome = engine.undo_all()
            with contextlib.suppress(OSError):
                journal.write(End(restored=not (outcome.left or lost)))
        for sentence in outcome.sentences:
            say(sentence)
        info = read_info(f"{base}/{name}")
        if info is not None and not any(isinstance(r, HooksRun) for r in contents.records):
            run_after(info.after, info.account, info.trusted, say, journal)
    finally:
        journal.close()
    if outcome.left:
        lost.append(
            Problem("the host is not as it was", where=name, hint=f"qlaunch recover '{name}'")
        )
    if lost:
        raise NotRestoredError([*outcome.problems, *lost])
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


def pending_steps(records: Sequence[Record]) -> tuple[Step, ...]:
    """The steps that a journal says are not undone."""
    return Engine.resume(Host(), _Nowhere(), HANDLERS, records).pending


class _Nowhere:
    def write(self, record: Record) -> None:
        """For an engine that is only asked."""
