"""Power, device nodes, modules and huge pages against the fake kernel; every step has a handler."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.host.handler import Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.host.memory import ReserveHugePagesHandler
from qlaunch.host.modules import LoadModuleHandler
from qlaunch.host.nodes import OwnGroupHandler, OwnNodeHandler
from qlaunch.host.power import HoldPowerHandler
from qlaunch.plan.steps import (
    STEP_KINDS,
    HoldPower,
    LoadModule,
    OwnGroup,
    OwnNode,
    ReserveHugePages,
)
from qlaunch.values import HostPath, PciAddress
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import snapshot

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

UID = 1234 if os.geteuid() == 0 else os.geteuid()
GID = 1234 if os.geteuid() == 0 else os.getegid()
GPU = PciAddress("0000:01:00.0")
NODE = OwnNode(path=HostPath("/dev/kvm"), uid=UID, gid=GID, mode=0o600)
GROUP = OwnGroup(address=PciAddress("0000:01:00.0"), group=7, uid=UID, gid=GID)
PAGES = ReserveHugePages(size=2 << 20, count=8)


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path)


def test_every_step_has_a_handler() -> None:
    assert set(HANDLERS) == set(STEP_KINDS)


def test_a_node_is_lent(kernel: FakeKernel) -> None:
    node = kernel.put("dev/kvm", "")
    node.chmod(0o660)
    before, host, handler = snapshot(kernel.root), kernel.host(), OwnNodeHandler()
    captured = handler.capture(host, NODE)
    handler.apply(host, NODE, captured)
    found = node.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (UID, GID, 0o600)
    assert handler.undo(host, NODE, captured)
    assert handler.undo(host, NODE, captured) is None
    assert snapshot(kernel.root) == before


def test_a_symlink_is_not_followed(kernel: FakeKernel) -> None:
    secret = kernel.put("shadow", "")
    secret.chmod(0o640)
    (kernel.root / "dev/kvm").symlink_to(secret)
    with pytest.raises(HostError, match="not a device node"):
        OwnNodeHandler().capture(kernel.host(), NODE)
    with pytest.raises(HostError, match="not a device node"):
        OwnNodeHandler().apply(kernel.host(), NODE, {})
    assert secret.stat().st_mode & 0o777 == 0o640


def test_a_second_name_of_a_file_is_refused(kernel: FakeKernel) -> None:
    secret = kernel.put("shadow", "")
    (kernel.root / "dev/kvm").hardlink_to(secret)
    with pytest.raises(HostError, match="not a device node"):
        OwnNodeHandler().apply(kernel.host(), NODE, {})


def test_the_group_node_may_come_late(kernel: FakeKernel) -> None:
    host, handler = kernel.host(settle=2.0), OwnGroupHandler()
    captured = handler.capture(host, GROUP)
    assert captured == {}
    late = threading.Timer(0.1, lambda: (kernel.root / "dev/vfio/7").touch(mode=0o640))
    late.start()
    handler.apply(host, GROUP, captured)
    late.join()
    assert captured["mode"] == 0o640
    node = kernel.root / "dev/vfio/7"
    assert node.stat().st_mode & 0o777 == 0o600
    assert handler.undo(host, GROUP, captured)
    assert node.stat().st_mode & 0o777 == 0o640
    node.unlink()
    assert handler.undo(host, GROUP, captured) is None


def test_a_group_node_that_does_not_come(kernel: FakeKernel) -> None:
    with pytest.raises(HostError, match="did not appear"):
        OwnGroupHandler().apply(kernel.host(), GROUP, {})
    assert OwnGroupHandler().undo(kernel.host(), GROUP, {}) is None


def test_a_new_node_of_the_old_name_is_left(kernel: FakeKernel) -> None:
    """Unbound and bound again: the kernel's defaults hold, what we captured is of another node."""
    node = kernel.root / "dev/vfio/7"
    node.touch(mode=0o600)
    captured = OwnGroupHandler().capture(kernel.host(), GROUP)
    node.rename(kernel.root / "dev/vfio/old")
    node.touch(mode=0o640)
    assert OwnGroupHandler().undo(kernel.host(), GROUP, captured) is None
    assert node.stat().st_mode & 0o777 == 0o640


def test_udev_is_waited_for(kernel: FakeKernel) -> None:
    """It sets owner and mode once more when it comes to the node."""
    kernel.put("dev/kvm", "")
    kernel.put("run/udev/control", "")
    queue = kernel.put("run/udev/queue", "")
    number = (kernel.root / "dev/kvm").stat().st_rdev
    kernel.put(f"run/udev/data/c{os.major(number)}:{os.minor(number)}", "")
    late = threading.Timer(0.15, queue.unlink)
    late.start()
    start = time.monotonic()
    OwnNodeHandler().apply(kernel.host(settle=2.0), NODE, {})
    passed = time.monotonic() - start
    late.join()
    assert 0.1 < passed < 1.5


def test_modules(kernel: FakeKernel) -> None:
    handler, host = LoadModuleHandler(), kernel.host()
    step = LoadModule(module="vfio-pci")
    assert handler.capture(host, step) == {"loaded": False}
    (kernel.root / "sys/module/vfio_pci").mkdir()
    assert handler.capture(host, step) == {"loaded": True}
    handler.apply(host, step, {"loaded": True})
    assert handler.undo(host, step, {"loaded": True}) is None
    handler.apply(host, LoadModule(module="vfio_iommu_type1"), {"loaded": False})
    assert (kernel.root / "sys/module/vfio_iommu_type1").is_dir()


def test_a_built_in_module_is_loaded(kernel: FakeKernel) -> None:
    kernel.put("lib/modules/6.1.0-test/modules.builtin", "kernel/drivers/vfio/pci/vfio-pci.ko\n")
    step = LoadModule(module="vfio_pci")
    assert LoadModuleHandler().capture(kernel.host(), step) == {"loaded": True}


def test_a_module_that_is_not_there(kernel: FakeKernel) -> None:
    with pytest.raises(HostError, match="FATAL: Module nvidia"):
        LoadModuleHandler().apply(kernel.host(), LoadModule(module="nvidia"), {"loaded": False})


def pages(pool: Path, name: str = "nr") -> int:
    return int((pool / f"{name}_hugepages").read_text())


def reserve(host: Host, step: ReserveHugePages = PAGES) -> dict[str, object]:
    captured = ReserveHugePagesHandler().capture(host, step)
    ReserveHugePagesHandler().apply(host, step, captured)
    return captured


@pytest.mark.parametrize(
    ("total", "free", "raised"), [(0, 0, 8), (4, 4, 4), (4, 1, 7), (20, 8, 0), (20, 20, 0)]
)
def test_the_pool_is_raised_and_lowered(
    kernel: FakeKernel, total: int, free: int, raised: int
) -> None:
    pool = kernel.add_hugepages(total, free, limit=100)
    before, host = snapshot(kernel.root), kernel.host()
    captured = reserve(host)
    assert pages(pool) == total + raised
    assert pages(pool, "free") >= 8
    ReserveHugePagesHandler().undo(host, PAGES, captured)
    assert snapshot(kernel.root) == before


def test_a_node_has_its_own_pool(kernel: FakeKernel) -> None:
    pool = kernel.add_hugepages(0, 0, limit=100, folder="sys/devices/system/node/node1")
    step = ReserveHugePages(size=2 << 20, count=3, node=1)
    captured = reserve(kernel.host(), step)
    assert pages(pool) == 3
    ReserveHugePagesHandler().undo(kernel.host(), step, captured)
    assert pages(pool) == 0


def test_fewer_pages_than_asked(kernel: FakeKernel) -> None:
    kernel.add_hugepages(2, 1, limit=6)
    before, host = snapshot(kernel.root), kernel.host()
    captured = ReserveHugePagesHandler().capture(host, PAGES)
    with pytest.raises(HostError) as caught:
        ReserveHugePagesHandler().apply(host, PAGES, captured)
    assert caught.value.problems[0].found == "5 of 8 pages of 2048 KiB"
    assert "hugepagesz=2048K hugepages=8" in caught.value.problems[0].hint
    ReserveHugePagesHandler().undo(host, PAGES, captured)
    assert snapshot(kernel.root) == before


@pytest.mark.parametrize("node", [None, 1])
def test_memory_in_pieces_is_compacted(kernel: FakeKernel, node: int | None) -> None:
    folder = "sys/kernel/mm" if node is None else "sys/devices/system/node/node1"
    pool = kernel.add_hugepages(1, 0, limit=3, folder=folder)
    kernel.put(".model/pieces", "50")
    where = "proc/sys/vm/compact_memory" if node is None else f"{folder}/compact"
    kernel.put(where, "")
    step = ReserveHugePages(size=2 << 20, count=8, node=node)
    captured = reserve(kernel.host(), step)
    assert (pages(pool), captured["raised"]) == (9, 8)
    ReserveHugePagesHandler().undo(kernel.host(), step, captured)
    assert pages(pool) == 1


def test_no_compaction_without_need(kernel: FakeKernel) -> None:
    kernel.add_hugepages(0, 0, limit=100)
    kernel.put(".model/pieces", "50")
    kernel.put("proc/sys/vm/compact_memory", "")
    reserve(kernel.host())
    assert (kernel.root / ".model/pieces").read_text() == "50"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_machines_end_in_any_order(kernel: FakeKernel, order: tuple[int, int]) -> None:
    pool = kernel.add_hugepages(3, 0, limit=100)
    host = kernel.host()
    first = reserve(host)
    (pool / "free_hugepages").write_text("0\n")  # its guest has them
    second = reserve(host)
    assert pages(pool) == 19
    (pool / "free_hugepages").write_text("16\n")
    for index in order:
        ReserveHugePagesHandler().undo(host, PAGES, (first, second)[index])
    assert pages(pool) == 3


def test_pages_in_use_elsewhere_become_surplus(kernel: FakeKernel) -> None:
    pool = kernel.add_hugepages(0, 0, limit=100)
    captured = reserve(kernel.host())
    (pool / "free_hugepages").write_text("3\n")
    told = ReserveHugePagesHandler().undo(kernel.host(), PAGES, captured)
    assert told is not None
    assert "5 in use elsewhere" in told
    assert pages(pool) - pages(pool, "surplus") == 0


def test_an_undo_that_does_not_know_takes_nobody_elses_pages(kernel: FakeKernel) -> None:
    """Killed between intent and apply: only what stands above the captured total may go."""
    pool = kernel.add_hugepages(10, 4, limit=100)
    captured = ReserveHugePagesHandler().capture(kernel.host(), PAGES)
    assert ReserveHugePagesHandler().undo(kernel.host(), PAGES, captured) is None
    assert pages(pool) == 10
    (pool / "nr_hugepages").write_text("14\n")
    (pool / "free_hugepages").write_text("8\n")
    ReserveHugePagesHandler().undo(kernel.host(), PAGES, captured)
    assert pages(pool) == 10


def test_a_page_size_the_host_does_not_have(kernel: FakeKernel) -> None:
    with pytest.raises(HostError, match="no huge pages of 1048576 KiB"):
        ReserveHugePagesHandler().capture(
            kernel.host(), ReserveHugePages(size=1 << 30, count=1)
        )


def test_d3cold_is_held_and_let_go(kernel: FakeKernel) -> None:
    kernel.add_device(GPU, driver="bochs")
    handler, step, host = HoldPowerHandler(), HoldPower(address=GPU), kernel.host()
    before = snapshot(kernel.root)
    captured = handler.capture(host, step)
    handler.apply(host, step, captured)
    assert kernel.read(GPU, "d3cold_allowed") == "0"
    handler.undo(host, step, captured)
    handler.undo(host, step, captured)
    assert snapshot(kernel.root) == before


def test_d3cold_where_there_is_none(kernel: FakeKernel) -> None:
    kernel.add_device(GPU, driver="bochs")
    (kernel.root / "sys/devices/pci0000:00" / GPU / "d3cold_allowed").unlink()
    handler, step, host = HoldPowerHandler(), HoldPower(address=GPU), kernel.host()
    captured = handler.capture(host, step)
    handler.apply(host, step, captured)
    assert handler.undo(host, step, captured) is None
    assert kernel.log() == []
