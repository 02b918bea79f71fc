"""`bind` and `unbind` by hand: the record of what the device had may be damaged, and a driver may
not be there or not take the device."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from qlaunch.cli import unbind as verb
from qlaunch.cli.main import main
from qlaunch.errors import HostError, NotRestoredError
from qlaunch.facts.model import Holder, PciDevice
from qlaunch.run import manual
from qlaunch.values import PciAddress
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import HANG, Fault
from tests.fake.plans import device, host

GPU = PciAddress("0000:01:00.0")


def test_a_damaged_record_does_not_keep_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever driver the kernel finds gets it, and that is told."""
    kernel = FakeKernel(tmp_path / "root")
    kernel.add_device(GPU, driver="bochs", methods="flr")
    monkeypatch.setattr(manual, "telling", lambda _: kernel.host())
    said: list[str] = []
    base = str(tmp_path / "qlaunch")
    manual.bind(base, [device("01:00.0", "1234:1111", driver="bochs")], said.append)
    assert kernel.driver_of(GPU) == "vfio-pci"
    journal = Path(base, manual.BOUND, GPU, "journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if b"intent" in line and GPU.encode() in line)
    journal.write_bytes(b"".join((*lines[:at], b"?" + lines[at], *lines[at + 1:])))
    manual.unbind(base, [device("01:00.0", "1234:1111", driver="vfio-pci")], None, said.append)
    assert kernel.driver_of(GPU) == "bochs"
    assert f"{journal} is damaged; the driver that it had is not known" in said[-2]
    assert said[-1] == f"{GPU} is on bochs"
    assert not journal.parent.exists()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """A card on bochs; a driver `other` that takes it not."""
    kernel = FakeKernel(tmp_path / "root")
    kernel.add_device(GPU, driver="bochs", methods="flr", nodes="drm/card")
    kernel.add_driver("other")
    monkeypatch.setattr(manual, "telling", lambda _: kernel.host())
    return kernel


def unbind(tmp_path: Path, driver: str | None, now: str | None = "bochs") -> list[str]:
    said: list[str] = []
    card = device("01:00.0", "1234:1111", driver=now)
    manual.unbind(str(tmp_path / "qlaunch"), [card], driver, said.append)
    return said


def test_a_driver_that_is_not_there_is_seen_before_anything_is_touched(
    kernel: FakeKernel, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match="this host has no PCI driver bochz") as fault:
        unbind(tmp_path, "bochz")
    assert "modprobe: FATAL: Module bochz not found" in str(fault.value)
    assert kernel.driver_of(GPU) == "bochs"
    assert kernel.log() == []


def test_a_driver_that_is_in_a_module_is_loaded(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.variants = {"later": "later"}
    (kernel.root / ".model" / GPU / "matches").write_text("bochs later")
    assert unbind(tmp_path, "later") == [f"{GPU} is on later"]
    assert kernel.driver_of(GPU) == "later"


@pytest.mark.parametrize("before", ["bochs", "vfio-pci", None])
def test_a_driver_that_does_not_take_it_leaves_it_where_it_was(
    kernel: FakeKernel, tmp_path: Path, before: str | None
) -> None:
    if before != "bochs":
        kernel.detach(GPU, "bochs")
    if before == "vfio-pci":
        kernel.add_driver("vfio-pci")
        kernel.attach_vfio(GPU)
        kernel.write(kernel.device(GPU) / "driver_override", b"vfio-pci")
    override = kernel.read(GPU, "driver_override")
    with pytest.raises(HostError, match="the device was not bound to other") as fault:
        unbind(tmp_path, "other", before)
    assert [p.message for p in fault.value.problems[1:]] == (
        [f"{GPU} is back on {before}"] if before else [])
    assert kernel.driver_of(GPU) == before
    assert kernel.read(GPU, "driver_override") == override


def test_the_old_driver_does_not_take_it_back(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.faults = [Fault("*/drivers/bochs/bind", errno.EIO)]
    with pytest.raises(NotRestoredError) as fault:
        unbind(tmp_path, "other")
    assert [p.message for p in fault.value.problems] == [
        "the device was not bound to other", "the device was not bound to bochs"]


def test_a_write_that_hangs_is_left_alone(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.faults = [Fault("*/drivers/other/bind", HANG)]
    with pytest.raises(NotRestoredError, match="did not return"):
        unbind(tmp_path, "other")
    kernel.release()
    assert kernel.log()[-1].startswith("sys/bus/pci/drivers/other/bind")


def test_no_driver_is_found_for_it(kernel: FakeKernel, tmp_path: Path) -> None:
    """It is VFIO's again, and not without a driver."""
    kernel.detach(GPU, "bochs")
    kernel.add_driver("vfio-pci")
    kernel.attach_vfio(GPU)
    (kernel.root / ".model" / GPU / "matches").write_text("vfio-pci")
    (kernel.root / "sys/bus/pci/drivers_probe").unlink()
    with pytest.raises(HostError, match="no driver of this host took the device"):
        unbind(tmp_path, None, "vfio-pci")
    assert kernel.driver_of(GPU) == "vfio-pci"


DISK = Holder(kind="mount", what="/ (sda1)", remedy="boot from another disk")
SHELL = Holder(kind="process", what="Xorg (pid 1)", remedy="systemctl stop gdm")


@pytest.mark.parametrize(
    ("card", "words", "code"),
    [
        (device("01:00.0", driver="bochs", holders=(DISK,)), "--driver later", 1),
        (device("01:00.0", driver="bochs", holders=(DISK,)), "--driver later --force", 1),
        (device("01:00.0", driver="bochs", holders=(SHELL,)), "--driver later", 1),
        (device("01:00.0", driver="bochs", holders=(SHELL,)), "--driver later --force", 0),
        (device("01:00.0", driver="bochs", holders=(DISK,)), "--driver bochs", 0),
        (device("01:00.0", driver="bochs", holders=(DISK,)), "", 0),
        (device("01:00.0", driver="bochs"), "--driver ../bochs", 2),
    ],
)
def test_what_is_in_use_stays_with_its_driver(
    card: PciDevice, words: str, code: int, kernel: FakeKernel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    kernel.variants = {"later": "later"}
    (kernel.root / ".model" / GPU / "matches").write_text("bochs later")
    monkeypatch.setattr(verb, "need_root", lambda _: None)
    monkeypatch.setattr(verb, "runtime_base", lambda: str(tmp_path / "qlaunch"))
    monkeypatch.setattr(verb, "asked_devices", lambda _: (host(card), [card]))
    assert main(["unbind", "01:00.0", *words.split()]) == code, capsys.readouterr().err
    moved = code == 0 and "later" in words
    assert kernel.driver_of(GPU) == ("later" if moved else "bochs")
    told = capsys.readouterr().err
    assert ("boot from another disk" in told) == (code == 1 and card.holders == (DISK,))
    assert ("Xorg" in told) == (card.holders == (SHELL,))
