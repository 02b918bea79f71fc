"""Storage controllers, and the places on them: ports, targets and slots are maps, so that one drive
more moves no other."""

from __future__ import annotations

from msgspec import Struct

from qlaunch.plan.draft import Draft
from qlaunch.plan.model import Place, PlannedController
from qlaunch.plan.slots import SLOTS
from qlaunch.profile.check_storage import TARGETS, controller_id
from qlaunch.profile.storage import Cdrom, Controller, Disk
from qlaunch.values import GuestSlot

DEVICES = {
    "ahci": "ahci", "virtio-scsi": "virtio-scsi-pci", "lsi": "lsi53c895a", "pvscsi": "pvscsi",
    "megasas": "megasas",
}
# SATA ports: CDs take 1, 2, 3 as in the sources, disks 0, 5, 4. IDE has two cables of two.
_AHCI = {"disk": (0, 5, 4), "cdrom": (1, 2, 3)}
_IDE = {"disk": (0, 2, 3), "cdrom": (1, 3, 2)}
_SCSI_CD = 15  # and downwards; OVMF looks at targets up to 31, QEMU's LSI has 7
_DISK_SLOTS = SLOTS["disk"][1]


class Seat(Struct, frozen=True):
    """Where a drive is plugged in, as QEMU's device properties."""

    place: Place
    unit: int | None = None
    target: int | None = None
    lun: int | None = None


class Seats:
    """Hands out the places of all drives; each kind of drive is counted for itself."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._counts: dict[tuple[str, ...], int] = {}
        self._taken: dict[tuple[object, ...], str] = {}
        self.controllers = list(_explicit(draft))
        types = [one.type for one in draft.profile.controller]
        self._types: dict[str, str] = {
            made.id: types[number] for number, made in enumerate(self.controllers)
        }
        self._implicit_scsi()

    def _implicit_scsi(self) -> None:
        """Drives on SCSI without any controller for it get a virtio-scsi one."""
        drives: list[tuple[str, Disk | Cdrom]] = [
            (f"disk[{n}]", d) for n, d in enumerate(self._draft.profile.disk)
        ]
        drives += [(f"cdrom[{n}]", c) for n, c in enumerate(self._draft.profile.cdrom)]
        key = next((k for k, d in drives if d.bus == "scsi" and d.controller is None), None)
        if key is None or any(kind != "ahci" for kind in self._types.values()):
            return
        self.controllers.append(
            PlannedController(
                id="scsi0", key=key, device=DEVICES["virtio-scsi"],
                place=self._draft.place("scsi", "scsi0", key),
                why=f"{key}.bus; rule: SCSI drives without a [[controller]] get virtio-scsi",
            )
        )
        self._types["scsi0"] = "virtio-scsi"

    def _count(self, *kind: str) -> int:
        number = self._counts.get(kind, 0)
        self._counts[kind] = number + 1
        return number

    def pci(self, kind: str, key: str, addr: GuestSlot | None) -> Seat:
        """A slot of its own: virtio from the range's start, NVMe from its end."""
        index = self._count(kind)
        if kind == "nvme":
            index = _DISK_SLOTS - 1 - index if index < _DISK_SLOTS else index
        return Seat(Place(self._draft.bus, self._draft.slots.take("disk", index, key, addr)))

    def usb(self, key: str, ident: str) -> Place:
        """A port of the USB controller."""
        kind = key.partition("[")[0]
        index = self._count(kind, "usb")
        return self._draft.usb_place(kind, ident, f"{key}.bus", index=index)

    def ata(self, drive: Disk | Cdrom, key: str) -> Seat:
        """A port of the chipset's SATA (IDE on pc) or of an AHCI controller of the profile."""
        draft, kind = self._draft, key.partition("[")[0]
        name = drive.controller or ""
        if not name and draft.is_pc and drive.bus == "sata":
            name = next((ident for ident, t in self._types.items() if t == "ahci"), "")
            if not name:
                draft.problem("the pc machine has no SATA", f"{key}.bus", found='bus = "sata"',
                              hint='bus = "ide", or add [[controller]] with type = "ahci"')
        ide = draft.is_pc and not name
        order = (_IDE if ide else _AHCI)[kind]
        index = self._count(kind, "ata", name)
        number = drive.port if drive.port is not None else order[min(index, len(order) - 1)]
        limit, what = (4, "IDE place") if ide else (6, "SATA port")
        if number >= limit:
            draft.problem(f"there is no {what} {number}", f"{key}.port",
                          allowed=f"0 to {limit - 1}")
        self._take((name, number), key, f"{what} {number}",
                   "use another bus for one of them, or give a drive its port")
        if ide:
            return Seat(Place(f"ide.{number // 2}"), unit=number % 2)
        return Seat(Place(f"{name or 'ide'}.{number}"), unit=0)

    def scsi(self, drive: Disk | Cdrom, key: str) -> Seat:
        """A target and logical unit of a SCSI controller."""
        kind = key.partition("[")[0]
        name = drive.controller or next((i for i, t in self._types.items() if t != "ahci"), "scsi0")
        targets, luns = TARGETS.get(self._types.get(name, ""), (256, 16384))
        index = self._count(kind, "scsi", name)
        automatic = index if kind == "disk" else min(_SCSI_CD, targets - 1) - index
        target = drive.port if drive.port is not None else automatic
        lun = drive.lun or 0
        if not 0 <= target < targets:
            self._draft.problem(f"the controller {name} has no target {target}", f"{key}.port",
                                allowed=f"0 to {targets - 1}")
        if lun >= luns:
            self._draft.problem(f"the controller {name} has no logical unit {lun}", f"{key}.lun",
                                allowed=f"0 to {luns - 1}")
        self._take((name, target, lun), key, f"target {target} of {name}",
                   "give one of them another port")
        return Seat(Place(f"{name}.0"), target=target, lun=lun)

    def _take(self, place: tuple[object, ...], key: str, what: str, hint: str) -> None:
        if place in self._taken:
            self._draft.problem(f"{what} is already taken by {self._taken[place]}", key, hint=hint)
        self._taken[place] = key


def _explicit(draft: Draft) -> list[PlannedController]:
    """The profile's own: SCSI ones are functions of the slot that an implicit one would have, AHCI
    ones of another."""
    controllers = draft.profile.controller
    ranges: dict[str, list[int]] = {"scsi": [], "controller": []}
    for number, one in enumerate(controllers):
        if one.addr is None:
            ranges[_range(one)].append(number)
    found = []
    for number, one in enumerate(controllers):
        key, ident = f"controller[{number}]", controller_id(controllers, number)
        among = ranges[_range(one)]
        addr = one.addr or _function(draft, _range(one), among.index(number), key)
        draft.places[ident] = place = Place(draft.bus, draft.slots.reserve(addr, key))
        device = DEVICES[one.type]
        threads = plan_threads(draft, one, key, device, f"-{ident}")
        found.append(
            PlannedController(
                id=ident, key=key, device=device, place=place, why=key, iothreads=threads,
                queues=plan_queues(draft, one, threads),
                multifunction=number in among[:1] and len(among) > 1,
            )
        )
    return found


def _range(controller: Controller) -> str:
    return "controller" if controller.type == "ahci" else "scsi"


def _function(draft: Draft, kind: str, number: int, key: str) -> GuestSlot:
    if number > 7:
        draft.problem("a slot has 8 functions, and all are taken by controllers", key,
                      hint='give this one its own place, e.g. addr = "0b"')
    return GuestSlot(f"{SLOTS[kind][0]:02x}.{number % 8}")


def plan_threads(
    draft: Draft, table: Disk | Controller, key: str, device: str, ident: str
) -> tuple[str, ...]:
    """Ids of the iothreads that serve a disk or controller."""
    if isinstance(table.iothread, str):
        return (table.iothread,)
    if table.iothread:
        return (f"iothread{ident}",)
    if table.iothreads is None:
        return ()
    qemu = draft.facts.qemu
    if qemu is not None and not qemu.has(device, "iothread-vq-mapping"):
        version = ".".join(str(v) for v in qemu.version)
        needed = "9.0" if device == "virtio-blk-pci" else "10.0"
        draft.problem(
            f"this QEMU cannot spread the queues of {device} over threads", f"{key}.iothreads",
            found=f"{qemu.path} {version}", allowed=f"QEMU {needed} or newer",
            hint="iothread = true is one thread for all queues",
        )
    return tuple(f"iothread{ident}-{n}" for n in range(table.iothreads))


def plan_queues(
    draft: Draft, table: Disk | Controller, threads: tuple[str, ...]
) -> int | None:
    """As many as asked for; each of several threads has one at least."""
    if table.queues is None and len(threads) > max(draft.profile.cpu.count, 1):
        return len(threads)
    return table.queues
