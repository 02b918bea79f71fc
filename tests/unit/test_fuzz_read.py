"""What others have written is read: journals, facts files, QEMU's answers and events. Whatever
stands in them: words that name a place, no traceback, and an end.

Profiles have their own such tests in test_profile_fuzz.py.
"""

from __future__ import annotations

import functools
import json
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qlaunch.errors import HostError, UsageError
from qlaunch.facts.probe import read_snapshot
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.make import make_plan
from qlaunch.run.engine import Engine
from qlaunch.run.journal import create_journal, make_header, read_journal
from qlaunch.vm.attach import read_ports
from qlaunch.vm.gauge import read_disks
from qlaunch.vm.media import read_drives
from qlaunch.vm.monitor import Events, Monitor
from qlaunch.vm.pin import read_threads
from qlaunch.vm.unplug import plugged_in
from qlaunch.vm.viewing import read_viewing
from qlaunch.vm.watch import describe, judge
from tests.fake.plans import profile
from tests.fake.scripted import MemoryLog
from tests.fake.timed import check_told, within
from tests.fake.whole import WholeKernel

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
QUICK = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=20000, deadline=None, suppress_health_check=list(HealthCheck))
DATA = Path(__file__).parents[1] / "data/facts"
FACTS = ("fx8120.json", "ada-server.json", "gvt-laptop.json")
KEYS = (
    "status", "type", "enabled", "host", "port", "id", "thread-id", "cpu-index", "label", "name",
    "filename", "inserted", "stats", "device", "qdev", "fds", "fdset-id", "opaque", "reason",
    "guest", "seconds", "microseconds", "data", "timestamp", "event", "action", "operation",
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(("SHUTDOWN", "BLOCK_IO_ERROR", "child<x>", "unix:/x", "/dev/fdset/1")),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)


# -- QEMU


class Answering(Monitor):
    """One whose QEMU says anything at all."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.events, self._also = Events(), []

    async def execute(self, *_: Any, **__: Any) -> Any:
        return self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)

    async def close(self) -> None:
        """Nothing is open."""


QUESTIONS: tuple[Callable[[Monitor], Awaitable[object]], ...] = (
    read_viewing, read_ports, read_disks, read_drives, plugged_in,
    lambda monitor: read_threads(monitor, os.getpid()),
)


def drive(work: Coroutine[Any, Any, None]) -> None:
    """To its end, which waits for nothing: a loop a time would cost more than all else."""
    with within(), pytest.raises(StopIteration):
        work.send(None)


def answers_test(answers: list[Any]) -> None:
    async def main() -> None:
        for question in QUESTIONS:
            try:
                async with Answering(list(answers)) as monitor:
                    await question(monitor)
            except HostError as error:
                assert "not understood" in str(error)
                check_told(error.problems)

    drive(main())


def event_test(message: dict[str, Any]) -> None:
    async def main() -> None:
        monitor: Any = Answering([])
        monitor._hear({"event": "STOP", **message})
        event = await monitor.events.get()
        assert "\n" not in describe(event).replace(str(event.data), "")
        judge(None, {event.name: event}, None)

    drive(main())


@given(st.lists(VALUES, min_size=1, max_size=4))
@QUICK
def test_any_answer(answers: list[Any]) -> None:
    answers_test(answers)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
@QUICK
def test_any_event(message: dict[str, Any]) -> None:
    event_test(message)


@pytest.mark.nightly
@given(st.lists(VALUES, min_size=1, max_size=4), st.dictionaries(st.sampled_from(KEYS), VALUES))
@LONG
def test_qemu_nightly(answers: list[Any], message: dict[str, Any]) -> None:
    answers_test(answers)
    event_test(message)


# -- files: valid ones, with something in them changed


def changed(text: bytes, seed: int) -> bytes:
    """A few bytes, lines or JSON values are others, gone, or there twice."""
    chance = random.Random(seed)  # noqa: S311
    for _ in range(chance.randint(1, 4)):
        way, at = chance.randrange(5), chance.randrange(len(text) or 1)
        if way == 0:
            text = text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
        elif way == 1:
            text = text[:at] + text[at + chance.randrange(40) :]
        elif way == 2:
            lines = text.splitlines(keepends=True)
            chance.shuffle(lines)
            text = b"".join(lines[: chance.randint(1, len(lines) or 1)])
        else:
            text = _other_value(text, chance)
    return text


def _other_value(text: bytes, chance: random.Random) -> bytes:
    """In one line of JSON, one value anywhere is of another kind."""
    lines = text.splitlines()
    number = chance.randrange(len(lines) or 1)
    try:
        tree: Any = {"": json.loads(lines[number])}
    except (ValueError, IndexError):
        return text
    inside = tree
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = chance.choice(keys)
        if not isinstance(inside[key], dict | list) or not inside[key] or chance.random() < 0.1:
            break
        inside = inside[key]
    others: tuple[Any, ...] = (None, 0, -1, 1 << 70, 1.5, "", "x", "../..", [], [1], {}, {"a": 0})
    inside[key] = chance.choice(others)
    lines[number] = json.dumps(tree[""]).encode()
    return b"\n".join(lines) + b"\n"


@functools.cache
def facts_text(name: str) -> bytes:
    """In one line."""
    return json.dumps(json.loads((DATA / name).read_bytes())).encode()


CARD = '[[pci]]\ndevice = "10de:1200"\nfunctions = "all"\n[[net]]\nnat = {}\n'


def facts_test(name: str, seed: int) -> None:
    with within(), tempfile.NamedTemporaryFile() as file:
        file.write(changed(facts_text(name), seed))
        file.flush()
        try:
            facts = read_snapshot(Path(file.name))
        except UsageError as error:
            assert {problem.where for problem in error.problems} == {file.name}
            check_told(error.problems)
            return
        check_told(make_plan(profile(CARD), facts).problems)


@given(st.sampled_from(FACTS), st.integers(0, 1 << 32))
@QUICK
@example("fx8120.json", 27581385)  # a route without a length
def test_any_facts(name: str, seed: int) -> None:
    facts_test(name, seed)


@pytest.mark.nightly
@given(st.sampled_from(FACTS), st.integers(0, 1 << 32))
@LONG
def test_any_facts_nightly(name: str, seed: int) -> None:
    facts_test(name, seed)


@contextmanager
def whole() -> Iterator[WholeKernel]:
    with tempfile.TemporaryDirectory() as folder:
        kernel = WholeKernel(Path(folder))
        kernel.fill()
        yield kernel
        kernel.release()


@functools.cache
def journal_text() -> bytes:
    """Of a run that was killed once all was done."""
    with whole() as kernel, tempfile.TemporaryDirectory() as folder:
        host = kernel.host()
        journal = create_journal(Path(folder), make_header(host, "vm"))
        Engine(host, journal, HANDLERS).apply(kernel.plan().steps)
        journal.close()
        return journal.path.read_bytes()


def journal_test(seed: int, *, undo: bool) -> None:
    """Read, and undone on a host where nothing of it is true."""
    text = changed(journal_text(), seed)
    with within(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal")
        path.write_bytes(text)
        path.chmod(0o600)
        contents = read_journal(path)
    assert all(0 < number <= text.count(b"\n") + 1 for number in contents.unreadable)
    if undo:
        with within(), whole() as kernel:
            host = kernel.host(settle=0.0)
            engine = Engine.resume(host, MemoryLog(), HANDLERS, contents.records)
            for left in engine.undo_all().left:
                check_told(left.problems)


@given(st.integers(0, 1 << 32))
@QUICK
@example(1406656)  # a driver_override that is an object
def test_any_journal(seed: int) -> None:
    journal_test(seed, undo=seed % 16 == 0)


@pytest.mark.nightly
@given(st.integers(0, 1 << 32))
@LONG
def test_any_journal_nightly(seed: int) -> None:
    journal_test(seed, undo=seed % 64 == 0)


def test_changes_are_changes() -> None:
    """Most of them still parse, so that what is behind the parser is reached."""
    parsed = 0
    for seed in range(100):
        text = changed(facts_text(FACTS[0]), seed)
        try:
            msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        parsed += text != facts_text(FACTS[0])
    assert parsed > 20
