"""Disks, CD drives and their controllers."""

from __future__ import annotations

from typing import Any

from qlaunch.argv.option import Option, Value, as_json, device, option, place
from qlaunch.plan.model import Plan, PlannedController, PlannedDisk
from qlaunch.profile.storage import Disk

# QEMU's -drive cache modes as blockdev settings (qemu(1), "cache=").
_CACHE: dict[str, tuple[bool, bool, bool]] = {  # direct, no-flush, device write-cache
    "none": (True, False, True),
    "writeback": (False, False, True),
    "writethrough": (False, False, False),
    "directsync": (True, False, False),
    "unsafe": (False, True, True),
}
_BY_ROOT = "rule: QEMU's account cannot open this file"


def controller_options(plan: Plan) -> list[Option]:
    """Controllers, with their iothreads before them."""
    options: list[Option] = []
    for one in plan.controllers:
        options += _iothreads(plan, one)
        pairs: dict[str, Value | None] = {
            **place(one.place.bus, one.place.addr),
            "multifunction": True if one.multifunction else None, "num_queues": one.queues,
        }
        options.append(_device(one.device, one.why, {"id": one.id, **pairs}, one.iothreads,
                               as_data=len(one.iothreads) > 1))
    return options


def disk_options(plan: Plan) -> list[Option]:
    """A block node and a device for each disk and CD drive, with its iothread before it."""
    options: list[Option] = []
    for disk in plan.disks:
        options += _iothreads(plan, disk)
        if disk.fd is not None:
            options.append(option("-add-fd", why=_BY_ROOT, fd=disk.fd, set=disk.fd,
                                  opaque=disk.file))
        if disk.file:
            options += _blockdevs(plan, disk)
        options += _disk_devices(plan, disk)
    return options


def _iothreads(plan: Plan, of: PlannedController | PlannedDisk) -> list[Option]:
    """The objects of its threads, unless somebody before it has named the same."""
    before: set[str] = set()
    owners: list[PlannedController | PlannedDisk] = [*plan.controllers, *plan.disks]
    for other in owners:
        if other is of:
            break
        before |= set(other.iothreads)
    why = f"{of.key}.{'iothreads' if len(of.iothreads) > 1 else 'iothread'}"
    return [option("-object", "iothread", why=why, id=ident)
            for ident in of.iothreads if ident not in before]


def _device(
    driver: str, why: str, pairs: dict[str, Value | None], iothreads: tuple[str, ...] = (), *,
    as_data: bool,
) -> Option:
    """`pairs` has QEMU's own names, some of which are written with `_`."""
    given = {key: value for key, value in pairs.items() if value is not None}
    if not as_data:
        given |= {"iothread": iothreads[0]} if iothreads else {}
        return Option("-device", (("", driver), *given.items()), why)
    content: dict[str, Any] = {"driver": driver}
    content |= {key: str(v) if isinstance(v, str) else v for key, v in given.items()}
    if "wwn" in given:
        content["wwn"] = int(str(given["wwn"]), 16)
    if iothreads:
        content["iothread-vq-mapping"] = [{"iothread": ident} for ident in iothreads]
    return as_json("-device", why, content)


def _blockdevs(plan: Plan, disk: PlannedDisk) -> list[Option]:
    """The image's node; below a throwaway disk's own the image is only read."""
    table = _disk_table(plan, disk)
    if disk.overlay is None:
        return _nodes(table, disk, disk.format, disk.fd, {})
    why = f"{disk.key}.throwaway"
    base = f"{disk.node}-base"
    return [
        _blockdev(f"{disk.key}.file", disk.format, base, disk.protocol, _name(disk.file, disk.fd),
                  {"read-only": True, **_access(table)}),
        option("-add-fd", why=why, fd=disk.overlay, set=disk.overlay,
               opaque=f"throwaway:{disk.id}"),
        *_nodes(table, disk, "qcow2", disk.overlay, {"backing": base}),
    ]


def _nodes(
    table: Disk | None, disk: PlannedDisk, driver: str, fd: int | None,
    more: dict[str, Value | None],
) -> list[Option]:
    """The node that the device is given, with a throttle above it when its rate is limited."""
    protocol = "file" if disk.overlay is not None else disk.protocol
    settings = {"read-only": True if disk.read_only else None, **more}
    name = _name(disk.file, fd)
    if table is None or not (table.iops or table.bps):
        settings |= _access(table)
        return [_blockdev(f"{disk.key}.file", driver, disk.node, protocol, name, settings)]
    why = "; ".join(f"{disk.key}.{key}" for key in ("iops", "bps") if getattr(table, key))
    group = f"throttle-{disk.id}"
    limits = {f"{key}-total": int(value) for key in ("iops", "bps")
              if (value := getattr(table, key))}
    below = f"{disk.node}-image"
    return [
        as_json("-object", why, {"qom-type": "throttle-group", "id": group, "limits": limits}),
        _blockdev(f"{disk.key}.file", driver, below, protocol, name,
                  settings | _access(table)),
        option("-blockdev", why=why, **{
            "driver": "throttle", "node-name": disk.node,
            "read-only": True if disk.read_only else None,
            "throttle-group": group, "file": below, **_modes(table),
        }),
    ]


def _blockdev(
    why: str, driver: str, node: str, protocol: str, filename: str,
    settings: dict[str, Value | None],
) -> Option:
    settings = dict(settings)
    head: dict[str, Value | None] = {
        "driver": driver, "node-name": node, "read-only": settings.pop("read-only", None),
        "backing": settings.pop("backing", None),
        "file.driver": protocol, "file.filename": filename,
    }
    return option("-blockdev", why=why, **head, **settings)


def _name(path: str, fd: int | None) -> str:
    return path if fd is None else f"/dev/fdset/{fd}"


def _access(table: Disk | None) -> dict[str, Value | None]:
    """How the file is used: aio, cache, discards; on its node and on the protocol's below."""
    if table is None:
        return {}
    pairs: dict[str, Value | None] = {"file.aio": table.io}
    if table.cache:
        direct, no_flush, _ = _CACHE[table.cache]
        pairs["cache.direct"] = pairs["file.cache.direct"] = direct
        pairs["cache.no-flush"] = no_flush
    if table.discard:
        pairs["discard"] = pairs["file.discard"] = "unmap"
    pairs["detect-zeroes"] = table.detect_zeroes
    return pairs


def _modes(table: Disk) -> dict[str, Value | None]:
    """What a filter node has of it."""
    pairs = _access(table)
    return {key: value for key, value in pairs.items() if not key.startswith("file.")}


def _disk_table(plan: Plan, disk: PlannedDisk) -> Disk | None:
    return plan.profile.disk[int(disk.key[5:-1])] if disk.key.startswith("disk") else None


def _disk_devices(plan: Plan, disk: PlannedDisk) -> list[Option]:
    """The drive; a CD drive on USB is the SCSI drive of a device of its own."""
    table = _disk_table(plan, disk)
    boot = table.boot if table else plan.profile.cdrom[int(disk.key[6:-1])].boot
    why = disk.key + (".bus" if table else "")
    pairs: dict[str, Value | None] = {
        **place(disk.place.bus, disk.place.addr, disk.place.port), "unit": disk.unit,
        "scsi-id": disk.target, "lun": disk.lun, "drive": disk.node if disk.file else None,
        "id": disk.id,
    }
    made = _device(disk.device, why, {**pairs, **_properties(table, disk), "bootindex": boot},
                   disk.iothreads, as_data=_is_data(plan, disk))
    if not disk.via:
        return [made]
    where = plan.places[disk.via]
    return [device("usb-bot", why, id=disk.via, **place(where.bus, None, where.port)), made]


def _is_data(plan: Plan, disk: PlannedDisk) -> bool:
    """Whether it has to be JSON: for a mapping of its queues, and on a controller that is JSON for
    its own, because QEMU makes all such devices after the others (qemu_create_cli_devices)."""
    late = {one.id for one in plan.controllers if len(one.iothreads) > 1}
    return len(disk.iothreads) > 1 or disk.place.bus.partition(".")[0] in late


def _properties(table: Disk | None, disk: PlannedDisk) -> dict[str, Value | None]:
    """What the guest sees of the disk, as its device's properties."""
    if table is None:
        return {}
    write_through = table.cache in ("writethrough", "directsync")
    # QEMU refuses a sector larger than the physical one, which has 512 bytes unless it is said
    # (blkconf_blocksizes, hw/block/block.c).
    sector = table.logical_block_size if (table.logical_block_size or 0) > 512 else None
    pairs: dict[str, Value | None] = {
        "write-cache": "off" if write_through else None,
        "serial": disk.serial, "wwn": table.wwn, "rotation_rate": table.rotation_rate,
        "logical_block_size": table.logical_block_size,
        "physical_block_size": table.physical_block_size or sector,
        "discard_granularity": table.discard_granularity,
        "werror": table.werror, "rerror": table.rerror,
        "share-rw": True if table.share_rw else None,
    }
    pairs["max_ioqpairs" if disk.device == "nvme" else "num-queues"] = disk.queues
    return pairs
