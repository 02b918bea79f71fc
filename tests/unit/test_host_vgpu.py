"""Slices made and taken away on the fake kernel: whose they are, and what stays when in doubt."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.errors import HostError, StuckError
from qlaunch.host.handler import Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import (
    CreateMdev,
    EnableVfs,
    OwnDeviceGroup,
    ResetDevices,
    SetVfNet,
    SetVgpuType,
    Step,
    TakeDevice,
)
from qlaunch.values import PciAddress
from tests.fake.kernel_tree import HANG, Fault, snapshot
from tests.fake.kernel_vgpu import VgpuKernel

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"
OTHER = "11111111-2222-3333-4444-555555555555"
MAKE = CreateMdev(uuid=UUID, parent="mdpy", type="mdpy-vga")
NVME = PciAddress("0000:03:00.0")
FIRST, SECOND = PciAddress("0000:03:00.1"), PciAddress("0000:03:00.2")
ENABLE = EnableVfs(address=NVME, count=2, uses=((0, FIRST),))
GPU = PciAddress("0000:41:00.0")
GPU_VF = PciAddress("0000:41:00.4")
SET_TYPE = SetVgpuType(address=GPU_VF, type=557, name="NVIDIA RTX6000-Ada-8Q")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[VgpuKernel]:
    kernel = VgpuKernel(tmp_path)
    kernel.add_driver("vfio-pci")
    kernel.add_parent("mdpy", {"mdpy-vga": 1, "mdpy-hd": 2}, pool=4)
    kernel.add_device(NVME, ids="1b36:0010", driver="nvme", group=3, methods="flr")
    kernel.add_sriov(NVME, 2, matches="nvme")
    yield kernel
    kernel.release()


def begin(host: Host, step: Step) -> dict[str, Any]:
    handler = HANDLERS[type(step)]
    captured = handler.capture(host, step)
    handler.apply(host, step, captured)
    return captured


def undo(host: Host, step: Step, captured: dict[str, Any]) -> str | None:
    return HANDLERS[type(step)].undo(host, step, captured)


def write(kernel: VgpuKernel, path: str, text: str) -> None:
    kernel.write(kernel.root / path, text.encode())


CREATE = "sys/class/mdev_bus/mdpy/mdev_supported_types/mdpy-vga/create"


class TestMediatedDevices:
    def test_there_and_gone(self, kernel: VgpuKernel) -> None:
        before, host = snapshot(kernel.root), kernel.host()
        captured = begin(host, MAKE)
        assert kernel.mdevs() == [UUID]
        assert undo(host, MAKE, captured) == f"the mediated device {UUID} is removed"
        assert snapshot(kernel.root) == before
        assert undo(host, MAKE, captured) is None

    def test_one_that_somebody_made_meanwhile_is_refused_and_stays(
        self, kernel: VgpuKernel
    ) -> None:
        host, handler = kernel.host(), HANDLERS[CreateMdev]
        captured = handler.capture(host, MAKE)
        write(kernel, CREATE, UUID)
        with pytest.raises(HostError, match="somebody made a mediated device of this UUID"):
            handler.apply(host, MAKE, captured)
        assert handler.undo(host, MAKE, captured) is None
        assert kernel.mdevs() == [UUID]

    def test_one_that_came_between_plan_and_start_is_refused_and_stays(
        self, kernel: VgpuKernel
    ) -> None:
        write(kernel, CREATE, UUID.upper())
        with pytest.raises(HostError, match="somebody made"):
            begin(kernel.host(), MAKE)
        assert kernel.mdevs() == [UUID]

    def test_one_that_the_plan_saw_is_used_and_stays(self, kernel: VgpuKernel) -> None:
        write(kernel, CREATE, UUID)
        step = CreateMdev(uuid=UUID, parent="mdpy", type="mdpy-vga", existing=True)
        captured = begin(kernel.host(), step)
        assert undo(kernel.host(), step, captured) is None
        assert kernel.mdevs() == [UUID]

    def test_one_that_the_plan_saw_and_that_is_in_use_is_refused(
        self, kernel: VgpuKernel
    ) -> None:
        write(kernel, CREATE, UUID)
        kernel.open_group(kernel.group_of(UUID))
        step = CreateMdev(uuid=UUID, parent="mdpy", type="mdpy-vga", existing=True)
        with pytest.raises(HostError, match="in use"):
            begin(kernel.host(), step)

    def test_one_of_another_type_is_refused(self, kernel: VgpuKernel) -> None:
        write(kernel, CREATE.replace("vga", "hd"), UUID)
        step = CreateMdev(uuid=UUID, parent="mdpy", type="mdpy-vga", existing=True)
        with pytest.raises(HostError, match="another mediated device has this UUID"):
            begin(kernel.host(), step)

    def test_what_took_its_uuid_later_stays(self, kernel: VgpuKernel) -> None:
        host = kernel.host()
        captured = begin(host, MAKE)
        write(kernel, f"sys/bus/mdev/devices/{UUID}/remove", "1")
        write(kernel, CREATE.replace("vga", "hd"), UUID)
        assert "stays: it is mdpy-hd of mdpy" in (undo(host, MAKE, captured) or "")
        assert kernel.mdevs() == [UUID]

    @pytest.mark.parametrize("number", [errno.EUSERS, errno.ENOSPC])
    def test_the_last_instance_was_taken(self, kernel: VgpuKernel, number: int) -> None:
        kernel.no_room = number
        for n in range(4):
            write(kernel, CREATE, OTHER[:-1] + str(n))
        before = snapshot(kernel.root)
        with pytest.raises(HostError, match="did not make") as caught:
            begin(kernel.host(), MAKE)
        assert "another machine" in str(caught.value)
        assert snapshot(kernel.root) == before

    def test_a_type_that_is_gone(self, kernel: VgpuKernel) -> None:
        step = CreateMdev(uuid=UUID, parent="mdpy", type="mdpy-9k")
        with pytest.raises(HostError, match="mdpy makes no mdpy-9k"):
            begin(kernel.host(), step)

    def test_one_in_use_is_not_removed(self, kernel: VgpuKernel) -> None:
        """The write would wait, with the device's name gone already."""
        host = kernel.host()
        captured = begin(host, MAKE)
        group = kernel.group_of(UUID)
        kernel.open_group(group)
        with pytest.raises(HostError, match="in use"):
            undo(host, MAKE, captured)
        assert kernel.mdevs() == [UUID]
        kernel.close_group(group)
        assert undo(host, MAKE, captured) is not None
        assert kernel.mdevs() == []

    def test_a_remove_that_hangs_is_stuck(self, kernel: VgpuKernel) -> None:
        host = kernel.host(deadline=0.3)
        captured = begin(host, MAKE)
        kernel.faults = [Fault("*/remove", HANG)]
        with pytest.raises(StuckError):
            undo(host, MAKE, captured)

    def test_one_that_is_being_made_is_neither_removed_nor_given_up(
        self, kernel: VgpuKernel
    ) -> None:
        """A `remove` that comes too early fails, and cannot be written again."""
        host = kernel.host()
        captured = begin(host, MAKE)
        link = kernel.root / "sys/bus/mdev/devices" / UUID / "mdev_type"
        kind = link.readlink()
        link.unlink()
        with pytest.raises(HostError, match="still making or removing"):
            undo(host, MAKE, captured)
        assert not any("remove" in line for line in kernel.log())
        link.symlink_to(kind)
        assert undo(host, MAKE, captured) == f"the mediated device {UUID} is removed"

    def test_nvidia_may_remove_its_own(self, kernel: VgpuKernel) -> None:
        """Its driver does so when QEMU ends; a write that comes first fails on some versions."""
        kernel.add_device("0000:41:00.4", ids="10de:26b1", driver="nvidia", group=9)
        kernel.add_parent("0000:41:00.4", {"nvidia-557": 1}, pool=1)
        step = CreateMdev(uuid=UUID, parent="0000:41:00.4", type="nvidia-557")
        host = kernel.host(settle=20.0)
        captured = begin(host, step)
        pid = os.fork()
        if pid == 0:
            write(kernel, f"sys/bus/mdev/devices/{UUID}/remove", "1")
            os._exit(0)
        told = undo(host, step, captured)
        os.waitpid(pid, 0)
        assert kernel.mdevs() == []
        assert told is None or "removed" in told

    def test_its_group_belongs_to_qemus_account(self, kernel: VgpuKernel) -> None:
        host = kernel.host()
        step = OwnDeviceGroup(
            device=f"bus/mdev/devices/{UUID}", uid=os.geteuid(), gid=os.getegid()
        )
        with pytest.raises(HostError, match="no IOMMU group"):
            begin(host, step)
        made = begin(host, MAKE)
        node = kernel.root / "dev/vfio" / str(kernel.group_of(UUID))
        node.chmod(0o640)
        captured = begin(host, step)
        assert node.stat().st_mode & 0o777 == 0o600
        undo(host, step, captured)
        assert node.stat().st_mode & 0o777 == 0o640
        undo(host, MAKE, made)
        assert undo(host, step, captured) is None  # gone with its device


class TestVirtualFunctions:
    def test_there_and_off_again(self, kernel: VgpuKernel) -> None:
        before, host = snapshot(kernel.root), kernel.host()
        captured = begin(host, ENABLE)
        assert kernel.functions(NVME) == [FIRST, SECOND]
        assert kernel.driver_of(FIRST) is None, "autoprobe was off"
        log = [line for line in kernel.log() if "sriov" in line]
        assert [line.rpartition("/")[2] for line in log] == [
            "sriov_drivers_autoprobe 0", "sriov_numvfs 2",
        ]
        assert undo(host, ENABLE, captured) == f"the virtual functions of {NVME} are off"
        assert snapshot(kernel.root) == before
        assert undo(host, ENABLE, captured) is None

    def test_one_that_fell_off_the_bus_is_left_where_it_is(self, kernel: VgpuKernel) -> None:
        """Its ids are all ones at all times, its class only then."""
        host = kernel.host()
        begin(host, ENABLE)
        take = TakeDevice(address=FIRST)
        captured = begin(host, take)
        kernel.kill(FIRST)
        with pytest.raises(HostError, match="does not answer"):
            undo(host, take, captured)

    def test_a_count_of_somebody_elses_stays(self, kernel: VgpuKernel) -> None:
        write(kernel, f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "2")
        before, host = snapshot(kernel.root), kernel.host()
        captured = begin(host, ENABLE)
        assert undo(host, ENABLE, captured) is None
        assert snapshot(kernel.root) == before

    def test_the_last_machine_switches_off_whoever_came_first(self, kernel: VgpuKernel) -> None:
        before, host = snapshot(kernel.root), kernel.host()
        second = EnableVfs(address=NVME, count=2, uses=((1, SECOND),))
        first_captured, second_captured = begin(host, ENABLE), begin(host, second)
        take = TakeDevice(address=SECOND)
        taken = begin(host, take)
        told = undo(host, ENABLE, first_captured)
        assert told == f"the virtual functions of {NVME} stay on: {SECOND} is in use"
        undo(host, take, taken)
        assert undo(host, second, second_captured) == f"the virtual functions of {NVME} are off"
        assert snapshot(kernel.root) == before

    def test_one_of_our_own_that_did_not_come_back_keeps_the_step(
        self, kernel: VgpuKernel
    ) -> None:
        host = kernel.host()
        captured = begin(host, ENABLE)
        begin(host, TakeDevice(address=FIRST))
        with pytest.raises(HostError, match="still in use"):
            undo(host, ENABLE, captured)

    def test_a_count_that_somebody_changed_meanwhile_stays(self, kernel: VgpuKernel) -> None:
        host = kernel.host()
        captured = begin(host, ENABLE)
        path = f"sys/bus/pci/devices/{NVME}/sriov_numvfs"
        write(kernel, path, "0")
        write(kernel, path, "1")
        assert "somebody else set them" in (undo(host, ENABLE, captured) or "")
        assert kernel.functions(NVME) == [FIRST]
        assert kernel.read(NVME, "sriov_drivers_autoprobe") == "1", "the switch was ours"
        write(kernel, path, "0")
        assert undo(host, ENABLE, captured) is None, "nothing is noted any more"

    def test_functions_that_somebody_switched_off_are_given_up(self, kernel: VgpuKernel) -> None:
        """After a crash, say, by hand: `recover` must not ask for them for ever."""
        before, host = snapshot(kernel.root), kernel.host()
        steps = (ENABLE, TakeDevice(address=FIRST), ResetDevices(addresses=(FIRST,)),
                 OwnDeviceGroup(device=f"bus/pci/devices/{FIRST}", uid=os.geteuid(),
                                gid=os.getegid()))
        captured = [begin(host, step) for step in steps]
        write(kernel, f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "0")
        told = [undo(host, s, c) for s, c in zip(reversed(steps), reversed(captured), strict=True)]
        assert f"{FIRST} is gone: somebody switched the virtual functions off" in told
        assert snapshot(kernel.root) == before

    def test_with_their_card_they_are_not_given_up(self, kernel: VgpuKernel) -> None:
        host = kernel.host()
        begin(host, ENABLE)
        take = TakeDevice(address=FIRST)
        captured = begin(host, take)
        write(kernel, f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "0")
        kernel.remove(NVME)
        with pytest.raises(HostError, match="gone from the PCI bus"):
            undo(host, take, captured)

    def test_their_card_stays_with_its_driver(self, kernel: VgpuKernel) -> None:
        """They may have come between plan and start, and somebody may be using one."""
        host = kernel.host()
        begin(host, ENABLE)
        before, take = snapshot(kernel.root), TakeDevice(address=NVME)
        handler = HANDLERS[TakeDevice]
        with pytest.raises(HostError, match="2 virtual functions switched on"):
            handler.apply(host, take, handler.capture(host, take))
        assert snapshot(kernel.root) == before

    def test_a_function_of_the_hosts_is_not_pulled_away(self, kernel: VgpuKernel) -> None:
        host = kernel.host()
        captured = begin(host, ENABLE)
        write(kernel, f"sys/bus/pci/devices/{NVME}/sriov_drivers_autoprobe", "1")
        write(kernel, "sys/bus/pci/drivers/nvme/bind", SECOND)
        assert "stay on" in (undo(host, ENABLE, captured) or "")
        assert kernel.functions(NVME) == [FIRST, SECOND]

    @pytest.mark.parametrize(
        ("count", "number", "words"),
        [(9, errno.ERANGE, "sriov_totalvfs"), (2, errno.ENOMEM, "pci=realloc"),
         (2, errno.ENOSYS, "cannot switch")],
    )
    def test_what_the_kernel_refuses_is_explained_and_nothing_changed(
        self, kernel: VgpuKernel, count: int, number: int, words: str
    ) -> None:
        before, host = snapshot(kernel.root), kernel.host()
        if number != errno.ERANGE:
            kernel.faults = [Fault("*/sriov_numvfs", number)]
        step = EnableVfs(address=NVME, count=count)
        handler = HANDLERS[EnableVfs]
        captured = handler.capture(host, step)
        with pytest.raises(HostError) as caught:
            handler.apply(host, step, captured)
        assert words in str(caught.value)
        handler.undo(host, step, captured)
        assert snapshot(kernel.root) == before

    def test_a_dead_runs_note_knows_the_switch_as_it_was(self, kernel: VgpuKernel) -> None:
        """Killed between the two writes, and the next start comes before its recovery."""
        before, host = snapshot(kernel.root), kernel.host()
        kernel.faults = [Fault("*/sriov_numvfs", errno.EIO)]
        handler = HANDLERS[EnableVfs]
        with pytest.raises(HostError):
            handler.apply(host, ENABLE, handler.capture(host, ENABLE))
        kernel.faults = []
        captured = begin(host, ENABLE)
        undo(host, ENABLE, captured)
        assert snapshot(kernel.root) == before

    def test_a_function_elsewhere_than_planned_is_refused(self, kernel: VgpuKernel) -> None:
        step = EnableVfs(address=NVME, count=2, uses=((0, SECOND),))
        handler = HANDLERS[EnableVfs]
        captured = handler.capture(kernel.host(), step)
        with pytest.raises(HostError, match="not where it was expected") as told:
            handler.apply(kernel.host(), step, captured)
        handler.undo(kernel.host(), step, captured)  # so the next start sees none of them
        by_hand = f"echo 2 | sudo tee /sys/bus/pci/devices/{NVME}/sriov_numvfs"
        assert by_hand in told.value.problems[0].hint

    def test_a_function_elsewhere_than_planned_of_those_that_were_on_is_for_the_next_start(
        self, kernel: VgpuKernel
    ) -> None:
        write(kernel, f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "2")
        step = EnableVfs(address=NVME, count=2, uses=((0, SECOND),))
        with pytest.raises(HostError) as told:
            begin(kernel.host(), step)
        assert told.value.problems[0].hint == "start again, and the plan sees it"

    def test_a_function_in_its_physical_ones_group_is_refused(self, kernel: VgpuKernel) -> None:
        kernel.add_sriov(NVME, 2, matches="nvme", same_group=True)
        with pytest.raises(HostError, match="shares IOMMU group 3"):
            begin(kernel.host(), ENABLE)


class FakeNet:
    """A network card with two virtual functions."""

    def __init__(self) -> None:
        self.state = {0: {"mac": "00:00:00:00:00:00", "vlan": 0}}

    def call(self, verb: str, lock: int = -1, **arguments: Any) -> dict[str, Any]:
        one = self.state[arguments["number"]]
        assert arguments["ifname"] == "eno1"
        if verb == "set_vf":
            one |= {k: arguments[k] for k in ("mac", "vlan") if arguments[k] is not None}
        return dict(one)


class TestNetworkFunctions:
    STEP = SetVfNet(address=NVME, number=0, mac="52:54:00:00:00:07", vlan=12)

    @pytest.fixture(autouse=True)
    def functions(self, kernel: VgpuKernel) -> None:
        write(kernel, f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "2")

    def test_one_that_is_gone_needs_nothing_back(self, kernel: VgpuKernel) -> None:
        (kernel.device(NVME) / "net/eno1").mkdir(parents=True)
        host = kernel.host(net=FakeNet())
        captured = begin(host, self.STEP)
        write(kernel, f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "0")
        host = kernel.host(net=None)
        assert undo(host, self.STEP, captured) is None

    def test_set_and_given_back(self, kernel: VgpuKernel) -> None:
        (kernel.device(NVME) / "net/eno1").mkdir(parents=True)
        net = FakeNet()
        host = kernel.host(net=net)
        captured = begin(host, self.STEP)
        assert net.state[0] == {"mac": "52:54:00:00:00:07", "vlan": 12}
        undo(host, self.STEP, captured)
        assert net.state[0] == {"mac": "00:00:00:00:00:00", "vlan": 0}

    def test_only_what_was_set_is_given_back(self, kernel: VgpuKernel) -> None:
        (kernel.device(NVME) / "net/eno1").mkdir(parents=True)
        net = FakeNet()
        host = kernel.host(net=net)
        step = SetVfNet(address=NVME, number=0, vlan=12)
        captured = begin(host, step)
        net.state[0]["mac"] = "52:54:00:00:00:09"
        undo(host, step, captured)
        assert net.state[0] == {"mac": "52:54:00:00:00:09", "vlan": 0}

    def test_what_is_no_network_card_is_told(self, kernel: VgpuKernel) -> None:
        with pytest.raises(HostError, match="no network card"):
            begin(kernel.host(net=FakeNet()), self.STEP)


class TestNvidia:
    @pytest.fixture(autouse=True)
    def card(self, kernel: VgpuKernel) -> None:
        kernel.add_device(GPU, ids="10de:26b1", driver="nvidia", group=40, methods="bus")
        kernel.add_sriov(GPU, 3, offset=4, matches="nvidia")
        write(kernel, f"sys/bus/pci/devices/{GPU}/sriov_numvfs", "3")
        kernel.add_nvidia(
            GPU, [(557, "NVIDIA RTX6000-Ada-8Q", 8), (559, "NVIDIA RTX6000-Ada-16Q", 16)], pool=16
        )

    def current(self, kernel: VgpuKernel, address: str = GPU_VF) -> str:
        return kernel.read(address, "nvidia/current_vgpu_type")

    def test_there_and_gone(self, kernel: VgpuKernel) -> None:
        before, host = snapshot(kernel.root), kernel.host()
        captured = begin(host, SET_TYPE)
        assert self.current(kernel) == "557"
        assert kernel.driver_of(GPU_VF) == "nvidia", "it is not rebound"
        assert undo(host, SET_TYPE, captured) == f"the vGPU on {GPU_VF} is taken away"
        assert snapshot(kernel.root) == before

    def test_one_that_the_plan_has_seen_is_cleared_first_and_put_back(
        self, kernel: VgpuKernel
    ) -> None:
        host, step = kernel.host(), replace(SET_TYPE, existing=559)
        path = f"sys/bus/pci/devices/{GPU_VF}/nvidia/current_vgpu_type"
        write(kernel, path, "559")
        captured = begin(host, step)
        assert [line.rpartition(" ")[2] for line in kernel.log()[-2:]] == ["0", "557"]
        undo(host, step, captured)
        assert self.current(kernel) == "559"

    @pytest.mark.parametrize("moment", ["before capture", "after it"])
    @pytest.mark.parametrize("found", ["557", "559"])
    @pytest.mark.parametrize("existing", [0, 555])
    def test_one_that_came_since_the_plan_is_somebody_elses(
        self, kernel: VgpuKernel, moment: str, found: str, existing: int
    ) -> None:
        """Nobody may have it open yet, and of the type that was wanted it is no less theirs."""
        host, step = kernel.host(), replace(SET_TYPE, existing=existing)
        handler = HANDLERS[SetVgpuType]
        path = f"sys/bus/pci/devices/{GPU_VF}/nvidia/current_vgpu_type"
        captured = handler.capture(host, step)
        write(kernel, path, found)
        if moment == "before capture":
            captured = handler.capture(host, step)
        with pytest.raises(HostError, match="somebody made a vGPU on the function meanwhile") as no:
            handler.apply(host, step, captured)
        assert f"found:   type {found}" in str(no.value)
        undo(host, step, captured)
        assert self.current(kernel) == found
        assert [line for line in kernel.log() if line.endswith(" 0")] == []

    def test_a_function_in_use_is_not_touched(self, kernel: VgpuKernel) -> None:
        host = kernel.host()
        kernel.open_group(kernel.group(GPU_VF) or 0)
        with pytest.raises(HostError, match="in use"):
            begin(host, SET_TYPE)
        assert not any("current_vgpu_type" in line for line in kernel.log())

    def test_a_release_comes_too_late_for_the_next_owner(self, kernel: VgpuKernel) -> None:
        host = kernel.host()
        captured = begin(host, SET_TYPE)
        path = f"sys/bus/pci/devices/{GPU_VF}/nvidia/current_vgpu_type"
        write(kernel, path, "0")
        write(kernel, path, "559")
        assert "which stays" in (undo(host, SET_TYPE, captured) or "")
        assert self.current(kernel) == "559"

    def test_a_release_while_it_is_open_is_refused(self, kernel: VgpuKernel) -> None:
        host = kernel.host()
        captured = begin(host, SET_TYPE)
        kernel.open_group(kernel.group(GPU_VF) or 0)
        with pytest.raises(HostError, match="in use"):
            undo(host, SET_TYPE, captured)
        assert self.current(kernel) == "557"

    def test_a_driver_that_does_not_let_go_at_once_is_asked_again(
        self, kernel: VgpuKernel
    ) -> None:
        host = kernel.host()
        captured = begin(host, SET_TYPE)
        stubborn = kernel.root / ".model" / GPU_VF / "stubborn"
        stubborn.write_text("4")
        assert undo(host, SET_TYPE, captured) is not None
        assert self.current(kernel) == "0"
        captured = begin(host, SET_TYPE)
        stubborn.write_text("99")
        with pytest.raises(HostError):
            undo(host, SET_TYPE, captured)

    def test_what_can_be_made_changes_with_what_is_made(self, kernel: VgpuKernel) -> None:
        begin(kernel.host(), SET_TYPE)
        other = SetVgpuType(address=PciAddress("0000:41:00.5"), type=559)
        with pytest.raises(HostError, match="cannot be set to 559") as caught:
            begin(kernel.host(), other)
        assert "its other vGPUs decide" in str(caught.value)
