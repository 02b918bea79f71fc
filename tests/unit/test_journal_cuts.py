"""A journal that is cut at a byte, because the launcher was killed in writing it or /run is full:
the host is as it was afterwards. One with a line that cannot be read: that is said, with exit 3.

Cut at every byte for a run of a few steps; for a run with every kind of step, in each of its
records. Some of them as a rule, all at night.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from qlaunch.codec import to_json
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import LoadModule, MakeBridge, OwnNode, TakeDevice
from qlaunch.run.journal import Journal, Record
from tests.fake.faults import WAYS, Fault, Way, in_process, launch, put_back, start
from tests.fake.whole import GPU, WholeKernel
from tests.unit.test_faults import PCI, Tell, compare, first_run, kernel

__all__ = ["kernel"]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
Then = Literal["killed", "full"]
THEN: tuple[Then, ...] = ("killed", "full")


class Cut:
    """Journal.write as far as byte `at` of all that is written; then the launcher is killed, or
    this and every later write finds no space."""

    def __init__(self, at: int, then: Then, note: Path) -> None:
        self.left = at
        self.then = then
        self.note = note
        self.write = Journal.write
        Journal.write = lambda *words: self(*words)  # type: ignore # noqa: PLW0108

    def __call__(self, journal: Journal, record: Record) -> None:
        line = to_json(record) + b"\n"
        if self.left >= len(line):
            self.left -= len(line)
            with self.note.open("a") as note:
                note.write(f"{len(line)}\n")
            self.write(journal, record)
            return
        private: Any = journal
        os.write(private._fd, line[: self.left])
        private._torn = True
        if self.then == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        self.left = 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cut_run(kernel: WholeKernel, plan: Plan, at: int, then: Then) -> tuple[int, list[int]]:
    """The exit code, and how long each record was that is whole."""
    note = kernel.root / ".model/records"
    note.write_text("")

    def work() -> int:
        Cut(at, then, note)
        return start(kernel, plan)

    return in_process(work), [int(line) for line in note.read_text().split()]


def few_steps(kernel: WholeKernel) -> Plan:
    plan = kernel.plan()
    kinds = (LoadModule, TakeDevice, OwnNode, MakeBridge)
    steps = (s for s in plan.steps if isinstance(s, kinds))
    few = [s for s in steps if not isinstance(s, TakeDevice) or s.address == GPU]
    return replace(plan, steps=tuple(few))


def try_cuts(
    kernel: WholeKernel, plan: Plan, cuts: Iterator[int], then: Then, before: dict[str, Any]
) -> int:
    """How many cases there were, all of which left the host as it was."""
    tried = 0
    for number, at in enumerate(cuts):
        case = f"{then} at byte {at}"
        code, _ = cut_run(kernel, plan, at, then)
        if then == "killed":
            assert code == -signal.SIGKILL, case
            assert put_back(kernel, plan, ("recover", "run")[number % 2]) == 0, case
        else:
            assert code in (0, 1), case
        compare(before, kernel.state(), case)
        tried += 1
    return tried


def lengths(kernel: WholeKernel, plan: Plan) -> list[int]:
    code, found = cut_run(kernel, plan, 1 << 30, "full")
    assert code == 0
    return found


@pytest.mark.parametrize("every", [499, pytest.param(1, marks=pytest.mark.nightly)])
def test_killed_at_every_byte(kernel: WholeKernel, every: int, record_property: Tell) -> None:
    plan = few_steps(kernel)
    total = sum(lengths(kernel, plan))
    before = kernel.state()
    # the header's length is not the same each time: it has a pid in it
    tried = try_cuts(kernel, plan, iter(range(0, total - 20, every)), "killed", before)
    record_property("faults", tried)


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.nightly)])
def test_no_room_in_any_record(kernel: WholeKernel, every: int, record_property: Tell) -> None:
    plan = few_steps(kernel)
    middles = islice(middle_of_each(lengths(kernel, plan)), 0, None, every)
    record_property("faults", try_cuts(kernel, plan, middles, "full", kernel.state()))


@pytest.mark.nightly
@pytest.mark.parametrize("then", THEN)
def test_cut_in_every_record(kernel: WholeKernel, then: Then, record_property: Tell) -> None:
    before = first_run(kernel)
    plan = kernel.plan()
    middles = middle_of_each(lengths(kernel, plan))
    record_property("faults", try_cuts(kernel, plan, middles, then, before))


def middle_of_each(found: list[int]) -> Iterator[int]:
    return (sum(found[:n]) + length // 2 for n, length in enumerate(found))


def garble(line: bytes) -> bytes:
    return b"\x00\x1b" + line[2:]


@pytest.mark.parametrize("way", WAYS)
def test_each_line_garbled_in_turn(
    kernel: WholeKernel, way: Way, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the others say is undone, the journal stays, and it is told what to do; with the line
    as it was all is back, so nothing else was lost on the way."""
    plan = few_steps(kernel)
    assert launch(kernel, plan) == 0  # modules stay loaded
    before = kernel.state()
    journal = kernel.root / "run/qlaunch/vm/journal"
    number = 0
    while True:
        assert launch(kernel, plan, Fault("killed after apply", len(plan.steps) - 1)) == -9
        lines = journal.read_bytes().splitlines(keepends=True)
        if number == len(lines):
            break
        text = lines[number]
        journal.write_bytes(b"".join((*lines[:number], garble(text), *lines[number + 1:])))
        for _ in range(2):  # it is not forgotten either
            capfd.readouterr()
            assert put_back(kernel, plan, way) == 3, text
            said = capfd.readouterr().err
            assert f"line {number + 1}: \\x00\\x1b{text[2:40].decode()}" in said
            assert f"rm '{journal}'" in said
            assert "recover 'vm'" not in said  # which would not help
        journal.write_bytes(b"".join(lines))
        assert put_back(kernel, plan, way) == 0, text
        compare(before, kernel.state(), text)
        number += 1


def test_a_garbled_intent_leaves_its_device_and_no_other(kernel: WholeKernel) -> None:
    plan = few_steps(kernel)
    assert launch(kernel, plan) == 0
    before = kernel.state()
    assert launch(kernel, plan, Fault("killed after apply", len(plan.steps) - 1)) == -9
    journal = kernel.root / "run/qlaunch/vm/journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    mine = next(line for line in lines if b'"intent"' in line and GPU.encode() in line)
    journal.write_bytes(b"".join(garble(line) if line == mine else line for line in lines))
    assert put_back(kernel, plan, "recover") == 3
    after = kernel.state()
    differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert {key for key in differ if not key.startswith("run/qlaunch/")} >= {f"{PCI}/driver"}
    assert all(key.startswith(("run/qlaunch/", "sys/devices/pci0000:00/", "sys/bus/pci/",
                               "sys/class/", "dev/", "sys/bus/platform/")) for key in differ)
    journal.unlink()
    assert put_back(kernel, plan, "recover") == 0
    assert not journal.parent.exists()


def test_a_run_that_said_all_is_back_is_believed(kernel: WholeKernel) -> None:
    """It knew what it had done, whatever has become of its journal since."""
    plan = few_steps(kernel)
    assert launch(kernel, plan) == 0
    before = kernel.state()
    assert in_process(lambda: without_unlink(kernel, plan)) == 0
    journal = kernel.root / "run/qlaunch/vm/journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"end"' in lines[-1]
    journal.write_bytes(b"".join((lines[0], garble(lines[1]), *lines[2:])))
    assert put_back(kernel, plan, "recover") == 0
    compare(before, kernel.state(), "ended")


def without_unlink(kernel: WholeKernel, plan: Plan) -> int:
    unlink = Path.unlink
    Path.unlink = lambda path, *words, **named: (  # type: ignore[method-assign]
        None if path.name == "journal" else unlink(path, *words, **named))
    return start(kernel, plan)
