"""Reading a card's ROM through sysfs, and telling what is in it.

The kernel shows the ROM between a written 1 and 0 (drivers/pci/pci-sysfs.c pci_write_rom). Of the
card that the firmware started with it may be the copy in memory that the card's own start has
changed (pci_map_rom, IORESOURCE_ROM_SHADOW), which a guest cannot start from again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from qlaunch.errors import HostError, Problem
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Host
from qlaunch.values import PciAddress

SIGNATURE = b"\x55\xaa"
MOST = 16 << 20  # bytes; a ROM BAR has no more
_KINDS = {0: "BIOS", 1: "Open Firmware", 3: "UEFI"}


class Image(NamedTuple):
    """One image of a ROM (PCI Firmware Specification 3.x, 5.1)."""

    kind: str
    ids: str  # vendor:device that it says it is for
    size: int  # bytes
    sound: bool  # the checksum of a BIOS image; others have none


def read_rom(host: Host, address: PciAddress) -> bytes:
    """The ROM's bytes. The device is kept awake meanwhile, and its power control put back.

    Raises HostError when it has none, when a guest has the device, or when it cannot be read.
    """
    device.check_present(host, address)
    path = device.pci_path(host, address)
    if not (path / "rom").exists():
        raise HostError(_no_rom(address, "the kernel has no rom file for it"))
    if "vfio" in (device.read_driver(host, address) or ""):
        group = device.read_group(host, address)
        if group is not None:
            device.check_group_free(host, group)
    control = sysfs.read_text(path / "power/control")

    def read() -> str:
        if control == "auto":
            sysfs.write(host, path / "power/control", "on")
        try:
            sysfs.write(host, path / "rom", "1")
            with (path / "rom").open("rb") as file:
                return base64.b64encode(file.read(MOST)).decode()
        finally:
            with suppress(OSError):
                sysfs.write(host, path / "rom", "0")
            if control == "auto":
                sysfs.write(host, path / "power/control", "auto")

    try:
        found = base64.b64decode(sysfs.guarded_read(host, read, f"reading the ROM of {address}"))
    except OSError as error:
        raise HostError(_no_rom(address, error.strerror or str(error))) from error
    if not found.startswith(SIGNATURE):
        raise HostError(_no_rom(address, f"{len(found)} bytes that do not begin with 55 aa"))
    return found


def _no_rom(address: PciAddress, found: str) -> Problem:
    return Problem(
        "no ROM can be read from this device", where=address, found=found,
        hint="its ROM may be in the board's firmware; or read it while the card is on vfio-pci "
        f"(qlaunch bind {address}) and not the card that the host started with",
    )


def images(rom: bytes) -> Iterator[Image]:
    """The images of a ROM, as far as they can be told apart."""
    at = 0
    while rom[at : at + 2] == SIGNATURE:
        data = at + int.from_bytes(rom[at + 0x18 : at + 0x1A], "little")
        if rom[data : data + 4] != b"PCIR" or len(rom) < data + 0x18:
            return
        size = int.from_bytes(rom[data + 0x10 : data + 0x12], "little") * 512
        vendor, number = (int.from_bytes(rom[data + n : data + n + 2], "little") for n in (4, 6))
        kind = rom[data + 0x14]
        own = rom[at + 2] * 512  # of a BIOS image, what its checksum is about
        sound = kind != 0 or sum(rom[at : at + own]) % 256 == 0
        yield Image(_KINDS.get(kind, f"type {kind}"), f"{vendor:04x}:{number:04x}", size, sound)
        if rom[data + 0x15] & 0x80 or size == 0:
            return
        at += size


def doubts(rom: bytes, ident: str, *, boot_vga: bool) -> list[Problem]:
    """What speaks against giving this to a guest, as warnings."""
    found = list(images(rom))
    told = []
    if boot_vga:
        told.append(
            Problem("the host started with this card: what the kernel shows may be the copy in "
                    "memory that the card's own start has changed", severity="warning",
                    hint="read it once while another card is the first: a reset does not help, nor "
                    "does another driver")
        )
    if not found:
        told.append(Problem("it has no PCI data structure", severity="warning",
                            hint="it may be cut: read it again"))
    if any(not image.sound for image in found):
        told.append(Problem("its BIOS checksum is wrong", severity="warning",
                            hint="it was changed at start, or is cut"))
    if found and ident not in [image.ids for image in found]:
        told.append(
            Problem("it says that it is for another device", severity="warning",
                    found=", ".join(image.ids for image in found), allowed=ident,
                    hint="some vendors use one ROM for several cards")
        )
    return told
