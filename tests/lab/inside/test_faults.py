"""A fault at a host step of a real run, and the whole host compared before and after.

The same matrix as tests/unit/test_faults.py has on the fake kernel. Some cases as a rule;
`contrib/lab test card tests/lab/inside/test_faults.py --nightly` tries every step and moment.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .host import card_to_text_mode
from .machine import ROOT, Machine, host_state, qlaunch

pytestmark = pytest.mark.lab

AT_STEP = str(ROOT / "tests/fake/at_step.py")
MOMENTS = (
    "refused", "half done", "killed before apply", "killed in apply", "killed after apply",
    "killed in undo", "killed after undo",
)  # fmt: skip
SOME = list(zip((1, 4, 3, 6, 8, 5, 2), MOMENTS, strict=True))
BY_DAY = ("killed in apply", "killed in undo")
NO_SUCH_STEP = 1 << 10
Tell = Callable[[str, object], None]


@pytest.fixture
def machine(tmp_path: Path, boot_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The lab's machine with huge pages and a network of its own besides."""
    monkeypatch.setenv("QLAUNCH_FAULT_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Machine(tmp_path, boot_disk, seconds=1)
    made.sets["machine.hugepages"] = "true"
    return made


def whole_state() -> dict[str, str]:
    """What a run may change, and what the shorter state leaves out."""
    state = host_state()
    for name in ("vm/nr_hugepages", "net/ipv4/ip_forward"):
        state[name] = Path("/proc/sys", name).read_text().strip()
    for node in [*Path("/dev/vfio").iterdir(), *Path("/dev/snd").glob("control*")]:
        found = node.stat()
        state[str(node)] = f"{found.st_uid}:{found.st_gid} {found.st_mode:o}"
    return state


def try_fault(machine: Machine, k: int, moment: str) -> bool:
    """Whether there was such a step. The host is as it was in any case."""
    before = whole_state()
    card_to_text_mode()
    (Path(os.environ["QLAUNCH_FAULT_DIR"]) / ".model/seen").unlink(missing_ok=True)
    run = machine.start(program=(AT_STEP, str(k), moment))
    code = run.wait(600)
    case = f"{moment} at step {k}: {run.said}"
    if code not in (0, 1):
        assert code == -signal.SIGKILL, case
        done = qlaunch("recover", "--all", timeout=300)
        assert done.returncode == 0, f"{case}\n{done.stderr}"
    after = whole_state()
    assert {key: v for key, v in after.items() if before.get(key) != v} == {}, case
    assert before.keys() == after.keys(), case
    return code != 0


@pytest.mark.nightly
def test_without_a_fault(machine: Machine) -> None:
    assert not try_fault(machine, NO_SUCH_STEP, "refused")


@pytest.mark.parametrize(
    ("k", "moment"),
    [pytest.param(k, moment, id=moment, marks=[] if moment in BY_DAY else [pytest.mark.nightly])
     for k, moment in SOME],
)
def test_some_faults(
    machine: Machine, k: int, moment: str, record_property: Tell
) -> None:
    assert try_fault(machine, k, moment)
    record_property("faults", 1)


@pytest.mark.nightly
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_step(
    machine: Machine, moment: str, record_property: Tell
) -> None:
    tried = next(k for k in itertools.count() if not try_fault(machine, k, moment))
    assert tried > 10
    record_property("faults", tried)
