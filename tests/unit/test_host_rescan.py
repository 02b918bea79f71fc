"""`reset = "rescan"`: off the bus and found again, and nothing that was lost with it stays lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import HoldPower, LoadModule, ResetDevices, Step, TakeDevice
from qlaunch.run.engine import Engine
from qlaunch.values import PciAddress
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import Fault, snapshot
from tests.fake.plans import device, host, planned, said
from tests.fake.scripted import MemoryLog
from tests.unit.test_run_on_fake_kernel import Killer, in_process, launch, recover, watch_power

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
A, B = PciAddress("0000:01:00.0"), PciAddress("0000:01:00.1")


def steps(return_to: str = "auto") -> list[Step]:
    return [
        LoadModule(module="vfio_pci"), HoldPower(address=A),
        TakeDevice(address=A, return_to=return_to), TakeDevice(address=B, return_to=return_to),
        ResetDevices(addresses=(A, B), method="rescan", return_to=return_to),
    ]


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    kernel = FakeKernel(tmp_path)
    kernel.run(["modprobe", "--", "vfio_pci"])
    path = kernel.add_device(A, driver="bochs", methods="flr pm", nodes="drm/card")
    (path / "d3cold_allowed").write_text("0\n")  # the administrator's: lost with a removal
    kernel.add_device(B, driver="snd_hda_intel", methods="pm", nodes="sound/card")
    yield kernel
    kernel.release()


def given(kernel: FakeKernel, return_to: str = "auto") -> Engine:
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply(steps(return_to))
    return engine


def test_it_is_back_as_it_was(kernel: FakeKernel) -> None:
    before = snapshot(kernel.root)
    outcome = given(kernel).undo_all()
    assert outcome.left == ()
    assert "0000:01:00.0, 0000:01:00.1: removed from the bus and found again" in outcome.sentences
    assert "0000:01:00.0 is back on bochs" in outcome.sentences
    assert snapshot(kernel.root) == before
    assert not (kernel.root / ".model/resets").exists()
    kinds = [line.rpartition("/")[2] for line in kernel.log()]
    assert (kinds.count("remove 1"), kinds.count("rescan 1")) == (2, 1)


def test_a_device_that_shall_stay_with_vfio_does(kernel: FakeKernel) -> None:
    (kernel.device(A) / "d3cold_allowed").write_text("1\n")
    cold = watch_power(kernel, A)
    outcome = given(kernel, "vfio-pci").undo_all()
    assert outcome.left == ()
    held = f"sys/bus/pci/devices/{A}/d3cold_allowed 1\n"  # as it was, once all else is done
    assert cold.read_text() == held
    assert kernel.log()[-1] == held.strip()
    assert kernel.driver_of(A) == kernel.driver_of(B) == "vfio-pci"


def test_one_in_use_is_not_touched(kernel: FakeKernel) -> None:
    engine = given(kernel)
    kernel.open_group(1)
    assert engine.undo_all().left
    assert not any("remove" in line for line in kernel.log())
    kernel.close_group(1)
    assert engine.undo_all().left == ()


def test_another_device_is_there_afterwards(kernel: FakeKernel) -> None:
    engine = given(kernel)
    kept = kernel.root / "sys/bus/pci/rescan"

    def swap(path: str, text: str) -> None:
        if path.endswith("pci/rescan"):
            (kernel.device(A) / "device").write_text("0x9999\n")

    kernel.after_write = swap
    outcome = engine.undo_all()
    assert "another device answers at this address" in str(outcome.problems[0])
    assert kept.exists()


def test_one_that_does_not_come_back(kernel: FakeKernel) -> None:
    engine = given(kernel)
    kernel.faults = [Fault("*/pci/rescan", errno.EIO)]
    outcome = engine.undo_all()
    assert "looking for devices on the PCI bus failed" in str(outcome.problems)
    kernel.faults = []
    assert engine.undo_all().left == ()  # tried again, it is found
    assert kernel.driver_of(A) == "bochs"


def test_killed_at_every_moment_it_is_found_by_the_next(kernel: FakeKernel) -> None:
    before = snapshot(kernel.root)
    for n in range(30, 200, 3):
        folder = kernel.root / f".model/run-{n}"
        folder.mkdir()
        killer = Killer(folder, n)
        status = in_process(
            lambda f=folder, k=killer: launch(kernel, f, k, steps())  # type: ignore[misc]
        )
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        assert in_process(lambda f=folder: recover(kernel, f / "journal")) == 0, n  # type: ignore[misc]
        assert snapshot(kernel.root) == before, f"killed at event {n}"
    assert n > 40


def test_it_is_told_as_the_last_resort() -> None:
    plan = planned('[[pci]]\ndevice = "01:00.0"\nreset = "rescan"\n', host(device("01:00.0")))
    assert said(plan) == []
    assert any("as the last resort" in text for text in said(plan, "warning"))
    (step,) = [s for s in plan.steps if isinstance(s, ResetDevices)]
    assert (step.method, step.return_to) == ("rescan", "auto")
