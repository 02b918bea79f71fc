"""Rules about the devices of a profile: networks, disks, cards and their places in the guest."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from qlaunch.errors import Problem
from qlaunch.profile.devices import Disk, Net, Pci
from qlaunch.profile.keys import KeyPath, key_text, quote
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import GuestSlot

_MAX_PORT = 65535
_CONNECTIONS = "one of bridge, tap or user (bridge with tap names our tap)"


def check_connections(profile: Profile) -> Iterator[Finding]:
    """Each network card is connected to exactly one thing."""
    for number, net in enumerate(profile.net):
        ends = [key for key in ("bridge", "tap", "user") if getattr(net, key) is not None]
        card: KeyPath = ("net", number)
        if not ends:
            hint = "for a network without privileges: user = {}"
            message = "not connected to anything"
            yield Finding(card, Problem(message, allowed=_CONNECTIONS, hint=hint))
        elif "user" in ends and len(ends) > 1:
            message = "connected to more than one thing"
            problem = Problem(message, found=", ".join(ends), allowed=_CONNECTIONS)
            yield Finding((*card, "user"), problem)
        if net.make_bridge and net.bridge is None:
            problem = Problem("no bridge is named", hint='add bridge = "br0"')
            yield Finding((*card, "make_bridge"), problem, also=((*card, "bridge"),))


def check_network_features(profile: Profile) -> Iterator[Finding]:
    """Queues and vhost are there for virtio on a tap only."""
    for number, net in enumerate(profile.net):
        also = (("net", number, "model"), ("net", number, "user"))
        wants = "a virtio card on a bridge or tap"
        fast = net.model == "virtio" and net.user is None
        if net.queues > 1 and not fast:
            found = f"queues = {net.queues}, {_kind(net)}"
            problem = Problem(f"more than one queue needs {wants}", found=found)
            yield Finding(("net", number, "queues"), problem, also)
        if net.vhost and not fast:
            problem = Problem(f"vhost needs {wants}", found=f"vhost = true, {_kind(net)}")
            yield Finding(("net", number, "vhost"), problem, also)


def _kind(net: Net) -> str:
    return f'model = "{net.model}"' + (", user" if net.user is not None else "")


def check_forwards(profile: Profile) -> Iterator[Finding]:
    """Forwarded ports exist, and each of the host's is forwarded once."""
    seen: dict[tuple[str, str], str] = {}
    for number, net in enumerate(profile.net):
        for index, text in enumerate(net.user.forward if net.user else ()):
            path = ("net", number, "user", "forward", index)
            protocol, *address, host, guest = text.split(":")
            if not all(len(p) < 6 and 0 < int(p) <= _MAX_PORT for p in (host, guest)):
                problem = Problem("a port number from 1 to 65535 is wanted", found=quote(text))
                yield Finding(path, problem)
            elif address and not _is_ipv4(address[0]):
                yield Finding(path, Problem("expected an IPv4 address", found=quote(text)))
            first = seen.setdefault((protocol, host), key_text(path))
            if first != key_text(path):
                message = f"{first} forwards the same port of the host"
                yield Finding(path, Problem(message, found=quote(text)))


def _is_ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(p.isdigit() and len(p) < 4 and int(p) < 256 for p in parts)


def check_twice(profile: Profile) -> Iterator[Finding]:
    """What there is only one of is named once: MACs, taps, host devices, CD ports, ids."""
    for kind, key, what in (
        ("net", "mac", "the same MAC address"),
        ("net", "tap", "the same tap"),
        ("pci", "device", "the same host device"),
        ("cdrom", "port", "the same AHCI port"),
        ("controller", "id", "the same id"),
    ):
        seen: dict[Hashable, int] = {}
        for number, device in enumerate(getattr(profile, kind, ())):
            value = getattr(device, key)
            if value is None:
                continue
            first = seen.setdefault(value, number)
            if first != number:
                problem = Problem(f"{kind}[{first}] has {what}", found=str(value))
                yield Finding((kind, number, key), problem, also=((kind, first, key),))


def check_disk_files(profile: Profile) -> Iterator[Finding]:
    """No file is written by one drive while another has it open."""
    files: dict[str, tuple[str, bool]] = {}
    drives = [(("disk", n), d.file, d.read_only) for n, d in enumerate(profile.disk)]
    drives += [(("cdrom", n), c.file, True) for n, c in enumerate(profile.cdrom)]
    for path, file, read_only in drives:
        first, first_read_only = files.setdefault(file, (key_text(path), read_only))
        if first != key_text(path) and not (read_only and first_read_only):
            problem = Problem(
                f"{first} is the same file, and one of the two may write it",
                found=quote(file if len(file) < 50 else f"…{file[-50:]}"),
                hint="make both read_only, or give each its own file",
            )
            yield Finding((*path, "file"), problem, also=((*path, "read_only"),))


def check_disk_features(profile: Profile) -> Iterator[Finding]:
    """What a disk asks for is there on its bus and with its cache mode."""
    for number, disk in enumerate(profile.disk):
        for key, message, hint, others in _disk_faults(disk):
            value = getattr(disk, key)
            found = f"{key} = {quote(value) if isinstance(value, str) else str(value).lower()}"
            found += "".join(f", {name} = {quote(str(getattr(disk, name)))}" for name in others)
            also = tuple(("disk", number, name) for name in others)
            yield Finding(("disk", number, key), Problem(message, found=found, hint=hint), also)


def _disk_faults(disk: Disk) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    virtio = 'use bus = "virtio"'
    if disk.bus != "virtio":
        if disk.iothread:
            yield "iothread", "an iothread needs a virtio disk", virtio, ("bus",)
        if disk.addr is not None:
            yield "addr", "only a virtio disk has a slot of its own", virtio, ("bus",)
        if disk.read_only:
            yield "read_only", "QEMU has no read-only disk on this bus", virtio, ("bus",)
    if disk.io == "native" and disk.cache not in (None, "none", "directsync"):
        hint = 'use cache = "none", or io = "threads"'
        yield "io", "native I/O needs a cache mode that bypasses the page cache", hint, ("cache",)


def check_serials(profile: Profile) -> Iterator[Finding]:
    """One serial port at most is on the terminal, and only files have a file."""
    stdio = [n for n, serial in enumerate(profile.serial) if serial.type == "stdio"]
    for number in stdio[1:]:
        problem = Problem(f"serial[{stdio[0]}] is on the terminal already", found='"stdio"')
        yield Finding(("serial", number, "type"), problem, also=(("serial", stdio[0], "type"),))
    for number, serial in enumerate(profile.serial):
        if serial.file is not None and serial.type != "file":
            problem = Problem(f'a file is for type = "file", not "{serial.type}"')
            yield Finding(("serial", number, "file"), problem, (("serial", number, "type"),))


def check_cards(profile: Profile) -> Iterator[Finding]:
    """Legacy VGA goes to one card; a vendor:device given twice says the same."""
    primary = [number for number, card in enumerate(profile.pci) if card.x_vga]
    for number in primary[1:]:
        problem = Problem(f"pci[{primary[0]}] is the primary card already", found="x_vga = true")
        yield Finding(("pci", number, "x_vga"), problem, (("pci", primary[0], "x_vga"),))
    if primary and profile.display.vga != "none":
        problem = Problem(
            "two primary cards: the guest's firmware may choose the emulated one",
            found=f'x_vga = true, display.vga = "{profile.display.vga}"',
            hint='set display.vga = "none"',
            severity="warning",
        )
        yield Finding(("pci", primary[0], "x_vga"), problem, (("display", "vga"),))
    for number, card in enumerate(profile.pci):
        if card.id and card.device.id and card.id != card.device.id:
            problem = Problem("device says another vendor:device", found=card.id)
            yield Finding(("pci", number, "id"), problem, (("pci", number, "device"),))


def check_slots(profile: Profile) -> Iterator[Finding]:
    """No two devices in one guest slot, and no function without the slot's function 0."""
    buses: dict[Hashable, dict[GuestSlot, KeyPath]] = {}
    for path, bus, slot in _slots(profile):
        taken = buses.setdefault(bus, {})
        first = taken.setdefault(slot, path)
        if first != path:
            problem = Problem(
                f"{key_text(first)} is in the same guest slot",
                found=f'addr = "{slot}"',
                hint="give each its own, or leave addr out",
            )
            yield Finding((*path, "addr"), problem, also=((*first, "addr"),))
    for slot, path in buses.get(None, {}).items():
        if slot.function and GuestSlot(f"{slot.slot:02x}.0") not in buses[None] and (
            slot.slot not in (0x00, 0x01, 0x1C, 0x1F)  # the chipset's, and the root ports'
        ):
            problem = Problem(
                f"nothing is at function 0 of guest slot {slot.slot:02x}, so the guest does "
                "not look for the others",
                found=f'addr = "{slot}"',
                hint=f'use addr = "{slot.slot:02x}.0"',
            )
            yield Finding((*path, "addr"), problem)


def _slots(profile: Profile) -> Iterator[tuple[KeyPath, Hashable, GuestSlot]]:
    """(device, bus, slot) of every `addr`. Bus None is the guest's bus 0; a card on a root port
    shares that port with the functions of the same host card only."""
    for kind in profile.__struct_fields__:
        value = getattr(profile, kind)
        entries: list[tuple[KeyPath, Any]] = [((kind,), value)]
        if isinstance(value, tuple):
            entries = [((kind, number), entry) for number, entry in enumerate(value)]
        for path, entry in entries:
            slot = getattr(entry, "addr", None)
            if not isinstance(slot, GuestSlot):
                continue
            if not isinstance(entry, Pci) or entry.port == "none":
                yield path, None, slot
            elif entry.device.address is not None:
                yield path, (entry.port, entry.device.address.slot_name), slot


DEVICE_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_connections,
    check_network_features,
    check_forwards,
    check_twice,
    check_disk_files,
    check_disk_features,
    check_serials,
    check_cards,
    check_slots,
)
