"""The size of a card's resizable BAR: set while no driver has the card, and put back."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.errors import HostError, ProfileError
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import LoadModule, Step, TakeDevice
from qlaunch.profile.read import read_profile
from qlaunch.run.engine import Engine
from qlaunch.values import PciAddress
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import Fault, snapshot
from tests.fake.plans import AUDIO, device, host, planned
from tests.fake.scripted import MemoryLog
from tests.unit.test_run_on_fake_kernel import Killer, in_process, launch, recover

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
GPU = PciAddress("0000:01:00.0")
START = 1 << 40


def bars(*sizes: int) -> str:
    return "".join(
        f"0x{START * bool(s):016x} 0x{START + s - 1 if s else 0:016x} 0x0\n" for s in sizes
    )


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    kernel = FakeKernel(tmp_path)
    kernel.run(["modprobe", "--", "vfio_pci"])
    path = kernel.add_device(GPU, driver="bochs", methods="flr", nodes="drm/card")
    # 256 MiB to 8 GiB, now 8 GiB; and a doorbell of 2 MiB that could be 256 MiB.
    (path / "resource0_resize").write_text("0000000000003f00\n")
    (path / "resource2_resize").write_text("0000000000000102\n")
    (path / "resource").write_text(bars(8 << 30, 0, 2 << 20, 0, 0, 0))
    yield kernel
    kernel.release()


def steps(size: int = 256 << 20, return_to: str = "auto") -> list[Step]:
    return [LoadModule(module="vfio_pci"), TakeDevice(address=GPU, rebar=size, return_to=return_to)]


def size_of(kernel: FakeKernel, number: int = 0) -> int:
    start, end = kernel.read(GPU, "resource").splitlines()[number].split()[:2]
    return int(end, 16) - int(start, 16) + 1


def given(kernel: FakeKernel, *, size: int = 256 << 20, return_to: str = "auto") -> Engine:
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply(steps(size, return_to))
    return engine


def test_between_unbind_and_bind_and_back(kernel: FakeKernel) -> None:
    before = snapshot(kernel.root)
    engine = given(kernel)
    assert (size_of(kernel), size_of(kernel, 2)) == (256 << 20, 2 << 20)
    assert [line.rpartition("/")[2] for line in kernel.log()] == [
        "driver_override vfio-pci", f"unbind {GPU}", "resource0_resize 8", f"bind {GPU}"]
    assert engine.undo_all().sentences == (f"{GPU} is back on bochs",)
    assert size_of(kernel) == 8 << 30
    assert snapshot(kernel.root) == before


def test_a_card_that_is_and_stays_with_vfio(kernel: FakeKernel) -> None:
    given(kernel, size=512 << 20, return_to="vfio-pci").undo_all()
    assert (kernel.driver_of(GPU), size_of(kernel)) == ("vfio-pci", 8 << 30)
    engine = given(kernel)
    assert (kernel.driver_of(GPU), size_of(kernel)) == ("vfio-pci", 256 << 20)
    assert engine.undo_all().sentences == (f"{GPU} stays on vfio-pci, as before",)
    assert (kernel.driver_of(GPU), size_of(kernel)) == ("vfio-pci", 8 << 30)
    kernel.open_group(1)
    with pytest.raises(HostError, match="still in use"):
        given(kernel)
    assert size_of(kernel) == 8 << 30
    kernel.close_group(1)


def test_refusals_leave_the_host_as_it_was(kernel: FakeKernel) -> None:
    before = snapshot(kernel.root)
    with pytest.raises(HostError, match=r"BAR 0 of the card cannot have(.|\n)*256M, 512M(.|\n)*8G"):
        given(kernel, size=128 << 20)
    kernel.faults = [Fault("*/resource0_resize", errno.ENOSPC)]
    with pytest.raises(HostError, match=r"no room for it(.|\n)*Above 4G"):
        given(kernel)
    kernel.faults = []
    for number in (0, 2):
        (kernel.device(GPU) / f"resource{number}_resize").rename(kernel.root / f".model/{number}")
    with pytest.raises(HostError, match="no resizable BAR"):
        given(kernel)
    for number in (0, 2):
        (kernel.root / f".model/{number}").rename(kernel.device(GPU) / f"resource{number}_resize")
    assert snapshot(kernel.root) == before


def test_killed_at_every_moment(kernel: FakeKernel) -> None:
    # Where the fake kernel puts BARs from the first resize on.
    given(kernel).undo_all()
    before = snapshot(kernel.root)
    for n in range(1, 100, 2):
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
    assert n > 12


def test_only_the_function_that_is_named() -> None:
    facts = host(device("01:00.0"), device("01:00.1", cls=AUDIO))
    plan = planned(
        '[[pci]]\ndevice = "01:00.0"\nfunctions = "all"\nrebar = "256M"\n', facts)
    assert [s.rebar for s in plan.steps if isinstance(s, TakeDevice)] == [256 << 20, 0]


def test_sizes_in_profiles(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    for text in ("300M", "512K"):
        path.write_text(f'[[pci]]\ndevice = "01:00.0"\nboot = 1\nrebar = "{text}"\n')
        with pytest.raises(ProfileError, match=r"rebar: a BAR's size is a power of two"):
            read_profile(path, [])
