"""The engine's promise: all or nothing, and an undo that never stops half way."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlaunch.errors import HostError, NotRestoredError, Problem, QlaunchError, StuckError
from qlaunch.host.handler import Host
from qlaunch.plan.steps import LoadModule
from qlaunch.run.engine import Engine, Event
from qlaunch.run.journal import Failed, Intent, Stuck
from tests.fake.scripted import MemoryLog, Scripted, Where

COUNT = 4
PLACES: tuple[Where, ...] = ("capture", "before", "half", "after")
ERRORS = [
    HostError(Problem("no such luck", hint="try again")),
    OSError(16, "Device or resource busy"),
    ValueError("a fault of ours"),
    KeyboardInterrupt(),
    SystemExit(143),
    MemoryError(),
]


def make(handler: Scripted, log: MemoryLog | None = None) -> Engine:
    return Engine(Host(), log or MemoryLog(), {LoadModule: handler})


def test_apply_then_undo() -> None:
    handler, log = Scripted(COUNT), MemoryLog()
    engine = make(handler, log)
    engine.apply(handler.steps())
    assert handler.values == [2] * COUNT
    assert log.kinds() == ["intent", "applied"] * COUNT
    outcome = engine.undo_all()
    assert outcome.sentences == ("3 is back", "2 is back", "1 is back", "0 is back")
    assert outcome.left == ()
    assert handler.values == [0] * COUNT
    assert log.kinds()[2 * COUNT :] == ["undoing", "undone"] * COUNT
    assert engine.undo_all().sentences == ()
    outcome.check()


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("k", range(COUNT))
def test_a_failing_step_undoes_everything(k: int, where: Where, error: BaseException) -> None:
    handler, log = Scripted(COUNT, {k: {where: error}}), MemoryLog()
    with pytest.raises(HostError) as caught:
        make(handler, log).apply(handler.steps())
    assert handler.values == [0] * COUNT
    assert caught.value.__cause__ is error
    assert f"load the kernel module {k}" in str(caught.value)
    undone = [r for r in log.kinds() if r == "undone"]
    assert len(undone) == k + (where != "capture")


def test_the_handlers_words_are_kept() -> None:
    handler = Scripted(1, {0: {"after": ERRORS[0]}})
    with pytest.raises(HostError) as caught:
        make(handler).apply(handler.steps())
    problem = caught.value.problems[0]
    assert problem.message == "cannot load the kernel module 0: no such luck"
    assert problem.hint == "try again"


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("k", range(COUNT))
def test_a_failing_undo_does_not_stop_the_others(k: int, error: BaseException) -> None:
    handler, log = Scripted(COUNT, {k: {"undo": error}}), MemoryLog()
    engine = make(handler, log)
    engine.apply(handler.steps())
    outcome = engine.undo_all()
    assert [item.step for item in outcome.left] == [handler.steps()[k]]
    assert handler.values == [2 if i == k else 0 for i in range(COUNT)]
    assert any(isinstance(r, Failed) and r.k == k for r in log.records)
    with pytest.raises(NotRestoredError):
        outcome.check()
    handler.faults = {}
    assert engine.undo_all().sentences == (f"{k} is back",)
    assert handler.values == [0] * COUNT


def test_what_an_undo_leaves_is_the_exit_code() -> None:
    handler = Scripted(3, {0: {"undo": ERRORS[1]}, 2: {"half": ERRORS[0]}})
    with pytest.raises(NotRestoredError) as caught:
        make(handler).apply(handler.steps())
    assert len(caught.value.problems) == 2
    assert "cannot undo: load the kernel module 0" in str(caught.value)
    assert handler.values == [2, 0, 0]


def test_a_stuck_step_is_marked_and_left_alone() -> None:
    handler, log = Scripted(3, {1: {"half": StuckError("hangs")}}), MemoryLog()
    with pytest.raises(NotRestoredError, match="has not returned"):
        make(handler, log).apply(handler.steps())
    assert handler.values == [0, 1, 0]
    assert [r.k for r in log.records if isinstance(r, Stuck)] == [1, 1]
    handler.faults = {}
    engine = Engine.resume(Host(), MemoryLog(), {LoadModule: handler}, log.records)
    assert engine.pending == (handler.steps()[1],)
    assert engine.undo_all().left == ()
    assert handler.values == [0, 0, 0]


def test_a_signal_in_front_of_the_stuck_error_does_not_hide_it() -> None:
    error = KeyboardInterrupt()
    error.__context__ = StuckError("hangs")
    handler = Scripted(1, {0: {"half": error}})
    with pytest.raises(NotRestoredError):
        make(handler).apply(handler.steps())
    assert handler.values == [1]


@pytest.mark.parametrize("full", range(2 * COUNT))
def test_a_full_disk_stops_the_apply_but_not_the_undo(full: int) -> None:
    handler, log = Scripted(COUNT), MemoryLog(full)
    with pytest.raises(HostError, match="No space left"):
        make(handler, log).apply(handler.steps())
    assert handler.values == [0] * COUNT


def test_nothing_is_applied_without_its_record() -> None:
    class Checked(Scripted):
        def apply(self, host: Host, step: LoadModule, captured: dict[str, object]) -> None:
            intents = [r.step for r in log.records if isinstance(r, Intent)]
            assert intents[-1] == step
            super().apply(host, step, captured)

    handler, log = Checked(COUNT), MemoryLog()
    make(handler, log).apply(handler.steps())


def test_a_broken_report_does_not_stop_the_undo() -> None:
    def report(event: Event) -> None:
        if event.kind not in {"applying", "applied"}:
            raise BrokenPipeError(32, "Broken pipe")

    handler = Scripted(COUNT)
    engine = Engine(Host(), MemoryLog(), {LoadModule: handler}, report)
    engine.apply(handler.steps())
    assert engine.undo_all().left == ()
    assert handler.values == [0] * COUNT


def test_a_signal_stops_between_steps_and_one_more_is_dropped() -> None:
    class Signalled(Scripted):
        def apply(self, host: Host, step: LoadModule, captured: dict[str, object]) -> None:
            signal.raise_signal(signal.SIGINT)
            super().apply(host, step, captured)

        def undo(self, host: Host, step: LoadModule, captured: dict[str, object]) -> str | None:
            signal.raise_signal(signal.SIGTERM)  # would end the test run
            return super().undo(host, step, captured)

    handler, log = Signalled(COUNT), MemoryLog()
    with pytest.raises(HostError, match="interrupted before this was done") as caught:
        make(handler, log).apply(handler.steps())
    assert handler.values == [0] * COUNT
    assert log.kinds() == ["intent", "applied", "undoing", "undone"]
    assert "SIGINT" in str(caught.value)


def test_what_apply_noted_is_used_until_an_undo_begins() -> None:
    handler, log = Scripted(2), MemoryLog()
    engine = make(handler, log)
    engine.apply(handler.steps())
    records = log.records.copy()
    seen: list[dict[str, object]] = []

    class Looking(Scripted):
        def undo(self, host: Host, step: LoadModule, captured: dict[str, object]) -> str | None:
            seen.append(captured)
            return None

    Engine.resume(Host(), MemoryLog(), {LoadModule: Looking(2)}, records).undo_all()
    assert seen == [{"value": 0, "noted": True}] * 2
    engine.undo_all()
    seen.clear()
    cut = log.records[:-1]  # killed before the last "undone"
    Engine.resume(Host(), MemoryLog(), {LoadModule: Looking(2)}, cut).undo_all()
    assert seen == [{"value": 0}]


def test_what_apply_corrects_holds_for_good() -> None:
    """An undo that was cut short has not made it untrue."""

    class Correcting(Scripted):
        def apply(self, host: Host, step: LoadModule, captured: dict[str, object]) -> None:
            captured["value"] = 7
            super().apply(host, step, captured)

        def undo(self, host: Host, step: LoadModule, captured: dict[str, object]) -> str | None:
            seen.append(captured)
            return None

    for faults, kinds in (
        ({}, ["intent", "applied", "undoing"]),
        ({0: {"half": HostError("no")}}, ["intent", "failed", "undoing"]),
    ):
        seen: list[dict[str, object]] = []
        handler, log = Correcting(1, faults), MemoryLog()  # type: ignore[arg-type]
        engine = make(handler, log)
        with suppress(HostError):
            engine.apply(handler.steps())
            engine.undo_all()
        assert log.kinds() == [*kinds, "undone"]
        Engine.resume(Host(), MemoryLog(), {LoadModule: handler}, log.records[:-1]).undo_all()
        assert seen[-1] == {"value": 7}


def test_resume_goes_on_counting() -> None:
    handler, log = Scripted(2), MemoryLog()
    make(handler, log).apply(handler.steps())
    engine = Engine.resume(Host(), log, {LoadModule: handler}, log.records)
    engine.apply(handler.steps()[:1])
    assert [r.k for r in log.records if isinstance(r, Intent)] == [0, 1, 2]


KINDS = st.sampled_from([None, *ERRORS, StuckError("hangs")])
FAULTS = st.dictionaries(
    st.integers(0, 5),
    st.fixed_dictionaries({}, optional=dict.fromkeys((*PLACES, "undo", "undo-done"), KINDS)),
)


@settings(max_examples=300, deadline=None)
@given(FAULTS)
def test_any_pattern_of_failures(faults: dict[int, dict[Where, BaseException]]) -> None:
    """Whatever fails: what is not named as left is as it was, and a later recover ends clean."""
    handler, log = Scripted(6, faults), MemoryLog()
    engine = make(handler, log)
    left: set[int] = set()
    try:
        engine.apply(handler.steps())
        outcome = engine.undo_all()
        left = {int(i.step.module) for i in outcome.left if isinstance(i.step, LoadModule)}
    except QlaunchError as error:
        left = {int(s.module) for s in engine.pending if isinstance(s, LoadModule)}
        assert isinstance(error, NotRestoredError) == bool(left)
    assert all(value == 0 for k, value in enumerate(handler.values) if k not in left)
    handler.faults = {}
    resumed = Engine.resume(Host(), MemoryLog(), {LoadModule: handler}, log.records)
    assert {int(s.module) for s in resumed.pending if isinstance(s, LoadModule)} == left
    assert resumed.undo_all().left == ()
    assert handler.values == [0] * 6
