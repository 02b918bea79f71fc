"""One disk or CD drive: its file, who opens it, and the image that is made when there is none."""

from __future__ import annotations

from msgspec.structs import asdict

from qlaunch.facts.model import HostFile
from qlaunch.plan.controllers import Seat, Seats, plan_queues, plan_threads
from qlaunch.plan.draft import Draft
from qlaunch.plan.files import (
    account_name,
    check_file,
    check_format,
    handed_fd,
    protocol,
    root_for_itself,
)
from qlaunch.plan.model import Place, PlannedDisk, PlannedMake
from qlaunch.profile.storage import Cdrom, Create, Disk
from qlaunch.values import Size

QEMU_IMG = "qemu-utils (Debian), qemu-img (Fedora, Arch)"
_DEVICES = {
    "virtio": "virtio-blk-pci", "nvme": "nvme", "scsi": "scsi-hd", "sata": "ide-hd",
    "ide": "ide-hd", "usb": "usb-storage",
}
DIRECT = ("none", "directsync")  # cache modes that open the file with O_DIRECT


def plan_disk(draft: Draft, seats: Seats, disk: Disk, number: int) -> PlannedDisk:
    """Decide a disk."""
    key = f"disk[{number}]"
    device = _DEVICES[disk.bus]
    draft.need(device, f"{key}.bus")
    seat = _disk_seat(draft, seats, disk, key)
    file = draft.facts.file(disk.file)
    writable = not (disk.read_only or disk.throwaway)
    made = _plan_make(draft, disk, key, file)
    direct = disk.cache in DIRECT
    fd: int | None = None
    if made:
        if root_for_itself(draft):
            fd = draft.fd("file", disk.file, writable=writable, direct=direct)
    else:
        check_file(draft, file, f"{key}.file", not writable, shared=disk.share_rw)
        check_format(draft, file, f"{key}.format", disk.format)
        fd = handed_fd(draft, disk.file, file, writable, direct=direct)
    _check_io(draft, disk, key)
    threads = plan_threads(draft, disk, key, device, str(number))
    return PlannedDisk(
        id=f"disk{number}", node=f"drive{number}", key=key, file=disk.file, format=disk.format,
        protocol=protocol(disk.file, file), device=device, **asdict(seat),
        read_only=disk.read_only, iothreads=threads, queues=plan_queues(draft, disk, threads),
        serial=disk.serial or (f"disk{number}" if disk.bus == "nvme" else None), fd=fd,
        overlay=_overlay(draft, disk, key), capacity=_capacity(draft, disk, key, file, made),
    )


def _disk_seat(draft: Draft, seats: Seats, disk: Disk, key: str) -> Seat:
    if disk.bus in ("virtio", "nvme"):
        return seats.pci(disk.bus, key, disk.addr)
    if disk.bus == "scsi":
        return seats.scsi(disk, key)
    if disk.bus == "usb":
        return Seat(seats.usb(key, f"disk{key[5:-1]}"))
    return seats.ata(disk, key)


def plan_cdrom(draft: Draft, seats: Seats, cdrom: Cdrom, number: int) -> PlannedDisk:
    """Decide a CD drive, which may be empty."""
    key, ident = f"cdrom[{number}]", f"cd{number}"
    device, via = "scsi-cd" if cdrom.bus in ("scsi", "usb") else "ide-cd", ""
    if cdrom.bus == "usb":
        draft.need("usb-bot", f"{key}.bus")
        via = f"{ident}usb"
        seats.usb(key, via)
        seat = Seat(Place(f"{via}.0"), lun=0)
    else:
        seat = seats.scsi(cdrom, key) if cdrom.bus == "scsi" else seats.ata(cdrom, key)
    draft.need(device, f"{key}.bus")
    path = cdrom.file or ""
    file = draft.facts.file(path) if path else None
    check_file(draft, file, f"{key}.file", read_only=True)
    check_format(draft, file, f"{key}.file", "raw")
    return PlannedDisk(
        id=ident, node=f"cdrom{number}", key=key, file=path, format="raw",
        protocol=protocol(path, file), device=device, **asdict(seat), via=via,
        read_only=True, fd=handed_fd(draft, path, file, writable=False),
    )


def _check_io(draft: Draft, disk: Disk, key: str) -> None:
    qemu = draft.facts.qemu
    if disk.io and qemu is not None and qemu.aio and disk.io not in qemu.aio:
        draft.problem(
            f"this QEMU was built without {disk.io}", f"{key}.io", found=qemu.path,
            allowed=", ".join(qemu.aio),
            hint="leave io out, or use the QEMU of qemu-system-x86 (Debian), qemu-system-x86-core "
            "(Fedora) or qemu-system-x86 (Arch), which has it",
        )


def _overlay(draft: Draft, disk: Disk, key: str) -> int | None:
    if not disk.throwaway:
        return None
    draft.decided["qemu_img"] = draft.program("qemu-img", f"{key}.throwaway", QEMU_IMG)
    return draft.fd("overlay", key, direct=disk.cache in DIRECT)


def _capacity(
    draft: Draft, disk: Disk, key: str, file: HostFile | None, made: bool
) -> int:
    """Bytes of the disk that a throwaway file is laid over; 0 when there is none."""
    if not disk.throwaway:
        return 0
    size: int | None
    if made:
        size = disk.create.size if disk.create else None
        if size is None:
            draft.problem("a throwaway disk has to say its size", f"{key}.create",
                          hint='add size = "64G"')
    else:
        size = (file.size if disk.format == "raw" else file.capacity) if file else None
    return int(size or 0)


def _plan_make(draft: Draft, disk: Disk, key: str, file: HostFile | None) -> bool:
    """Whether the image is made by this start; notes how, and what stands against it."""
    create = disk.create
    if create is None or file is None or file.kind != "missing":
        return False
    where = f"{key}.create"
    if disk.file.startswith("/dev/"):
        draft.problem("a block device is not made here", where, found=disk.file,
                      hint="name a file, or make the partition or volume first")
        return True
    if file.near and not disk.file.startswith(f"{draft.paths.state}/"):
        directory = disk.file.rpartition("/")[0]
        draft.problem("there is no directory to make the disk in", f"{key}.file",
                      found=f"{directory}; {file.near} is there", hint=f"mkdir -p '{directory}'")
    elif not (file.near or file.writable or root_for_itself(draft)):
        draft.problem(f"{account_name(draft)} may not make a file here", f"{key}.file",
                      found=file.path, hint=f"namei -l '{file.path}' shows what is in the way")
    _check_space(draft, create, where, file)
    draft.makes.append(
        PlannedMake(
            path=disk.file, key=where, argv=_make_argv(draft, disk, create, key),
            what=f"a {disk.format} disk" + (f" of {create.size}" if create.size else ""),
        )
    )
    return True


def _check_space(draft: Draft, create: Create, where: str, file: HostFile) -> None:
    if create.size is None or file.free is None or create.size <= file.free:
        return
    found = f"{create.size} asked for, {_short(file.free)} free"
    if create.preallocation in ("falloc", "full"):
        draft.problem("there is no room for the disk", where, found=found,
                      hint=f"df -h '{file.path.rpartition('/')[0]}'; without preallocation it "
                      "begins small")
    else:
        draft.problem("the disk may grow larger than the space there is", where, found=found,
                      hint="the machine is stopped when that is used up", severity="warning")


def _short(size: int) -> str:
    """Rounded down to a unit that a person reads."""
    unit = next((u for u in (30, 20, 10) if size >> u >= 10), 0)
    return str(Size(size >> unit << unit))


def _make_argv(draft: Draft, disk: Disk, create: Create, key: str) -> tuple[str, ...]:
    words = [draft.program("qemu-img", f"{key}.create", QEMU_IMG), "create", "-q", "-f",
             disk.format]
    options: dict[str, str] = {}
    if create.preallocation != "off":
        options["preallocation"] = create.preallocation
    if create.cluster_size:
        options["cluster_size"] = str(int(create.cluster_size))
    options |= {name: "on" for name in ("lazy_refcounts", "extended_l2") if getattr(create, name)}
    if create.compression_type:
        options["compression_type"] = create.compression_type
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    if create.backing:
        words += ["-b", create.backing, "-F", _backing_format(draft, create, key)]
    words.append(f"{disk.file}.new")
    if create.size is not None:
        words.append(str(int(create.size)))
    return tuple(words)


def _backing_format(draft: Draft, create: Create, key: str) -> str:
    """The profile's word, or the file's own header; QEMU opens the file by itself."""
    where = f"{key}.create.backing"
    file = draft.facts.file(create.backing or "")
    check_file(draft, file, where, read_only=True, handed=False)
    if create.backing_format:
        check_format(draft, file, f"{where}_format", create.backing_format)
        return create.backing_format
    if file is not None and file.kind in ("file", "block") and not file.format:
        draft.problem("the backing file's format cannot be read", where,
                      hint='add backing_format = "qcow2", or what it is')
    return (file.format if file else "") or "raw"
