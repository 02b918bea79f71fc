"""A fault at each host step of a machine with a mediated device and a virtual function.

Two cases as a rule, others each day; `contrib/lab test slices
tests/lab/inside/test_vgpu_faults.py --nightly` tries every step and moment.
"""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path

import pytest

from .faults import MOMENTS, Tell, try_fault
from .machine import ROOT
from .slices import FUNCTION, MDPY, Machine

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("slices"), pytest.mark.usefixtures("samples"),
]

STEPS = 8  # at least
CASES = list(itertools.product(range(STEPS), MOMENTS))
STRIDE = 23  # of no common factor with their number: each has its day
DAY = datetime.datetime.now(datetime.timezone.utc).toordinal()
TODAY = [CASES[(2 * DAY + n) * STRIDE % len(CASES)] for n in (0, 1)]


@pytest.fixture
def machine(
    open_directory: Path, tmp_path: Path, boot_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    monkeypatch.setenv("QLAUNCH_FAULT_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Machine(open_directory, boot_disk, "labfault", MDPY + FUNCTION, seconds=1)


@pytest.mark.parametrize(("k", "moment"), TODAY)
def test_those_of_the_day(k: int, moment: str, machine: Machine, record_property: Tell) -> None:
    assert try_fault(machine.start, k, moment)
    record_property("faults", 1)


@pytest.mark.nightly
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_step(moment: str, machine: Machine, record_property: Tell) -> None:
    tried = next(k for k in itertools.count() if not try_fault(machine.start, k, moment))
    assert tried >= STEPS
    record_property("faults", tried)
