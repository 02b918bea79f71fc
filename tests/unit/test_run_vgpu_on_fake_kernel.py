"""A run's slices on the fake kernel: every write fails in turn, every moment is a SIGKILL."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch import children
from qlaunch.errors import HostError, NotRestoredError
from qlaunch.facts.pci import match_variant
from qlaunch.facts.vgpu_model import Sriov, VgpuFacts
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
from qlaunch.run.journal import create_journal, make_header, read_journal
from qlaunch.values import PciAddress, PciId
from tests.fake.failing import each_write_fails
from tests.fake.kernel_tree import HANG, Fault, snapshot
from tests.fake.kernel_vgpu import VgpuKernel
from tests.fake.plans import VGA, device, host, planned
from tests.fake.scripted import MemoryLog
from tests.unit.test_run_on_fake_kernel import (
    Killer,
    SlowKiller,
    in_process,
    killed_but_not_the_child,
    launch,
    recover,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"
FOREIGN = "11111111-2222-3333-4444-555555555555"
NVME, FIRST = PciAddress("0000:03:00.0"), PciAddress("0000:03:00.1")
GPU, GPU_VF = PciAddress("0000:41:00.0"), PciAddress("0000:41:00.4")
ME = (os.geteuid(), os.getegid())
MAKE = CreateMdev(uuid=UUID, parent="mdpy", type="mdpy-vga")
STEPS: list[Step] = [
    LoadModule(module="vfio_pci"),
    EnableVfs(address=NVME, count=2, uses=((0, FIRST),)),
    TakeDevice(address=FIRST, id=PciId("1b36:0010")),
    ResetDevices(addresses=(FIRST,)),
    MAKE,
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


def test_killed_at_every_moment_a_new_process_puts_the_host_back(kernel: VgpuKernel) -> None:
    before = snapshot(kernel.root)
    killed = 0
    for n in range(1, 200):
        folder = kernel.root / f".model/run-{n}"
        folder.mkdir()
        killer = Killer(folder, n)
        status = in_process(lambda f=folder, k=killer: launch(kernel, f, k, STEPS))  # type: ignore[misc]
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        killed += 1
        assert in_process(lambda f=folder: recover(kernel, f / "journal")) == 0, n  # type: ignore[misc]
        assert snapshot(kernel.root) == before, f"killed at event {n}"
    assert killed > 50
    assert not [p for p in (kernel.root / "run").rglob("*") if p.is_file()], "no note is left"
    assert snapshot(kernel.root) == before


@pytest.mark.parametrize("steps", [STEPS[1:3], STEPS[4:6]], ids=["function", "made"])
def test_a_dead_launchers_child_that_goes_on_is_waited_for(
    kernel: VgpuKernel, monkeypatch: pytest.MonkeyPatch, steps: list[Step]
) -> None:
    monkeypatch.setattr(children, "PROGRESS_FIRST", 0.01)
    assert killed_but_not_the_child(kernel, steps) >= 8


@pytest.mark.parametrize(
    ("pattern", "left"),
    [("*/create", 1), ("*/sriov_numvfs", 1), ("*/vfio-pci/bind", 2)],  # a function's card, too
)
def test_a_write_that_outlives_its_launcher_for_long_is_stuck(
    kernel: VgpuKernel, pattern: str, left: int
) -> None:
    before = snapshot(kernel.root)
    folder = kernel.root / ".model/hangs"
    folder.mkdir()
    killer = SlowKiller(folder, 1)

    def kill(path: str, _: str) -> None:
        if fnmatch.fnmatch(path, pattern):
            killer.go.touch()
            killer.hit()

    def work() -> None:
        killer.launcher = os.getpid()
        kernel.faults, kernel.before_write = [Fault(pattern, HANG)], kill
        journal = create_journal(folder, make_header(kernel.host(), "slices"))
        Engine(kernel.host(deadline=60.0), journal, HANDLERS).apply(STEPS)

    assert os.WIFSIGNALED(in_process(work))
    with pytest.raises(NotRestoredError, match="an earlier write to it has not returned") as told:
        recover(kernel, folder / "journal", deadline=4.0)
    assert len(told.value.problems) == left
    kernel.release()
    killer.end()
    recover(kernel, folder / "journal")
    assert snapshot(kernel.root) == before


def test_a_removal_that_hangs_is_not_done_for_the_next_recovery(kernel: VgpuKernel) -> None:
    """Its name is gone from the bus, and its instance is still held."""
    before = snapshot(kernel.root)
    folder = kernel.root / ".model/removal"
    folder.mkdir()
    journal = create_journal(folder, make_header(kernel.host(), "slices"))
    engine = Engine(kernel.host(deadline=4.0), journal, HANDLERS)
    engine.apply([MAKE])
    group = kernel.group_of(UUID)
    kernel.before_write = lambda *_: kernel.open_group(group)  # after the proof that it is free
    assert [left.stuck for left in engine.undo_all().left] == [True]
    kernel.before_write = None
    assert kernel.mdevs() == [FOREIGN]
    with pytest.raises(NotRestoredError, match="has not returned"):
        recover(kernel, folder / "journal", deadline=0.1)
    records = read_journal(folder / "journal").records
    [left] = Engine.resume(kernel.host(), MemoryLog(), HANDLERS, records).undo_all().left
    assert "still making or removing" in left.problems[0].message
    kernel.close_group(group)
    recover(kernel, folder / "journal", deadline=60.0)
    assert snapshot(kernel.root) == before


def test_somebodys_device_of_that_uuid_stays_when_the_undo_is_cut_short(
    kernel: VgpuKernel,
) -> None:
    """It came between our look and our `create`; only the failed write tells that it is theirs."""
    create = "sys/class/mdev_bus/mdpy/mdev_supported_types/mdpy-vga/create"

    def theirs(*_: str) -> None:
        kernel.before_write = None
        kernel.write(kernel.root / create, UUID.encode())

    kernel.before_write = theirs
    log = MemoryLog()
    with pytest.raises(HostError, match="somebody made"):
        Engine(kernel.host(), log, HANDLERS).apply([MAKE])
    kernel.before_write = None
    assert log.kinds() == ["intent", "failed", "undoing", "undone"]
    for cut in (2, 3):
        engine = Engine.resume(kernel.host(), MemoryLog(), HANDLERS, log.records[:cut])
        assert engine.undo_all().left == ()
        assert kernel.mdevs() == [FOREIGN, UUID]


@pytest.mark.parametrize("kind", ["pci", "vgpu"])
def test_a_variant_driver_of_another_name_than_its_module_at_the_first_start(
    kernel: VgpuKernel, kind: str
) -> None:
    """modules.alias has the module's name only; the driver's shows once it is loaded."""
    kernel.variants = {"xe_vfio_pci": "xe-vfio-pci"}
    name = match_variant(
        str(kernel.root), (("v00008086d*", "xe_vfio_pci"),), "pci:v00008086d000056C0sv0sd0bc03"
    )
    assert name == ("xe_vfio_pci", "xe_vfio_pci")
    if kind == "pci":
        card = device("05:00.0", "8086:56c0", VGA, group=9, driver="xe", vfio_driver=name.driver,
                      vfio_module=name.module)
        steps = planned('[[pci]]\ndevice = "05:00.0"\n', host(card)).steps
        kernel.add_device("0000:05:00.0", ids="8086:56c0", driver="xe", group=9)
        taken = PciAddress("0000:05:00.0")
    else:
        card = device("03:00.0", "1b36:0010", VGA, group=3, driver="nvme", sriov_total=2)
        sriov = Sriov(address=NVME, offset=1, vf_id=PciId("1b36:0010"), vfio_driver=name.driver,
                      vfio_module=name.module)
        facts = replace(host(card), vgpu=VgpuFacts(sriov=(sriov,)))
        steps = planned('[[vgpu]]\nkind = "vf"\nparent = "03:00.0"\n', facts).steps
        taken = FIRST
    work: list[Step] = [s for s in steps if isinstance(s, LoadModule | EnableVfs)]
    work += [replace(s, subsystem=None) for s in steps if isinstance(s, TakeDevice)]
    log = MemoryLog()
    Engine(kernel.host(), log, HANDLERS).apply(work)
    assert kernel.driver_of(taken) == "xe-vfio-pci"
    outcome = Engine.resume(kernel.host(), MemoryLog(), HANDLERS, log.records).undo_all()
    assert outcome.left == ()
    assert kernel.driver_of(taken) == ("xe" if kind == "pci" else None)


@pytest.mark.parametrize("rounds", [10, pytest.param(50, marks=pytest.mark.nightly)])
def test_rounds_leave_nothing(kernel: VgpuKernel, rounds: int) -> None:
    before = snapshot(kernel.root)
    for _ in range(rounds):
        engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
        engine.apply(STEPS)
        assert engine.undo_all().left == ()
    assert snapshot(kernel.root) == before
