"""Options of all tests: the long settings run only when they are asked for."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ["QLAUNCH_UNIT"] = "no"  # what `--detach` starts is ours, also where systemd is PID 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run the long settings too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--nightly"):
        return
    left_out = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many faults were injected, for the tests that count them (also in pytest-xdist)."""
    tried = restored = 0
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            count = sum(n for key, n in report.user_properties if key == "faults")
            tried += count
            restored += count if outcome == "passed" else 0
    if tried:
        terminalreporter.write_line(
            f"fault injection: {tried} cases tried, {restored} hosts restored"
        )
