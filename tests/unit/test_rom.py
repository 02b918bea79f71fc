"""A card's ROM: read between a written 1 and 0, and what is told of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from qlaunch.cli import rom as verb
from qlaunch.cli.main import main
from qlaunch.errors import HostError, StuckError
from qlaunch.host import rom as host_rom
from qlaunch.host.rom import doubts, images, read_rom
from qlaunch.run.claims import Owner, drop_claims, take_claims
from qlaunch.run.locks import HOST_LOCK, try_lock
from qlaunch.values import PciAddress
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import HANG, Fault

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
GPU = PciAddress("0000:01:00.0")


def image(kind: int = 0, ids: str = "10de:1200", *, last: bool = True, blocks: int = 2) -> bytes:
    data = bytearray(512 * blocks)
    data[:3] = b"\x55\xaa" + bytes([blocks])
    data[0x18:0x1A] = (0x40).to_bytes(2, "little")
    vendor, device = (int(x, 16).to_bytes(2, "little") for x in ids.split(":"))
    data[0x40:0x48] = b"PCIR" + vendor + device
    data[0x50:0x52] = blocks.to_bytes(2, "little")
    data[0x54], data[0x55] = kind, 0x80 * last
    data[-1] = -sum(data) % 256
    return bytes(data)


BOTH = image(last=False) + image(3, blocks=3)


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    kernel = FakeKernel(tmp_path)
    path = kernel.add_device(GPU, ids="10de:1200", driver="vfio-pci", methods="flr pm")
    (path / "rom").touch()
    (path / "power/control").write_text("auto\n")
    (tmp_path / ".model" / GPU / "rom").write_bytes(BOTH)
    return kernel


def test_it_is_read_whole_and_hidden_again(kernel: FakeKernel) -> None:
    before = kernel.read(GPU, "power/control")
    assert read_rom(kernel.host(), GPU) == BOTH
    assert [line.rpartition("/")[2] for line in kernel.log()] == [
        "control on", "rom 1", "rom 0", "control auto"]
    assert (kernel.device(GPU) / "rom").read_bytes() == b""
    assert kernel.read(GPU, "power/control") == before


def test_a_guest_has_the_card(kernel: FakeKernel) -> None:
    kernel.open_group(1)
    with pytest.raises(HostError, match="still in use"):
        read_rom(kernel.host(), GPU)
    assert kernel.log() == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 512])
def test_what_is_no_rom(kernel: FakeKernel, content: bytes) -> None:
    (kernel.root / ".model" / GPU / "rom").write_bytes(content)
    with pytest.raises(HostError, match="do not begin with 55 aa"):
        read_rom(kernel.host(), GPU)
    kernel.faults = [Fault("*/rom", errno.EIO, "1")]
    with pytest.raises(HostError, match=r"no ROM can be read(.|\n)*Input/output error"):
        read_rom(kernel.host(), GPU)
    assert kernel.log()[-1].endswith("control auto")


def test_a_read_that_hangs_is_left_alone(kernel: FakeKernel) -> None:
    kernel.faults = [Fault("*/rom", HANG)]
    with pytest.raises(StuckError):
        read_rom(kernel.host(deadline=0.3), GPU)
    kernel.release()


def test_no_rom_file(kernel: FakeKernel) -> None:
    (kernel.device(GPU) / "rom").unlink()
    with pytest.raises(HostError, match="has no rom file"):
        read_rom(kernel.host(), GPU)


def test_images_and_doubts() -> None:
    assert [(i.kind, i.ids, i.size, i.sound) for i in images(BOTH)] == [
        ("BIOS", "10de:1200", 1024, True), ("UEFI", "10de:1200", 1536, True)]
    assert doubts(BOTH, "10de:1200", boot_vga=False) == []
    (shadow,) = doubts(BOTH, "10de:1200", boot_vga=True)
    assert "the copy in memory" in shadow.message
    (other,) = doubts(BOTH, "10de:1201", boot_vga=False)
    assert (other.found, other.allowed) == ("10de:1200, 10de:1200", "10de:1201")
    changed = bytearray(BOTH)
    changed[100] ^= 1
    (bad,) = doubts(bytes(changed), "10de:1200", boot_vga=False)
    assert "checksum" in bad.message
    (cut,) = doubts(BOTH[:0x30], "10de:1200", boot_vga=False)
    assert "no PCI data structure" in cut.message
    for length in range(0, len(BOTH), 7):
        list(images(BOTH[:length]))


def test_the_verb(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = SimpleNamespace(address=GPU, id="10de:1200", boot_vga=True)
    monkeypatch.setattr(verb, "need_root", lambda _: None)
    monkeypatch.setattr(verb, "asked_devices", lambda _: (None, [found]))
    base = tmp_path / "run"
    monkeypatch.setattr(verb, "runtime_base", lambda: str(base))

    def read(*_: object) -> bytes:
        """Nobody else has the host or the card meanwhile."""
        assert try_lock(str(base / HOST_LOCK)) is None
        with pytest.raises(HostError, match="by hand"):
            take_claims(str(base), Owner("win7"), [GPU])
        return BOTH

    monkeypatch.setattr(host_rom, "read_rom", read)
    target = tmp_path / "card.rom"
    assert main(["rom", "01:00.0", str(target)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{target}: 2560 bytes, BIOS for 10de:1200, UEFI for 10de:1200\n"
    assert f"warning: {target}: the host started with this card" in told.err
    assert target.read_bytes() == BOTH
    assert main(["rom", "01:00.0", str(target)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["rom", "01:00.0", str(target), "--force"]) == 0
    assert main(["rom", "01:00.0", str(tmp_path / "none/x")]) == 1
    capsys.readouterr()
    claims = take_claims(str(base), Owner("win7"), [GPU])
    assert main(["rom", "01:00.0", str(tmp_path / "other")]) == 1
    assert "win7" in capsys.readouterr().err
    drop_claims(claims)
    assert main(["rom", "01:00.0", str(tmp_path / "other")]) == 0


def test_the_verb_needs_root(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("qlaunch.cli.elevate.root_command", lambda *_: None)
    assert main(["rom", "01:00.0", "x"]) == 1
    assert "rom needs root" in capsys.readouterr().err
