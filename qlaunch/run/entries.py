"""Steps that were begun and are not undone: as the engine keeps them, as a journal tells them."""

from __future__ import annotations

from collections.abc import Sequence

from qlaunch.host.handler import Captured
from qlaunch.plan.steps import Step
from qlaunch.run.journal import Applied, Failed, Intent, Record, Stuck, Undoing, Undone


class Entry:
    """A step that has been begun and is not undone yet."""

    def __init__(self, k: int, step: Step, captured: Captured) -> None:
        self.k = k
        self.step = step
        self.captured = captured  # `apply` may add to it
        self.first = dict(captured)  # as captured
        self.stuck = False
        self.open = False  # whoever began it has not told its end, and may have left a writer

    def learn(self, captured: Captured) -> bool:
        """Take what `apply` left: what it added holds until an undo begins, what it corrected of
        the captured state for good. Returns whether it corrected something."""
        before = self.first
        self.captured = captured
        self.first = {key: captured.get(key, value) for key, value in before.items()}
        return self.first != before


def read_entries(records: Sequence[Record]) -> dict[int, Entry]:
    """By number. What `apply` noted is used only when no undo of that step was begun: one that
    was cut short may have been done already."""
    entries: dict[int, Entry] = {}
    for record in records:
        if isinstance(record, Intent):
            entries[record.k] = Entry(record.k, record.step, record.captured)
        elif isinstance(record, Undone):
            entries.pop(record.k, None)
        elif isinstance(record, Applied | Failed | Stuck | Undoing) and record.k in entries:
            _follow(entries[record.k], record)
        if isinstance(record, Intent | Stuck | Undoing) and record.k in entries:
            entries[record.k].open = True
    return entries


def _follow(entry: Entry, record: Applied | Failed | Stuck | Undoing) -> None:
    entry.open = False
    if isinstance(record, Applied | Failed) and record.captured is not None:
        entry.learn(record.captured)
    if isinstance(record, Undoing):
        entry.captured = dict(entry.first)
