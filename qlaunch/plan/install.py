"""`--install`: the profile as it is until the guest has its drivers.

An emulated card in a window stands in for the host's devices, and the installation disc comes
first. Disks and network cards stay what they are unless `[install]` says otherwise, because what
is installed on one controller may not start from another.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from msgspec.structs import replace

from qlaunch.facts.model import HostFacts
from qlaunch.plan.eras import ERAS
from qlaunch.plan.firmware import firmware_kind
from qlaunch.profile.control import Hooks
from qlaunch.profile.display import Display
from qlaunch.profile.profile import Profile

WINDOWS = ("gtk", "sdl")
# Of a disk, what belongs to the bus that it had.
_OF_BUS: dict[str, Any] = {
    "controller": None, "port": None, "lun": None, "iothread": False, "iothreads": None,
    "queues": None, "addr": None,
}
_OF_MODEL: dict[str, Any] = {"queues": 1, "vhost": None, "rx_queue_size": None}


Key: TypeAlias = tuple[str | int, ...]


class Installing(NamedTuple):
    """The changed profile, the keys that are changed, and what to tell."""

    profile: Profile
    keys: tuple[Key, ...]
    changes: tuple[str, ...]


class _Changes:
    """New values of the profile's tables, the keys in them that are new, and their telling."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.tables: dict[str, Any] = {}
        self.keys: list[Key] = []
        self.told: list[str] = []

    def table(self, key: str, value: object, told: str) -> None:
        """A whole table is another."""
        self.tables[key] = value
        self.keys.append((key,))
        self.told.append(told)

    def device(self, kind: str, number: int, **fields: Any) -> None:
        """A device has other values; the first of them is the one that is told of."""
        devices = list(self.tables.get(kind, getattr(self.profile, kind)))
        devices[number] = replace(devices[number], **fields)
        self.tables[kind] = tuple(devices)
        self.keys.append((kind, number, next(iter(fields))))


def for_installing(profile: Profile) -> Installing:
    """The same machine without the host's devices, in a window, with its first CD in front."""
    changes = _Changes(profile)
    kind, why = firmware_kind(profile)  # before the cards are gone, which it depends on
    _without_host_devices(changes)
    _with_screen(changes)
    _disc_first(changes)
    _friendly(changes)
    changed = replace(profile, **changes.tables)
    if firmware_kind(changed)[0] != kind:
        changed = replace(changed, machine=replace(profile.machine, firmware=kind))
        changes.keys.append(("machine", "firmware"))
        changes.told.append(f'machine.firmware = "{kind}" ({why})')
    return Installing(changed, tuple(changes.keys), tuple(changes.told))


def with_window(profile: Profile, facts: HostFacts) -> Profile:
    """VNC on its socket where no window can be opened: an installer has to be seen."""
    user, qemu = facts.invoker, facts.qemu
    if profile.display.type != "auto" or user is None or qemu is None or not qemu.displays:
        return profile
    window = user.display and any(kind in qemu.displays for kind in WINDOWS)
    if window or "vnc" not in qemu.displays:
        return profile
    return replace(profile, display=replace(profile.display, type="vnc", listen=None))


def _without_host_devices(changes: _Changes) -> None:
    profile = changes.profile
    for key in ("pci", "vgpu", "usb"):
        if getattr(profile, key):
            changes.table(key, (), f"no [[{key}]]")
    if any(device.evdev for device in profile.input):
        changes.table("input", tuple(d for d in profile.input if not d.evdev), "no evdev")
    if profile.hooks != Hooks():  # they are about the host's devices as a rule, or its desktop
        changes.table("hooks", Hooks(), "no hooks")


def _with_screen(changes: _Changes) -> None:
    """A screen that can be looked at already stays as it is."""
    display = changes.profile.display
    if display.vga != "none" and display.type in ("auto", "vnc", "spice", *WINDOWS):
        return
    kind = display.type if display.type in WINDOWS else "auto"
    changes.table("display", Display(type=kind, vga="std"),
                  f'display.type = "{kind}", display.vga = "std"')


def _disc_first(changes: _Changes) -> None:
    """The disc with the lowest number, else the first one; all others move up by one. A kernel is
    what is started, whatever discs there are, and has number 0."""
    discs = changes.profile.cdrom
    if not discs or changes.profile.kernel is not None:
        return
    numbers = [256 if disc.boot is None else disc.boot for disc in discs]
    first = numbers.index(min(numbers))
    for kind in ("disk", "cdrom", "net"):
        for number, device in enumerate(getattr(changes.profile, kind)):
            if (kind, number) != ("cdrom", first) and device.boot is not None:
                changes.device(kind, number, boot=min(device.boot + 1, 255))
    changes.device("cdrom", first, boot=0)
    changes.told.append(f"cdrom[{first}] boots first")


def _friendly(changes: _Changes) -> None:
    """Disks and cards that the installer has drivers for, where `[install]` asks for them."""
    profile = changes.profile
    install, era = profile.install, ERAS[profile.guest]
    if install is None:
        return
    bus = install.bus or (era.disk if install.friendly else None)
    if bus == "sata" and "q35" not in profile.machine.type:
        bus = "ide"
    model = install.net or (era.nic if install.friendly else None)
    for number, disk in enumerate(profile.disk):
        if bus not in (None, disk.bus) and not disk.read_only:  # QEMU's ide-hd cannot be
            changes.device("disk", number, bus=bus, **_OF_BUS)
            changes.told.append(f'disk[{number}].bus = "{bus}"')
    for number, net in enumerate(profile.net):
        if model not in (None, net.model):
            changes.device("net", number, model=model, **_OF_MODEL)
            changes.told.append(f'net[{number}].model = "{model}"')
