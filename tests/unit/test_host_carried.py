"""A card is back when its screens, sound, links and disks are, under whatever numbers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.host.carried import read_kinds
from qlaunch.host.handler import Host
from qlaunch.host.pci import TakeDeviceHandler
from qlaunch.plan.steps import TakeDevice
from qlaunch.values import PciAddress
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import ABSENT, Fault, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

GPU = PciAddress("0000:01:00.0")
AUDIO = PciAddress("0000:01:00.1")
TAKE = TakeDevice(address=GPU)
HANDLER = TakeDeviceHandler()


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    kernel = FakeKernel(tmp_path)
    kernel.add_driver("vfio-pci")
    kernel.add_device(GPU, driver="bochs-drm", nodes="drm/card drm/renderD", matches="efifb")
    kernel.add_device(AUDIO, driver="snd_hda_intel", nodes="sound/card")
    return kernel


def take(host: Host, step: TakeDevice = TAKE) -> dict[str, object]:
    captured = HANDLER.capture(host, step)
    HANDLER.apply(host, step, captured)
    return captured


def test_kinds_are_noted_without_numbers(kernel: FakeKernel) -> None:
    host = kernel.host()
    assert HANDLER.capture(host, TAKE)["kinds"] == ["drm/card", "drm/renderD"]
    assert HANDLER.capture(host, TakeDevice(address=AUDIO))["kinds"] == ["sound/card"]
    take(host)
    assert HANDLER.capture(host, TAKE)["kinds"] == []


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [("net/eth", "net"), ("nvme/nvme0/nvme0n", "block"), ("virtio3/block/vd", "block"),
     ("virtio3/net/eth", "net")],
)
def test_links_and_disks_are_kinds(kernel: FakeKernel, nodes: str, kind: str) -> None:
    kernel.add_device("0000:02:00.0", group=2, driver="some", nodes=nodes)
    assert read_kinds(kernel.host(), PciAddress("0000:02:00.0")) == [kind]


def test_a_controller_without_a_namespace_carries_no_disk(kernel: FakeKernel) -> None:
    kernel.add_device("0000:02:00.0", group=2, driver="nvme", nodes="nvme/nvme")
    assert read_kinds(kernel.host(), PciAddress("0000:02:00.0")) == []


def test_nodes_come_back_under_other_numbers(kernel: FakeKernel) -> None:
    host = kernel.host()
    captured = take(host)
    kernel.put(".model/number", "7")
    assert HANDLER.undo(host, TAKE, captured) == "0000:01:00.0 is back on bochs-drm"
    assert (kernel.device(GPU) / "drm/card7").exists()


def test_a_node_that_does_not_appear_is_named_and_the_rest_is_restored(kernel: FakeKernel) -> None:
    host, before = kernel.host(), snapshot(kernel.root)
    captured = take(host)
    kernel.faults = [Fault("*/drm/renderD*", ABSENT)]
    with pytest.raises(HostError) as caught:
        HANDLER.undo(host, TAKE, captured)
    problem = caught.value.problems[0]
    assert problem.where == GPU
    assert problem.message == (
        "the device is on bochs-drm again, but did not bring back its drm/renderD"
    )
    assert f"{GPU} | sudo tee /sys/bus/pci/drivers/bochs-drm/unbind" in problem.hint
    assert kernel.driver_of(GPU) == "bochs-drm"
    assert kernel.read(GPU, "driver_override") == "(null)"
    with pytest.raises(HostError, match="drm/renderD"):
        HANDLER.undo(host, TAKE, captured)
    kernel.faults = []
    kernel.make_nodes(GPU)
    assert HANDLER.undo(host, TAKE, captured) == "0000:01:00.0 is back on bochs-drm"
    assert snapshot(kernel.root) == before


def test_a_node_that_takes_its_time_is_waited_for(kernel: FakeKernel) -> None:
    host, step = kernel.host(settle=5.0), TakeDevice(address=AUDIO)
    captured = take(host, step)
    kernel.faults = [Fault("*/sound/card*", ABSENT)]

    def later() -> None:
        kernel.faults = []
        kernel.make_nodes(AUDIO)

    timer = threading.Timer(0.2, later)
    timer.start()
    try:
        assert HANDLER.undo(host, step, captured) == "0000:01:00.1 is back on snd_hda_intel"
    finally:
        timer.cancel()
        timer.join()


def test_another_driver_owes_no_nodes(kernel: FakeKernel) -> None:
    kernel.add_driver("efifb")
    kernel.faults = [Fault("*/drm/*", ABSENT)]
    step, host = TakeDevice(address=GPU, return_to="efifb"), kernel.host()
    captured = {**take(host, step), "kinds": ["drm/card"]}
    assert HANDLER.undo(host, step, captured) == "0000:01:00.0 is back on efifb"


def test_a_journal_of_before_says_nothing_of_kinds(kernel: FakeKernel) -> None:
    host = kernel.host()
    captured = take(host)
    del captured["kinds"]
    assert HANDLER.undo(host, TAKE, captured) == "0000:01:00.0 is back on bochs-drm"


def test_the_real_host_waits_seconds() -> None:
    assert Host().settle == 5.0
