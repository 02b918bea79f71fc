"""A run's slices on the fake kernel: every write fails in turn, every moment is a SIGKILL."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import (
    CreateMdev,
    EnableVfs,
    LoadModule,
    OwnDeviceGroup,
    ResetDevices,
    SetVgpuType,
    Step,
    TakeDevice,
)
from qlaunch.run.engine import Engine
from qlaunch.run.journal import Record, create_journal, make_header
from qlaunch.values import PciAddress, PciId
from tests.fake.failing import each_write_fails
from tests.fake.kernel_tree import snapshot
from tests.fake.kernel_vgpu import VgpuKernel
from tests.fake.scripted import MemoryLog
from tests.unit.test_run_on_fake_kernel import Killer, in_process, recover

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"
FOREIGN = "11111111-2222-3333-4444-555555555555"
NVME, FIRST = PciAddress("0000:03:00.0"), PciAddress("0000:03:00.1")
GPU, GPU_VF = PciAddress("0000:41:00.0"), PciAddress("0000:41:00.4")
ME = (os.geteuid(), os.getegid())
STEPS: list[Step] = [
    LoadModule(module="vfio_pci"),
    EnableVfs(address=NVME, count=2, uses=((0, FIRST),)),
    TakeDevice(address=FIRST, id=PciId("1b36:0010")),
    ResetDevices(addresses=(FIRST,)),
    CreateMdev(uuid=UUID, parent="mdpy", type="mdpy-vga"),
    SetVgpuType(address=GPU_VF, type=557, name="NVIDIA RTX6000-Ada-8Q"),
    OwnDeviceGroup(device=f"bus/pci/devices/{FIRST}", uid=ME[0], gid=ME[1]),
    OwnDeviceGroup(device=f"bus/mdev/devices/{UUID}", uid=ME[0], gid=ME[1]),
]


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[VgpuKernel]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        kernel = VgpuKernel(Path(folder))
        kernel.run(["modprobe", "--", "vfio_pci"])
        parent = kernel.add_parent("mdpy", {"mdpy-vga": 1, "mdpy-hd": 2}, pool=4)
        kernel.write(
            parent / "mdev_supported_types/mdpy-vga/create", FOREIGN.encode()
        )  # somebody else's, which stays whatever happens
        kernel.add_device(NVME, ids="1b36:0010", driver="nvme", group=3, methods="flr")
        kernel.add_sriov(NVME, 2, matches="nvme")
        kernel.add_device(GPU, ids="10de:26b1", driver="nvidia", group=40, methods="bus")
        kernel.add_sriov(GPU, 1, offset=4, matches="nvidia")
        kernel.write(kernel.device(GPU) / "sriov_numvfs", b"1")
        kernel.add_nvidia(GPU, [(557, "NVIDIA RTX6000-Ada-8Q", 8)], pool=16)
        yield kernel
        kernel.release()


def test_there_and_back(kernel: VgpuKernel) -> None:
    before = snapshot(kernel.root)
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply(STEPS)
    assert kernel.mdevs() == [FOREIGN, UUID]
    assert kernel.driver_of(FIRST) == "vfio-pci"
    assert engine.undo_all().sentences == (
        f"the vGPU on {GPU_VF} is taken away",
        f"the mediated device {UUID} is removed",
        f"{FIRST} was reset (flr)",
        f"{FIRST} is without a driver, as before",
        f"the virtual functions of {NVME} are off",
    )
    assert snapshot(kernel.root) == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_every_write_of_the_apply_fails_in_turn(kernel: VgpuKernel, moment: str) -> None:
    # autoprobe, count, override, bind, create, type
    assert each_write_fails(kernel, moment, STEPS, snapshot) == 6


def launch(kernel: VgpuKernel, folder: Path, killer: Killer) -> None:
    killer.launcher = os.getpid()
    kernel.before_write = kernel.after_write = killer.hit
    host = kernel.host()
    journal = create_journal(folder, make_header(host, "slices"))

    class Hit:
        def write(self, record: Record) -> None:
            journal.write(record)
            killer.hit()

    engine = Engine(host, Hit(), HANDLERS)
    engine.apply(STEPS)
    engine.undo_all().check()


def test_killed_at_every_moment_a_new_process_puts_the_host_back(kernel: VgpuKernel) -> None:
    before = snapshot(kernel.root)
    killed = 0
    for n in range(1, 200):
        folder = kernel.root / f".model/run-{n}"
        folder.mkdir()
        killer = Killer(folder, n)
        status = in_process(lambda f=folder, k=killer: launch(kernel, f, k))  # type: ignore[misc]
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        killed += 1
        assert in_process(lambda f=folder: recover(kernel, f / "journal")) == 0, n  # type: ignore[misc]
        assert snapshot(kernel.root) == before, f"killed at event {n}"
    assert killed > 50
    assert not [p for p in (kernel.root / "run").rglob("*") if p.is_file()], "no note is left"
    assert snapshot(kernel.root) == before


@pytest.mark.parametrize("rounds", [10, pytest.param(50, marks=pytest.mark.nightly)])
def test_rounds_leave_nothing(kernel: VgpuKernel, rounds: int) -> None:
    before = snapshot(kernel.root)
    for _ in range(rounds):
        engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
        engine.apply(STEPS)
        assert engine.undo_all().left == ()
    assert snapshot(kernel.root) == before
