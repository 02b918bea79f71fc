"""`qlaunch rom`: the file has what the ROM is known to be, and the ROM is hidden again."""

from __future__ import annotations

from pathlib import Path

import pytest

from .host import GRAPHICS, NETWORK, Device
from .machine import ROM, qlaunch

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("nothing_left")]

NETWORK_ROM = "/usr/lib/ipxe/qemu/efi-e1000e.rom"  # what QEMU gives its e1000e by itself


def read_rom(device: Device, target: Path) -> tuple[bytes, str]:
    """The file, and what was said. Its driver keeps the device, and the ROM is hidden again."""
    driver = device.driver
    done = qlaunch("rom", device.address, str(target))
    assert done.returncode == 0, done.stderr
    assert device.driver == driver
    with pytest.raises(OSError, match="Invalid argument"):  # drivers/pci/pci-sysfs.c pci_read_rom
        (device.path / "rom").read_bytes()
    return target.read_bytes(), " ".join((done.stdout + done.stderr).split())


def test_a_network_cards_rom_byte_by_byte(tmp_path: Path) -> None:
    found, said = read_rom(NETWORK, tmp_path / "network.rom")
    known = Path(NETWORK_ROM).read_bytes()
    assert found.rstrip(b"\0\xff") == known.rstrip(b"\0\xff")
    assert "BIOS for 8086:10d3, UEFI for 8086:10d3" in said
    assert "warning:" not in said


def test_of_the_boot_card_it_is_the_copy_that_has_run_and_that_is_told(tmp_path: Path) -> None:
    found, said = read_rom(GRAPHICS, tmp_path / "card.rom")
    known = Path(ROM).read_bytes()
    assert len(found) == len(known)
    changed = sum(a != b for a, b in zip(found, known, strict=True))
    assert 0 < changed < len(known) // 20  # its variables; the code is as it was
    assert "BIOS for 1234:1111" in said
    assert "warning:" in said
    assert "the host started with this card" in said
