"""A handler that fails where a test says, and a log in memory: for the engine alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from qlaunch.codec import from_json, to_json
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import LoadModule
from qlaunch.run.journal import Record

Where = Literal["capture", "before", "half", "after", "undo", "undo-done"]


@dataclass
class Scripted:
    """Step `module="k"` moves values[k] from 0 to 2 by way of 1; `faults[k]` say what raises."""

    count: int
    faults: Mapping[int, Mapping[Where, BaseException]] = field(default_factory=dict)
    values: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [0] * self.count

    def steps(self) -> list[LoadModule]:
        """One for each value."""
        return [LoadModule(module=str(k)) for k in range(self.count)]

    def capture(self, host: Host, step: LoadModule) -> Captured:
        self._fail(step, "capture")
        return {"value": self.values[int(step.module)]}

    def apply(self, host: Host, step: LoadModule, captured: Captured) -> None:
        for value, where in enumerate(("before", "half", "after")):
            self.values[int(step.module)] = value
            self._fail(step, where)  # type: ignore[arg-type]
        captured["noted"] = True

    def undo(self, host: Host, step: LoadModule, captured: Captured) -> str | None:
        self._fail(step, "undo")
        self.values[int(step.module)] = captured["value"]
        self._fail(step, "undo-done")
        return f"{step.module} is back"

    def _fail(self, step: LoadModule, where: Where) -> None:
        error = self.faults.get(int(step.module), {}).get(where)
        if error is not None:
            raise error


class MemoryLog:
    """Keeps records; fails from record number `full` on."""

    def __init__(self, full: int | None = None) -> None:
        self.records: list[Record] = []
        self.full = full

    def write(self, record: Record) -> None:
        """As Journal.write."""
        if self.full is not None and len(self.records) >= self.full:
            raise OSError(28, "No space left on device")
        self.records.append(from_json(to_json(record), type(record)))  # a copy, as on disk

    def kinds(self) -> list[str]:
        """The records' names."""
        return [type(record).__name__.lower() for record in self.records]
