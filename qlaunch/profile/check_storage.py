"""Rules about disks, CD drives and controllers: what fits what.

What a bus, an image format or a controller lacks is a table here; QEMU would say it too, but in
its own words, after the host was changed, and one fault at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence

from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath, key_text, quote
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.profile.storage import Cdrom, Controller, Create, Disk

ATA = ("sata", "ide")
# key -> (buses that have it, what is wrong elsewhere, what to do). From each device's properties
# (`qemu-system-x86_64 -device scsi-hd,help`), and ide_dev_initfn() for what IDE refuses.
_VIRTIO = 'use bus = "virtio"'
_BUSES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "iothread": (("virtio",), "an iothread needs a virtio disk", _VIRTIO),
    "iothreads": (("virtio",), "iothreads need a virtio disk", _VIRTIO),
    "addr": (("virtio", "nvme"), "only a virtio disk has a slot of its own", _VIRTIO),
    "queues": (("virtio", "nvme"), "this bus has no queues for a disk", _VIRTIO),
    "read_only": (("virtio", "scsi", "nvme", "usb"), "QEMU has no read-only disk on this bus",
                  _VIRTIO),
    "controller": (("scsi", *ATA), "a disk on this bus is no part of a controller",
                   'use bus = "scsi" or "sata"'),
    "port": (("scsi", *ATA), "a disk on this bus has no port", "leave port out"),
    "lun": (("scsi",), "only SCSI has logical units", 'use bus = "scsi"'),
    "wwn": (("scsi", *ATA), "a disk on this bus has no world wide name", 'use bus = "scsi"'),
    "rotation_rate": (("scsi", *ATA), "a disk on this bus tells no rotation rate",
                      'use bus = "scsi" or "sata"'),
    "logical_block_size": (("virtio", "scsi", "nvme", "usb"), "sectors on this bus have 512 bytes",
                           _VIRTIO),
    "werror": (("virtio", "scsi", "usb", *ATA), "an NVMe drive always reports faults", _VIRTIO),
    "rerror": (("virtio", "scsi", "usb", *ATA), "an NVMe drive always reports faults", _VIRTIO),
}  # fmt: skip
_SCSI_HINT = 'bus = "scsi", and in a [[controller]] of type = "virtio-scsi": '
# key of [disk.create] -> formats that have it (`qemu-img create -f qed -o help`)
_FORMATS = {
    "cluster_size": ("qcow2", "qed"), "lazy_refcounts": ("qcow2",), "extended_l2": ("qcow2",),
    "compression_type": ("qcow2",), "backing": ("qcow2", "qed", "vmdk"),
}
# controller type -> (targets, logical units), from max_target and max_lun of its SCSIBusInfo;
# the LSI's own id is 7
TARGETS = {"virtio-scsi": (256, 16384), "lsi": (7, 8), "pvscsi": (64, 1), "megasas": (128, 255)}
ENDINGS = {".qcow2": "qcow2", ".vmdk": "vmdk", ".vdi": "vdi", ".vhdx": "vhdx", ".qed": "qed"}


def check_disk_files(profile: Profile) -> Iterator[Finding]:
    """No file is written by one drive while another has it open."""
    files: dict[str, tuple[str, bool]] = {}
    drives = [
        (("disk", n), d.file, d.read_only or d.throwaway or d.share_rw)
        for n, d in enumerate(profile.disk)
    ]
    drives += [(("cdrom", n), c.file, True) for n, c in enumerate(profile.cdrom) if c.file]
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
    """What a disk asks for is there on its bus and with its other keys."""
    for number, disk in enumerate(profile.disk):
        for key, message, hint, others in (*_bus_faults(disk), *_disk_faults(disk)):
            said = {name: getattr(disk, name) for name in (key, *others)}
            shown = ", ".join(f"{k} = {_shown(v)}" for k, v in said.items() if v is not None)
            also = tuple(("disk", number, name) for name in others)
            yield Finding(("disk", number, key), Problem(message, found=shown, hint=hint), also)


Fault = tuple[str, str, str, tuple[str, ...]]  # key, message, hint, other keys it depends on


def _bus_faults(disk: Disk) -> Iterator[Fault]:
    for key, (buses, message, hint) in _BUSES.items():
        if getattr(disk, key) not in (None, False) and disk.bus not in buses:
            scsi = disk.bus == "scsi" and key in ("iothread", "iothreads", "queues")
            said = f"{key} = {_shown(getattr(disk, key))}"
            yield key, message, _SCSI_HINT + said if scsi else hint, ("bus",)


def _disk_faults(disk: Disk) -> Iterator[Fault]:
    if disk.io == "native" and disk.cache not in ("none", "directsync"):
        hint = 'use cache = "none", or io = "threads"'
        yield "io", "native I/O needs a cache mode that bypasses the page cache", hint, ("cache",)
    if disk.detect_zeroes == "unmap" and not disk.discard:
        yield ("detect_zeroes", "holes are made by discarding, which is off", "add discard = true",
               ("discard",))
    if disk.iothread and disk.iothreads:
        yield "iothreads", "one thread and several are asked for", "leave iothread out", (
            "iothread",)
    if disk.iothreads and disk.queues and disk.queues < disk.iothreads:
        yield "queues", "fewer queues than threads to serve them", (
            f"use queues = {disk.iothreads}, or leave it out"), ("iothreads",)
    for key in ("logical_block_size", "physical_block_size", "discard_granularity"):
        size = getattr(disk, key)
        if size and size & (size - 1):
            yield key, "not a power of two", "use 512 or 4096", ()
    if (disk.logical_block_size or 512) > (disk.physical_block_size or 1 << 30):
        yield ("physical_block_size", "smaller than a sector", "leave it out",
               ("logical_block_size",))
    if disk.rotation_rate and 1 < disk.rotation_rate < 1025:  # ATA8-ACS, word 217
        yield "rotation_rate", "no drive turns as slowly", "use 1 for an SSD, 7200 for a disk", ()
    yield from _throwaway_faults(disk)


def _throwaway_faults(disk: Disk) -> Iterator[Fault]:
    if not disk.throwaway:
        return
    for key in ("read_only", "share_rw"):
        if getattr(disk, key):
            message = f"with {key} there is nothing to throw away"
            yield "throwaway", message, "drop one of the two", (key,)
    if disk.format not in ("raw", "qcow2"):
        yield ("throwaway", "only for raw and qcow2 images",
               f"qemu-img convert -O qcow2 '{disk.file}' NEW.qcow2", ("format",))


def _shown(value: object) -> str:
    if isinstance(value, str):
        return quote(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_create(profile: Profile) -> Iterator[Finding]:
    """A disk that is made has a size, and what its format can be made with."""
    for number, disk in enumerate(profile.disk):
        if disk.create is None:
            continue
        path: KeyPath = ("disk", number, "create")
        for key, message, found, hint in _create_faults(disk, disk.create):
            yield Finding((*path, key) if key else path, Problem(message, found=found, hint=hint),
                          also=(("disk", number, "format"),))


def _create_faults(disk: Disk, create: Create) -> Iterator[tuple[str, str, str, str]]:
    for key, formats in _FORMATS.items():
        if getattr(create, key) not in (None, False) and disk.format not in formats:
            yield key, f"only for {' and '.join(formats)}", f'format = "{disk.format}"', (
                f'set format = "{formats[0]}" of the disk')
    if create.size is None and create.backing is None:
        yield "", "the new disk has no size", "", 'add size = "64G"'
    if create.size is not None and (create.size < 512 or create.size % 512):
        yield "size", "not a whole number of sectors", str(create.size), "use a multiple of 512B"
    if create.backing_format and not create.backing:
        yield "backing_format", "no backing file is named", "", 'add backing = "FILE"'
    ending = ENDINGS.get("." + disk.file.rsplit(".", 1)[-1], disk.format)
    if ending != disk.format:
        yield "", f"the image would be {disk.format}, whatever its name says", disk.file, (
            f'add format = "{ending}" to the disk')
    yield from _allocation_faults(disk, create)


def _allocation_faults(disk: Disk, create: Create) -> Iterator[tuple[str, str, str, str]]:
    how = create.preallocation
    if how == "off":
        return
    found = f'preallocation = "{how}", format = "{disk.format}"'
    if disk.format not in ("raw", "qcow2"):
        yield "preallocation", "only for raw and qcow2", found, "leave it out"
    elif disk.format == "raw" and how == "metadata":
        yield "preallocation", "a raw image has no metadata", found, 'use "falloc", or leave it out'
    elif create.backing and not create.extended_l2:
        yield ("preallocation", "a new disk on a backing file begins empty", found,
               "leave it out, or add extended_l2 = true")


_OWN_IDS = (  # of what other tables bring
    "(agent|audio|balloon|cd|channel|codec|disk|evdev|hostdev|input|iommu|looking-glass|net|port|"
    "pvpanic|ram|redir|rng|root|serial|share|shmem|tpm|usb|usbdev|vdagent|vga|vgpu|vmcoreinfo|"
    "vsock|watchdog)([0-9-].*)?"
)


def check_controllers(profile: Profile) -> Iterator[Finding]:
    """A controller has what its type has, and ids of its own."""
    taken = {f"disk{n}": f"disk[{n}]" for n in range(len(profile.disk))}
    taken |= {f"cd{n}": f"cdrom[{n}]" for n in range(len(profile.cdrom))}
    for number, one in enumerate(profile.controller):
        for key in ("iothread", "iothreads", "queues"):
            if getattr(one, key) not in (None, False) and one.type != "virtio-scsi":
                problem = Problem(f"this controller has no {key}", found=f'type = "{one.type}"',
                                  hint='use type = "virtio-scsi"')
                yield Finding(("controller", number, key), problem)
        if one.iothread and one.iothreads:
            yield Finding(("controller", number, "iothreads"),
                          Problem("one thread and several are asked for",
                                  hint="leave iothread out"))
        ident = controller_id(profile.controller, number)
        if one.id and ident not in taken and re.fullmatch(_OWN_IDS, ident):
            yield Finding(("controller", number, "id"), Problem(
                "this id is for a device that is made here", found=quote(ident),
                hint='another one, such as "hba0"'))
        first = taken.setdefault(ident, f"controller[{number}]")
        if first != f"controller[{number}]" and not first.startswith("controller"):
            problem = Problem(f"{first} has the same id", found=quote(one.id or ""),
                              hint="each controller has an id of its own")
            yield Finding(("controller", number, "id"), problem)


def controller_id(controllers: Sequence[Controller], number: int) -> str:
    """Its QEMU id: by default its type and its number among those of that type."""
    one = controllers[number]
    nth = sum(c.type == one.type for c in controllers[:number])
    kind = "scsi" if one.type == "virtio-scsi" else one.type
    return one.id or f"{kind}{nth}"


def check_places(profile: Profile) -> Iterator[Finding]:
    """Drives name a controller that there is, of their kind, and places on it that are free."""
    ids = {controller_id(profile.controller, n): c for n, c in enumerate(profile.controller)}
    seen: dict[Hashable, KeyPath] = {}
    drives: list[tuple[KeyPath, Disk | Cdrom]] = [
        (("disk", n), d) for n, d in enumerate(profile.disk)
    ]
    drives += [(("cdrom", n), c) for n, c in enumerate(profile.cdrom)]
    for path, drive in drives:
        yield from _controller_faults(path, drive, ids)
        if drive.port is None:
            continue
        bus = "scsi" if drive.bus == "scsi" else "ata"
        place = (bus, drive.controller, drive.port, drive.lun or 0)
        first = seen.setdefault(place, path)
        if first != path:
            problem = Problem(f"{key_text(first)} has the same port", found=str(drive.port),
                              hint="another port, or leave it out")
            yield Finding((*path, "port"), problem, also=((*first, "port"),))


def _controller_faults(
    path: KeyPath, drive: Disk | Cdrom, ids: dict[str, Controller]
) -> Iterator[Finding]:
    name = drive.controller
    if isinstance(drive, Cdrom) and drive.bus == "usb" and (name or drive.port is not None):
        yield Finding((*path, "bus"), Problem("a USB drive has no controller or port of these",
                                              hint="leave controller and port out"))
    elif isinstance(drive, Cdrom) and drive.lun is not None and drive.bus != "scsi":
        yield Finding((*path, "lun"), Problem("only SCSI has logical units",
                                              hint='use bus = "scsi"'))
    if name is None or drive.bus not in (None, "scsi", *ATA):
        return
    if name not in ids:
        problem = Problem("there is no controller of this id", found=quote(name),
                          allowed=", ".join(ids),
                          hint=f'[[controller]] with id = "{name}" and a type')
        yield Finding((*path, "controller"), problem)
        return
    wanted = "ahci" if (drive.bus or "sata") in ATA else "a SCSI controller"
    if (ids[name].type == "ahci") != (wanted == "ahci"):
        problem = Problem(f"this bus needs {wanted}",
                          found=f'bus = "{drive.bus or "sata"}", and {name} is {ids[name].type}',
                          hint="name another controller, or leave the key out")
        yield Finding((*path, "controller"), problem, also=((*path, "bus"),))


STORAGE_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_disk_files, check_disk_features, check_create, check_controllers, check_places,
)
