"""Resets: never without the proof that nobody has the card, and the lists are put back."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.errors import HostError, StuckError
from qlaunch.host.reset import NO_METHOD, ResetDevicesHandler
from qlaunch.plan.steps import ResetDevices
from qlaunch.values import PciAddress
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import HANG, Fault, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

A, B = PciAddress("0000:01:00.0"), PciAddress("0000:01:00.1")
HANDLER = ResetDevicesHandler()
AUTO = ResetDevices(addresses=(A, B))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    kernel = FakeKernel(tmp_path)
    kernel.add_device(A, driver="vfio-pci", methods="pm bus", possible="pm")  # stale
    kernel.add_device(B, driver="vfio-pci", methods="flr")
    yield kernel
    kernel.release()


def resets(kernel: FakeKernel) -> list[str]:
    path = kernel.root / ".model/resets"
    return path.read_text().split() if path.exists() else []


def test_auto_leaves_a_stale_list_alone_because_probing_it_again_cannot_be_undone(
    kernel: FakeKernel,
) -> None:
    captured = HANDLER.capture(kernel.host(), AUTO)
    HANDLER.apply(kernel.host(), AUTO, captured)
    assert kernel.read(A, "reset_method") == "pm bus"
    assert kernel.log() == []
    told = HANDLER.undo(kernel.host(), AUTO, captured)
    assert told == "0000:01:00.0 was reset (pm); 0000:01:00.1 was reset (flr)"
    assert resets(kernel) == [A, B]
    assert kernel.read(A, "reset_method") == "pm bus"


def test_default_looks_again_and_what_cannot_be_put_back_is_told(kernel: FakeKernel) -> None:
    """Of a stale list: one that was true is as it was."""
    step = ResetDevices(addresses=(A, B), method="default")
    (kernel.device(B) / "reset_method").write_text("pm flr\n")
    (kernel.root / f".model/{B}/possible").write_text("flr pm")
    captured = HANDLER.capture(kernel.host(), step)
    HANDLER.apply(kernel.host(), step, captured)
    assert (kernel.read(A, "reset_method"), kernel.read(B, "reset_method")) == ("pm", "flr pm")
    told = HANDLER.undo(kernel.host(), step, captured)
    assert told == (
        "0000:01:00.0 was reset (pm); "
        "0000:01:00.0: reset_method was 'pm bus', of which the kernel takes 'pm'; "
        "0000:01:00.1 was reset (flr)"
    )
    assert (kernel.read(A, "reset_method"), kernel.read(B, "reset_method")) == ("pm", "pm flr")


def test_default_on_a_kernel_without_lists(tmp_path: Path) -> None:
    kernel = FakeKernel(tmp_path)
    path = kernel.add_device(A, driver="vfio-pci", methods="pm")
    (path / "reset_method").unlink()
    step = ResetDevices(addresses=(A,), method="default")
    captured = HANDLER.capture(kernel.host(), step)
    HANDLER.apply(kernel.host(), step, captured)
    assert kernel.log() == []


def test_a_card_alone_on_its_bus_is_reset_by_its_bus(tmp_path: Path) -> None:
    kernel = FakeKernel(tmp_path)
    kernel.add_device(A, driver="vfio-pci", methods="bus")
    step, before = ResetDevices(addresses=(A,)), snapshot(tmp_path)
    captured = HANDLER.capture(kernel.host(), step)
    HANDLER.apply(kernel.host(), step, captured)
    assert kernel.log() == []
    assert HANDLER.undo(kernel.host(), step, captured) == "0000:01:00.0 was reset (bus)"
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ["flr", "flr pm", "pm flr", ""])
def test_a_named_method_is_set_and_the_list_put_back(tmp_path: Path, text: str) -> None:
    kernel = FakeKernel(tmp_path)
    kernel.add_device(A, driver="vfio-pci", methods=text, possible="flr pm")
    step, before = ResetDevices(addresses=(A,), method="pm"), snapshot(tmp_path)
    captured = HANDLER.capture(kernel.host(), step)
    HANDLER.apply(kernel.host(), step, captured)
    assert kernel.read(A, "reset_method") == "pm"
    assert HANDLER.undo(kernel.host(), step, captured) == "0000:01:00.0 was reset (pm)"
    assert snapshot(tmp_path) == before


def test_a_refused_method_names_what_is_allowed(kernel: FakeKernel) -> None:
    step = ResetDevices(addresses=(B, A), method="flr")
    before = snapshot(kernel.root)
    captured = HANDLER.capture(kernel.host(), step)
    with pytest.raises(HostError) as caught:
        HANDLER.apply(kernel.host(), step, captured)
    assert caught.value.problems[0].where == A
    assert caught.value.problems[0].allowed == "pm bus"
    HANDLER.undo(kernel.host(), step, captured)
    assert snapshot(kernel.root) == before


def test_none_writes_nothing(kernel: FakeKernel) -> None:
    step = ResetDevices(addresses=(A, B), method="none")
    captured = HANDLER.capture(kernel.host(), step)
    HANDLER.apply(kernel.host(), step, captured)
    assert HANDLER.undo(kernel.host(), step, captured) is None
    assert kernel.log() == []


def test_nothing_is_written_while_the_group_is_open(kernel: FakeKernel) -> None:
    captured = HANDLER.capture(kernel.host(), AUTO)
    kernel.open_group(1)
    with pytest.raises(HostError, match="still in use") as caught:
        HANDLER.undo(kernel.host(), AUTO, captured)
    assert "dev/vfio/1" in caught.value.problems[0].where
    assert kernel.log() == []
    assert resets(kernel) == []


def test_a_device_under_a_host_driver_is_not_reset(tmp_path: Path) -> None:
    """As after a take-over that never happened."""
    kernel = FakeKernel(tmp_path)
    kernel.add_device(A, driver="bochs")
    kernel.add_device(B, group=1, methods="flr")
    captured = HANDLER.capture(kernel.host(), AUTO)
    assert HANDLER.undo(kernel.host(), AUTO, captured) == "0000:01:00.1 was reset (flr)"
    assert resets(kernel) == [B]


@pytest.mark.parametrize("methods", [None, ""])
def test_without_a_method_the_kernel_does_it(tmp_path: Path, methods: str | None) -> None:
    kernel = FakeKernel(tmp_path)
    kernel.add_device(A, driver="vfio-pci", methods=methods)
    step, before = ResetDevices(addresses=(A,)), snapshot(tmp_path)
    captured = HANDLER.capture(kernel.host(), step)
    HANDLER.apply(kernel.host(), step, captured)
    assert HANDLER.undo(kernel.host(), step, captured) == f"{A}: {NO_METHOD}"
    assert snapshot(tmp_path) == before


def test_enotty_is_no_fault(kernel: FakeKernel) -> None:
    kernel.faults = [Fault(f"*/{A}/reset", errno.ENOTTY)]
    captured = HANDLER.capture(kernel.host(), AUTO)
    told = HANDLER.undo(kernel.host(), AUTO, captured)
    assert told == f"{A}: {NO_METHOD}; {B} was reset (flr)"


def test_one_failure_does_not_keep_the_other_from_its_reset(kernel: FakeKernel) -> None:
    kernel.faults = [Fault(f"*/{A}/reset", errno.EIO)]
    captured = HANDLER.capture(kernel.host(), AUTO)
    with pytest.raises(HostError) as caught:
        HANDLER.undo(kernel.host(), AUTO, captured)
    assert [p.where for p in caught.value.problems] == [A]
    assert resets(kernel) == [B]


def test_a_card_that_is_dead_after_its_reset_is_told(kernel: FakeKernel) -> None:
    def die(path: str, _: str) -> None:
        if path.endswith(f"{A}/reset"):
            kernel.kill(A)

    kernel.after_write = die
    captured = HANDLER.capture(kernel.host(), AUTO)
    with pytest.raises(HostError, match="does not answer after its reset"):
        HANDLER.undo(kernel.host(), AUTO, captured)


def test_a_reset_that_hangs(kernel: FakeKernel) -> None:
    kernel.faults = [Fault(f"*/{A}/reset", HANG)]
    captured = HANDLER.capture(kernel.host(), AUTO)
    with pytest.raises(StuckError, match=f"resetting {A}"):
        HANDLER.undo(kernel.host(deadline=0.1), AUTO, captured)
