"""Boots every lab host once and reports what failed in there.

The tests proper are in inside/ and run in the emulated host; from outside, one boot is one test,
because a boot costs more than all the tests of a topology. The result directory keeps the console
log, the junit file and the pictures of the card's monitor.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from .boot import Outcome, parts, pytest_command, run
from .topology import CARD, TOPOLOGIES, Topology

pytestmark = pytest.mark.lab


def failures(outcome: Outcome) -> list[str]:
    """Name and message of every inside test that did not pass."""
    found = []
    for case in ET.parse(outcome.junit).iter("testcase"):  # noqa: S314  # our own pytest wrote it
        for kind in ("failure", "error"):
            for problem in case.findall(kind):
                name = f"{case.get('classname')}::{case.get('name')}"
                found.append(f"{kind}: {name}\n{problem.text or problem.get('message')}")
    return found


def marks(topology: Topology) -> list[pytest.MarkDecorator]:
    """Side by side with two workers: the longest, and all others one after the other."""
    group = pytest.mark.xdist_group(topology.name if topology is CARD else "others")
    return [group, pytest.mark.nightly] if topology.nightly else [group]


@pytest.mark.parametrize(
    "name", [pytest.param(each.name, marks=marks(each)) for each in TOPOLOGIES.values()]
)
def test_inside(name: str, request: pytest.FixtureRequest) -> None:
    topology = TOPOLOGIES[name]
    nightly = bool(request.config.getoption("--nightly"))
    longer = topology.timeout * (4 if nightly else 1)
    for host, arguments in parts(topology, nightly=nightly):
        check(run(host, pytest_command(host, arguments), longer))


def check(outcome: Outcome) -> None:
    """Fail with what failed in there."""
    name = outcome.junit.parent.name
    if not outcome.junit.exists():
        pytest.fail(f"{name}: no results, exit {outcome.exit_code}\n{outcome.tail()}")
    if failed := failures(outcome):
        pytest.fail(f"{name}: {len(failed)} failed inside\n" + "\n\n".join(failed))
    assert outcome.exit_code == 0, f"exit {outcome.exit_code}\n{outcome.tail()}"
