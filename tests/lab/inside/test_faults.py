"""A fault at a host step of a real run, and the whole host compared before and after.

The same matrix as tests/unit/test_faults.py has on the fake kernel. Some cases as a rule;
`contrib/lab test card tests/lab/inside/test_faults.py --nightly` tries every step and moment.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from .faults import MOMENTS, NO_SUCH_STEP, Tell, try_fault
from .host import card_to_text_mode
from .machine import ROOT, Machine
from .slices import FUNCTION, MDPY

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("samples")]

SOME = list(zip((1, 4, 3, 6, 8, 5, 2), MOMENTS, strict=True))
STEPS = 10  # more than
BY_DAY = ("killed in undo",)


@pytest.fixture
def machine(tmp_path: Path, boot_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """With every kind of host step: a card, a USB controller and a NIC, a mediated device, a
    virtual function, a bridge, huge pages, pins, CPUs of its own.
    """
    monkeypatch.setenv("QLAUNCH_FAULT_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Machine(tmp_path, boot_disk, seconds=1)
    made.sets |= {"machine.hugepages": "true", "cpu.isolate": "true"}
    made.path.write_text(made.path.read_text() + MDPY + FUNCTION)
    return made


def try_on(machine: Machine, k: int, moment: str) -> bool:
    """As `faults.try_fault`."""
    card_to_text_mode()
    return try_fault(lambda program: machine.start(program=program), k, moment)


@pytest.mark.nightly
def test_without_a_fault(machine: Machine) -> None:
    assert not try_on(machine, NO_SUCH_STEP, "refused")


@pytest.mark.parametrize(
    ("k", "moment"),
    [pytest.param(k, moment, id=moment, marks=[] if moment in BY_DAY else [pytest.mark.nightly])
     for k, moment in SOME],
)
def test_some_faults(
    machine: Machine, k: int, moment: str, record_property: Tell
) -> None:
    assert try_on(machine, k, moment)
    record_property("faults", 1)


@pytest.mark.nightly
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_step(
    machine: Machine, moment: str, record_property: Tell
) -> None:
    tried = next(k for k in itertools.count() if not try_on(machine, k, moment))
    assert tried > STEPS
    record_property("faults", tried)
