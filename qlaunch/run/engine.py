"""Doing steps and undoing them, always to the end.

A step is captured, journalled, applied; whatever happens on the way, everything done so far is
undone in reverse, the failing step included, because it may be half done. The engine knows nothing
of what a step means: only the promises in `host/handler.py`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple, Protocol

from msgspec.structs import replace

from qlaunch.children import ENDING, held_signals
from qlaunch.errors import HostError, NotRestoredError, Problem, QlaunchError, StuckError
from qlaunch.host.handler import Captured, Handler, Host
from qlaunch.host.writers import wait_for_writers
from qlaunch.plan.steps import (
    LoadModule,
    MakeBridge,
    MakeCgroup,
    MakeMacvtap,
    Step,
    devices_of,
)
from qlaunch.run.entries import Entry, read_entries
from qlaunch.run.journal import Applied, Failed, Intent, Journal, Record, Stuck, Undoing, Undone


class Event(NamedTuple):
    """Progress, for whoever shows it."""

    kind: Literal["applying", "applied", "undoing", "undone", "failed"]
    step: Step
    text: str = ""  # the sentence, or the reason


class Left(NamedTuple):
    """A step that could not be undone."""

    step: Step
    problems: tuple[Problem, ...]
    stuck: bool = False


class Outcome(NamedTuple):
    """What an undo did: what to tell, and what is left."""

    sentences: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of everything that is left."""
        return tuple(p for item in self.left for p in item.problems)

    def check(self) -> None:
        """Raise NotRestoredError when something is left."""
        if self.left:
            raise NotRestoredError(self.problems)


class Log(Protocol):
    """What the engine needs of a Journal."""

    def write(self, record: Record) -> None: ...


class Engine:
    """Carries steps out. One engine a run; `apply` may be called several times."""

    def __init__(
        self,
        host: Host,
        journal: Log,
        handlers: Mapping[type, Handler[Any]],
        report: Callable[[Event], None] | None = None,
    ) -> None:
        if isinstance(journal, Journal):  # by whose lock a writer that outlives us is known
            host = replace(host, journal=str(journal.path))
        self.host = host
        self._journal = journal
        self._handlers = handlers
        self._report = report
        self._entries: list[Entry] = []
        self._next = 0
        self.gave_up: Outcome | None = None  # of the undo that a failed `apply` has done

    @classmethod
    def resume(
        cls,
        host: Host,
        journal: Log,
        handlers: Mapping[type, Handler[Any]],
        records: Sequence[Record],
        report: Callable[[Event], None] | None = None,
        only: Callable[[Step], bool] | None = None,
    ) -> Engine:
        """An engine that holds what a journal's run has not undone: call `undo_all` on it.

        Stuck and failed undos are tried again. With `only` it holds those steps alone, and may
        apply others beside what the journal's run has done.
        """
        engine = cls(host, journal, handlers, report)
        found = read_entries(records)
        engine._entries = [e for _, e in sorted(found.items()) if only is None or only(e.step)]
        engine._next = max((r.k for r in records if isinstance(r, Intent)), default=-1) + 1
        return engine

    def catch_up(self, records: Sequence[Record]) -> None:
        """Learn what others have written to our journal: `detach` undoes a device's steps while
        its guest runs, `attach` adds new ones (run/plugging.py)."""
        undone = {r.k for r in records if isinstance(r, Undone)}
        begun = {r.k for r in records if isinstance(r, Undoing)}
        self._entries = [e for e in self._entries if e.k not in undone]
        told = read_entries(records)
        for entry in self._entries:
            if entry.k in begun:
                entry.captured = dict(entry.first)
                entry.open = entry.k in told and told[entry.k].open
        self._entries += [e for k, e in sorted(told.items()) if k >= self._next]
        self._next = max([self._next, *(r.k + 1 for r in records if isinstance(r, Intent))])

    @property
    def pending(self) -> tuple[Step, ...]:
        """The steps that an undo would put back, in the order they were applied."""
        return tuple(entry.step for entry in self._entries)

    def apply(self, steps: Sequence[Step]) -> None:
        """Apply all of them, or none.

        On any exception everything this engine has applied is undone. Then HostError is raised
        (from that exception) when the host is as it was, NotRestoredError when something is left.
        INT, TERM and HUP are looked at between two steps only, so that none of them can land
        between a change and its record, or in front of the undo; they count as KeyboardInterrupt.
        """
        with held_signals():
            for step in steps:
                try:
                    _check_signals()
                    self._apply(step)
                except BaseException as error:
                    self.gave_up = outcome = self.undo_all()
                    problems = _explain(step, error)
                    if outcome.left:
                        raise NotRestoredError((*problems, *outcome.problems)) from error
                    raise HostError(problems) from error

    def undo_all(self) -> Outcome:
        """Undo everything in reverse. Never stops at an error and raises none.

        Signals that arrive meanwhile are dropped: what they ask for is being done. A device on
        which a write hangs gets no further one. What is left can be tried again.
        """
        sentences: list[str] = []
        left: list[Left] = []
        with _signals_dropped():
            self._await_writers()
            for entry in reversed(self._entries.copy()):
                try:
                    sentence = self._undo(entry)
                except BaseException as error:
                    left.insert(0, self._note_failure(entry, error))
                    continue
                self._entries.remove(entry)
                if sentence:
                    sentences.append(sentence)
            for entry in self._entries:
                entry.stuck = False  # the next call may try again
        return Outcome(tuple(sentences), tuple(left))

    def _apply(self, step: Step) -> None:
        handler = self._handlers[type(step)]
        captured = handler.capture(self.host, step)
        entry = Entry(self._next, step, captured)
        self._next += 1
        self._entries.append(entry)
        try:
            # Before the change, on disk: from here on another process can undo it.
            self._journal.write(Intent(k=entry.k, step=step, captured=captured))
            self._tell("applying", step)
            handler.apply(self.host, step, captured)
            self._journal.write(Applied(k=entry.k, captured=captured))
            entry.learn(captured)
            self._tell("applied", step)
        except BaseException as error:
            # A signal that was held back during the hanging write may stand in front of it.
            entry.stuck = _find_stuck(error) is not None
            learnt = dict(captured) if entry.learn(captured) else None
            self._note(Stuck if entry.stuck else Failed, entry, error, learnt)
            raise

    def _await_writers(self) -> None:
        """Nothing is undone while a dead process's child may still be doing it: what that one
        does not let go of in time is stuck."""
        begun = [e for e in self._entries if e.open]
        if not begun:
            return
        done = wait_for_writers(self.host)
        for entry in begun:
            entry.stuck, entry.open = not done, not done

    def _undo(self, entry: Entry) -> str | None:
        hanging = {a for e in self._entries if e.stuck for a in devices_of(e.step)}
        mine = [a for a in devices_of(entry.step) if a in hanging]
        if entry.stuck or mine:
            raise StuckError(
                Problem(
                    f"not undone: {entry.step}", where=", ".join(mine),
                    found="an earlier write to it has not returned",
                    hint="end what holds it, then qlaunch recover --all",
                )
            )
        with suppress(Exception):  # a full disk must not keep a device from its driver
            self._journal.write(Undoing(k=entry.k))
        self._tell_quietly("undoing", entry.step)
        sentence = self._handlers[type(entry.step)].undo(self.host, entry.step, entry.captured)
        with suppress(Exception):
            self._journal.write(Undone(k=entry.k, sentence=sentence or ""))
        self._tell_quietly("undone", entry.step, sentence or "")
        return sentence

    def _note_failure(self, entry: Entry, error: BaseException) -> Left:
        stuck = _find_stuck(error) is not None
        entry.stuck = entry.stuck or stuck
        entry.captured = dict(entry.first)
        self._note(Stuck if stuck else Failed, entry, error)
        self._tell_quietly("failed", entry.step, str(error))
        return Left(entry.step, _explain(entry.step, error, verb="undo"), stuck)

    def _note(
        self, kind: type[Stuck] | type[Failed], entry: Entry, error: BaseException,
        learnt: Captured | None = None,
    ) -> None:
        text = str(error) or type(error).__name__
        with suppress(Exception):
            if kind is Failed:
                self._journal.write(Failed(k=entry.k, error=text, captured=learnt))
            else:
                self._journal.write(Stuck(k=entry.k, error=text))

    def _tell(self, kind: Any, step: Step, text: str = "") -> None:
        if self._report is not None:
            self._report(Event(kind, step, text))

    def _tell_quietly(self, kind: Any, step: Step, text: str = "") -> None:
        with suppress(Exception):  # a closed terminal must not stop the undo
            self._tell(kind, step, text)


def is_own(step: Step) -> bool:
    """Whether no other machine's step can be in its way, so that it needs no host lock."""
    if isinstance(step, MakeCgroup):
        return not step.enable
    return isinstance(step, MakeBridge | MakeMacvtap | LoadModule)


def _find_stuck(error: BaseException | None) -> StuckError | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, StuckError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _explain(step: Step, error: BaseException, verb: str = "") -> tuple[Problem, ...]:
    """The step's failure in front, then the handler's own problems with their hints."""
    headline = f"cannot {verb + ': ' if verb else ''}{step}"
    if isinstance(error, QlaunchError):
        first = error.problems[0]
        joined = first._replace(
            message=f"{headline}: {first.message}", where=first.where or step.why)
        return (joined, *error.problems[1:])
    if isinstance(error, KeyboardInterrupt):
        return (Problem(f"interrupted before this was done: {step}", found=str(error)),)
    found = str(error) or type(error).__name__
    return (Problem(headline, where=step.why, found=found,
                    hint="sudo dmesg | tail may tell the kernel's reason"),)


def _check_signals() -> None:
    arrived = signal.sigtimedwait(ENDING, 0)
    if arrived is not None:
        raise KeyboardInterrupt(signal.Signals(arrived.si_signo).name)


@contextmanager
def _signals_dropped() -> Iterator[None]:
    with held_signals():
        try:
            yield
        finally:
            while signal.sigtimedwait(ENDING, 0) is not None:
                continue
