"""A PCI device leaves a running Linux guest and comes back; guests that refuse or never answer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlaunch.errors import HostError
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.unplug import plug, plugged_in, unplug
from tests.fake.guest import Guest, make_guest
from tests.fake.loop import run
from tests.qemu.conftest import Machine, Start

pytestmark = pytest.mark.qemu
COUNT = "$(cat /sys/bus/pci/devices/*/vendor | grep -c 0x1af4)"
SCRIPT = f"""\
last=
while true; do
  now={COUNT}
  [ "$now" = "$last" ] || echo "guest: $now virtio functions."
  last=$now
  sleep 1
done
"""
PORT = ("-device", "{port},id=rp0,bus=pcie.0,addr=1c.0,chassis=1")
TWO = (
    "-device", "virtio-rng-pci,bus=rp0,addr=00.0,multifunction=on,id=one",
    "-device", "virtio-rng-pci,bus=rp0,addr=00.1,id=two",
)
ADD: list[dict[str, Any]] = [
    {"driver": "virtio-rng-pci", "bus": "rp0", "addr": "00.1", "id": "two"},
    {"driver": "virtio-rng-pci", "bus": "rp0", "addr": "00.0", "multifunction": True, "id": "one"},
]


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-guest-") as name:
        yield make_guest(Path(name), SCRIPT)


def linux(start: Start, guest: Guest, *extra: str) -> Machine:
    return start(
        "-m", "192", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd),
        "-append", guest.append, *extra, paused=False,
    )


@pytest.mark.parametrize("port", ["pcie-root-port", "ioh3420"])
def test_both_functions_of_a_card_leave_and_come_back(
    start: Start, guest: Guest, port: str
) -> None:
    machine = linux(start, guest, *(word.format(port=port) for word in PORT), *TWO)
    machine.read_serial("guest: 3 virtio functions.")  # the boot disk is one

    async def play() -> None:
        said: list[str] = []
        async with await Monitor.connect(machine.control) as monitor:
            assert {"one", "two"} <= await plugged_in(monitor)
            await unplug(monitor, ["one", "two"], say=said.append)
            assert not {"one", "two"} & await plugged_in(monitor)
            await unplug(monitor, ["one", "two"], say=said.append)  # out already
            machine.read_serial("guest: 1 virtio functions.")
            await plug(monitor, ADD, timeout=30)
            machine.read_serial("guest: 3 virtio functions.")

    run(play())


def test_a_guest_without_a_system_never_answers(start: Start) -> None:
    machine = start(*(word.format(port="pcie-root-port") for word in PORT), *TWO, paused=False)
    machine.read_serial("qlaunch: ")

    async def play() -> None:
        said: list[str] = []
        async with await Monitor.connect(machine.control) as monitor:
            with pytest.raises(HostError, match="has not let go of one, two within 6 s"):
                await unplug(monitor, ["one", "two"], timeout=6, say=said.append)
            assert {"one", "two"} <= await plugged_in(monitor)
            assert said == ["waiting for the guest to let go of one (5 s)"]

    run(play())


def test_no_hotplug_on_bus_0_and_none_while_paused(start: Start) -> None:
    machine = start("-device", "virtio-rng-pci,bus=pcie.0,addr=1d.0,id=one")

    async def play() -> None:
        async with await Monitor.connect(machine.control) as monitor:
            with pytest.raises(HostError, match=r"the guest does not run(.|\n)*prelaunch"):
                await unplug(monitor, ["one"], say=print)
            await monitor.execute("cont")
            with pytest.raises(HostError, match="its place has no hot-plug"):
                await unplug(monitor, ["one"], say=print)

    run(play())


def test_what_was_added_before_a_refused_function_is_taken_out(
    start: Start, guest: Guest
) -> None:
    machine = linux(start, guest, *(word.format(port="pcie-root-port") for word in PORT))
    machine.read_serial("guest: 1 virtio functions.")

    async def play() -> None:
        async with await Monitor.connect(machine.control) as monitor:
            bad = [ADD[0], ADD[1] | {"driver": "no-such-device"}]
            with pytest.raises(HostError, match="no-such-device"):
                await plug(monitor, bad, timeout=30)
            assert "two" not in await plugged_in(monitor)

    run(play())
