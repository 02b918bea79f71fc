"""On kernels before 6.0 the console leaves a card before VFIO gets it, and comes back after it."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlaunch.errors import HostError
from qlaunch.facts.model import Kernel
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import TakeDevice
from qlaunch.run.engine import Engine
from qlaunch.values import PciAddress
from tests.fake.kernel_tree import Fault
from tests.fake.plans import AUDIO, device, host, planned
from tests.fake.scripted import MemoryLog
from tests.fake.whole import EFIFB, GPU, SOUND, WholeKernel

CONSOLE = "sys/class/vtconsole/vtcon1/bind"
STEP = TakeDevice(address=PciAddress(GPU), console=True)


@pytest.fixture
def kernel() -> Iterator[WholeKernel]:
    with tempfile.TemporaryDirectory() as folder:
        kernel = WholeKernel(Path(folder))
        kernel.fill()
        kernel.add_driver("vfio-pci")
        yield kernel
        kernel.release()


def engine(kernel: WholeKernel) -> Engine:
    return Engine(kernel.host(), MemoryLog(), HANDLERS)


def test_it_leaves_before_the_driver_and_is_the_last_to_come_back(kernel: WholeKernel) -> None:
    before = kernel.state()
    run = engine(kernel)
    run.apply([STEP])
    assert (kernel.root / CONSOLE).read_text() == "0\n"
    assert not (kernel.root / EFIFB / "efi-framebuffer.0").is_symlink()
    assert run.undo_all().left == ()
    assert kernel.state() == before
    log = [line for line in kernel.log() if "vtcon" in line or "bind" in line]
    assert log == [
        f"{CONSOLE} 0", f"{EFIFB}/unbind efi-framebuffer.0",
        f"sys/bus/pci/drivers/bochs/unbind {GPU}", f"sys/bus/pci/drivers/vfio-pci/bind {GPU}",
        f"sys/bus/pci/drivers/vfio-pci/unbind {GPU}", f"sys/bus/pci/drivers/bochs/bind {GPU}",
        f"{EFIFB}/bind efi-framebuffer.0", f"{CONSOLE} 1",
    ]


@pytest.mark.parametrize("own", [True, False])
def test_a_card_that_is_not_the_boot_card(kernel: WholeKernel, own: bool) -> None:
    """The firmware's framebuffer is not on it; the console is when it has one of its own."""
    (kernel.device(GPU) / "boot_vga").write_text("0\n")
    if own:
        (kernel.device(GPU) / "graphics/fb0").mkdir(parents=True)
    run = engine(kernel)
    run.apply([STEP])
    assert (kernel.root / CONSOLE).read_text() == ("0\n" if own else "1\n")
    assert (kernel.root / EFIFB / "efi-framebuffer.0").is_symlink()
    assert run.undo_all().left == ()
    assert (kernel.root / CONSOLE).read_text() == "1\n"


@pytest.mark.parametrize("path", [CONSOLE, f"{EFIFB}/unbind"])
def test_a_refusal_leaves_the_host_as_it_was(kernel: WholeKernel, path: str) -> None:
    before = kernel.state()
    kernel.faults.append(Fault(path, errno.EBUSY, "0" if path == CONSOLE else None))
    with pytest.raises(HostError, match="Device or resource busy"):
        engine(kernel).apply([STEP])
    assert kernel.state() == before


@pytest.mark.parametrize(("release", "on_card", "asked"), [
    ("5.15.0-91-generic", {"boot_vga": True}, True), ("4.19.0", {"nodes": ("fb0",)}, True),
    ("5.15.0", {}, False), ("6.1.0-13-amd64", {"boot_vga": True}, False),
    ("", {"boot_vga": True}, False),
])
def test_who_asks_for_it(release: str, on_card: dict[str, Any], asked: bool) -> None:
    card = device("01:00.0", "1234:1111", driver="bochs", **on_card)
    sound = device(SOUND[5:], "8086:2668", AUDIO, driver="snd_hda_intel")
    text = f'[[pci]]\ndevice = "{GPU}"\nfunctions = "all"\n'
    plan = planned(text, host(card, sound, kernel=Kernel(release=release)))
    takes = {s.address: s.console for s in plan.steps if isinstance(s, TakeDevice)}
    assert takes == {GPU: asked, SOUND: False}
