"""Disks and CD drives: where they are plugged in, and whether their files may be used."""

from __future__ import annotations

from typing import Literal

from qlaunch.facts.model import HostFile
from qlaunch.plan.draft import Draft
from qlaunch.plan.model import Place, PlannedDisk
from qlaunch.profile.devices import Cdrom, Disk

# SATA ports are a map too: CDs take 1, 2, 3 as in the sources, disks 0, 5, 4.
_CD_PORTS = (1, 2, 3)
_DISK_PORTS = (0, 5, 4)
_PC_PORTS = 4


def plan_storage(draft: Draft) -> tuple[PlannedDisk, ...]:
    """All disks in profile order, then all CD drives."""
    ports: dict[int, str] = {}
    disks: list[PlannedDisk] = []
    virtio = sata = 0
    for index, disk in enumerate(draft.profile.disk):
        key = f"disk[{index}]"
        if disk.bus == "virtio":
            slot = draft.slots.take("disk", virtio, key, disk.addr)
            disks.append(_disk(draft, disk, key, "virtio-blk-pci", Place(draft.bus, slot), None))
            virtio += 1
        else:
            place, unit = _port(draft, ports, _DISK_PORTS, sata, key, None)
            disks.append(_disk(draft, disk, key, "ide-hd", place, unit))
            sata += 1
    for index, cdrom in enumerate(draft.profile.cdrom):
        key = f"cdrom[{index}]"
        place, unit = _port(draft, ports, _CD_PORTS, index, key, cdrom.port)
        disks.append(_cdrom(draft, cdrom, key, place, unit))
    return tuple(disks)


def _port(
    draft: Draft, taken: dict[int, str], order: tuple[int, ...], index: int, key: str,
    wanted: int | None,
) -> tuple[Place, int]:
    number = wanted if wanted is not None else order[min(index, len(order) - 1)]
    if draft.is_pc:
        number %= _PC_PORTS
    if number in taken:
        draft.problem(
            f"SATA port {number} is already taken by {taken[number]}", key,
            hint="use another bus for one of them, or give a CD drive its port",
        )
    taken[number] = key
    if draft.is_pc:
        return Place(f"ide.{number // 2}"), number % 2
    return Place(f"ide.{number}"), 0


def _disk(
    draft: Draft, disk: Disk, key: str, device: str, place: Place, unit: int | None
) -> PlannedDisk:
    number = key[5:-1]
    file = draft.facts.file(disk.file)
    check_file(draft, file, f"{key}.file", disk.read_only)
    return PlannedDisk(
        id=f"disk{number}", node=f"drive{number}", key=key, file=disk.file, format=disk.format,
        protocol=_protocol(disk.file, file), device=device, place=place, unit=unit,
        read_only=disk.read_only, iothread=f"iothread{number}" if disk.iothread else None,
        fd=_fd(draft, disk.file, file, not disk.read_only),
    )


def _cdrom(draft: Draft, cdrom: Cdrom, key: str, place: Place, unit: int) -> PlannedDisk:
    number = key[6:-1]
    file = draft.facts.file(cdrom.file)
    check_file(draft, file, f"{key}.file", read_only=True)
    return PlannedDisk(
        id=f"cd{number}", node=f"cdrom{number}", key=key, file=cdrom.file, format="raw",
        protocol=_protocol(cdrom.file, file), device="ide-cd", place=place, unit=unit,
        read_only=True, fd=_fd(draft, cdrom.file, file, writable=False),
    )


def _protocol(path: str, file: HostFile | None) -> Literal["file", "host_device"]:
    """QEMU's file driver refuses block devices; a path below /dev is one when nobody looked."""
    if file is not None and file.kind != "missing":
        return "host_device" if file.kind == "block" else "file"
    return "host_device" if path.startswith("/dev/") else "file"


def _fd(draft: Draft, path: str, file: HostFile | None, writable: bool) -> int | None:
    """A fixed fd when root opens what QEMU's own account could not."""
    if file is None or not _opened_by_root(draft, file):
        return None
    if file.readable and (file.writable or not writable):
        return None
    return draft.fd("file", path, writable=writable)


def _opened_by_root(draft: Draft, file: HostFile) -> bool:
    """Root opens any file for a machine of its own, but for a user who asked only block devices:
    a path that a user wrote must not open root's files to them."""
    invoker = draft.facts.invoker
    if draft.account is None or invoker is None:
        return False
    own = invoker.asked != draft.account.uid
    return file.kind == "block" or (own and file.kind == "file")


def check_file(
    draft: Draft, file: HostFile | None, where: str, read_only: bool, *, handed: bool = True
) -> None:
    """A file that is missing, of the wrong kind, out of reach, or used by the host.

    With `handed` root opens it for QEMU's account; otherwise QEMU opens it by itself.
    """
    if file is None:
        return
    if file.kind == "missing":
        draft.problem("no such file", where, found=file.path, hint=_missing_hint(file.path))
    elif file.kind == "denied":
        draft.problem("the file cannot be reached by you", where, found=file.path,
                      hint=f"namei -l '{file.path}' shows what is in the way")
    elif file.kind not in ("file", "block"):
        kind = {"char": "character device", "other": "pipe"}.get(file.kind, file.kind)
        draft.problem(f"this is a {kind}, not a file or block device", where,
                      found=file.path, hint="name a disk image, a partition or a whole drive")
    else:
        _check_use(draft, file, where, read_only, handed and _opened_by_root(draft, file))


def _missing_hint(path: str) -> str:
    if path.startswith("/dev/"):
        return "lsblk -o NAME,SIZE,MODEL,SERIAL; ls /dev/disk/by-id"
    if path.endswith((".qcow2", ".img", ".raw")):
        kind = "qcow2" if path.endswith(".qcow2") else "raw"
        return f"qemu-img create -f {kind} '{path}' 64G"
    return "is the path relative to the profile's own directory?"


def _check_use(
    draft: Draft, file: HostFile, where: str, read_only: bool, opened_by_root: bool
) -> None:
    if file.kind == "block" and file.mounted and not read_only:
        draft.problem(
            "the host has this block device mounted; two writers destroy a file system", where,
            found=f"{file.path} on {', '.join(file.mounted)}",
            hint="the host runs from it: name another disk" if "/" in file.mounted
            else f"umount {' '.join(file.mounted)}",
        )
    elif file.kind == "block" and file.in_use:
        draft.problem("the host uses this block device", where,
                      found=f"{file.path}: {file.in_use}",
                      hint=f"lsblk '{file.path}' shows what is on it; take that out of use first")
    elif file.lock == "writing" or (file.lock and not read_only):
        _locked(draft, file, where)
    elif not opened_by_root and not (file.readable and (read_only or file.writable)):
        need = "read" if read_only else "read and write"
        who = "you" if draft.account is None else f"{draft.account.name}, who QEMU runs as,"
        draft.problem(f"{who} may not {need} this file", where, found=file.path,
                      hint=f"namei -l '{file.path}' shows what is in the way")


def _locked(draft: Draft, file: HostFile, where: str) -> None:
    """QEMU itself would refuse it, but only after the host was changed."""
    shared = "; or, for both to read it: read_only = true" if file.lock == "reading" else ""
    draft.problem(
        "another QEMU has this disk open", where,
        found=f"{file.path}: {file.locked_by or 'by a process that is not yours'}",
        hint=f"shut that machine down first{shared}" if file.locked_by
        else f"sudo fuser -v '{file.path}' shows who{shared}",
    )
