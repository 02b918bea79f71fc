"""Disks, networks, passed-through cards, display, serial: one function a family."""

from __future__ import annotations

from qlaunch.argv.option import Option, Value, device, option, place
from qlaunch.plan.make import VGA
from qlaunch.plan.model import Plan, PlannedDisk, PlannedNic
from qlaunch.profile.devices import Disk

# QEMU's -drive cache modes as blockdev settings (qemu(1), "cache=").
_CACHE: dict[str, tuple[bool, bool, bool]] = {  # direct, no-flush, device write-cache
    "none": (True, False, True),
    "writeback": (False, False, True),
    "writethrough": (False, False, False),
    "directsync": (True, False, False),
    "unsafe": (False, True, True),
}


def port_options(plan: Plan) -> list[Option]:
    """Root ports, before what is plugged into them."""
    return [
        device(p.type, p.why, bus="pcie.0", addr=p.addr, multifunction=True if p.multifunction
               else None, port=p.port, chassis=p.chassis, id=p.id)
        for p in plan.ports
    ]


def controller_options(plan: Plan) -> list[Option]:
    """Extra controllers and the balloon."""
    options = []
    for index, controller in enumerate(plan.profile.controller):
        name = controller.id or f"{controller.type}{index}"
        options.append(device(controller.type, f"controller[{index}]", id=name,
                              **place(plan.places[name].bus, plan.places[name].addr)))
    if "balloon0" in plan.places:
        where = plan.places["balloon0"]
        options.append(device("virtio-balloon-pci", "balloon", id="balloon0",
                              **place(where.bus, where.addr)))
    return options


def disk_options(plan: Plan) -> list[Option]:
    """A block node and a device for each disk and CD drive, with its iothread before it."""
    options = []
    for disk in plan.disks:
        if disk.iothread:
            options.append(option("-object", "iothread", why=f"{disk.key}.iothread",
                                  id=disk.iothread))
        if disk.fd is not None:
            options.append(option("-add-fd", why="rule: QEMU's account cannot open this file",
                                  fd=disk.fd, set=disk.fd, opaque=disk.file))
        options += [_blockdev(plan, disk), _disk_device(plan, disk)]
    return options


def _blockdev(plan: Plan, disk: PlannedDisk) -> Option:
    filename = disk.file if disk.fd is None else f"/dev/fdset/{disk.fd}"
    pairs: dict[str, Value | None] = {
        "driver": disk.format, "node-name": disk.node,
        "read-only": True if disk.read_only else None,
        "file.driver": disk.protocol, "file.filename": filename,
    }
    table = _disk_table(plan, disk)
    if table is not None:
        pairs["file.aio"] = table.io
        if table.cache:
            direct, no_flush, _ = _CACHE[table.cache]
            pairs["cache.direct"] = pairs["file.cache.direct"] = direct
            pairs["cache.no-flush"] = no_flush
        if table.discard:
            pairs["discard"] = pairs["file.discard"] = "unmap"
    return option("-blockdev", why=f"{disk.key}.file", **pairs)


def _disk_table(plan: Plan, disk: PlannedDisk) -> Disk | None:
    return plan.profile.disk[int(disk.key[5:-1])] if disk.key.startswith("disk") else None


def _disk_device(plan: Plan, disk: PlannedDisk) -> Option:
    table = _disk_table(plan, disk)
    boot = table.boot if table else plan.profile.cdrom[int(disk.key[6:-1])].boot
    write_cache = None
    if table is not None and table.cache in ("writethrough", "directsync"):
        write_cache = False
    return device(
        disk.device, disk.key + (".bus" if table else ""), **place(disk.place.bus, disk.place.addr),
        unit=disk.unit, drive=disk.node, id=disk.id, iothread=disk.iothread,
        write_cache=write_cache, serial=table.serial if table else None, bootindex=boot,
    )


def net_options(plan: Plan) -> list[Option]:
    """A backend and a card for each network."""
    options = []
    for nic in plan.nics:
        options += [_netdev(plan, nic), _nic(plan, nic)]
    return options


def _netdev(plan: Plan, nic: PlannedNic) -> Option:
    name = f"hostnet{nic.index}"
    if nic.kind == "user":
        table = plan.profile.net[nic.index].user
        pairs: list[tuple[str, Value]] = [("", "user"), ("id", name)]
        if table is not None:
            pairs += [("restrict", True)] * table.restrict
            pairs += [("hostname", table.hostname)] if table.hostname else []
            pairs += [("hostfwd", _forward(f)) for f in table.forward]
        return Option("-netdev", tuple(pairs), f"net[{nic.index}].user")
    many = nic.queues > 1
    key = f"net[{nic.index}].{'bridge' if nic.bridge else 'tap'}"
    fds = ":".join(str(f) for f in nic.tap_fds)
    vhost = ":".join(str(f) for f in nic.vhost_fds)
    return option(
        "-netdev", "tap", why=key + ("; rule: vhost-net is there" if vhost else ""), id=name,
        **{"fds" if many else "fd": fds}, vhost=True if vhost else None,
        **({"vhostfds" if many else "vhostfd": vhost} if vhost else {}),
    )


def _forward(text: str) -> str:
    """`tcp:2222:22` or `tcp:127.0.0.1:2222:22` → QEMU's `tcp:ADDR:2222-:22`."""
    protocol, *address, port, guest = text.split(":")
    return f"{protocol}:{address[0] if address else ''}:{port}-:{guest}"


def _nic(plan: Plan, nic: PlannedNic) -> Option:
    table = plan.profile.net[nic.index]
    many = nic.queues > 1 and table.model == "virtio"
    return device(
        nic.model, f"{nic.why}; {nic.mac_why}", **place(nic.place.bus, nic.place.addr),
        netdev=f"hostnet{nic.index}", mac=nic.mac, id=f"net{nic.index}", mq=True if many else None,
        vectors=2 * nic.queues + 2 if many else None, bootindex=table.boot,
    )


def card_options(plan: Plan) -> list[Option]:
    """Passed-through functions."""
    return [
        device(
            "vfio-pci", card.key + (".functions" if card.companion else ""),
            host=card.address, id=card.id, **place(card.place.bus, card.place.addr),
            multifunction=True if card.multifunction else None,
            x_vga=True if card.x_vga else None, romfile=card.rom, rombar=_rombar(card.rombar),
            bootindex=card.boot,
        )
        for card in plan.cards
    ]


def _rombar(wanted: bool | None) -> int | None:
    return None if wanted is None else int(wanted)


def display_options(plan: Plan) -> list[Option]:
    """Emulated card and how it is shown."""
    vga = plan.profile.display.vga
    options = [option("-vga", "none", why="display.vga")]
    if "vga" in plan.places:
        where = plan.places["vga"]
        options.append(device(VGA[vga], "display.vga", id="vga",
                              **place(where.bus, where.addr)))
    if plan.display == "spice":
        options += [
            option("-display", "none", why=plan.display_why),
            option("-spice", why=plan.display_why, unix=True, addr=f"{plan.socket_dir}/spice.sock",
                   disable_ticketing=True),
        ]
    elif plan.display == "vnc":
        options.append(option("-display", f"vnc=unix:{plan.socket_dir}/vnc.sock",
                              why=plan.display_why))
    else:
        options.append(option("-display", plan.display, why=plan.display_why))
    return options


def serial_options(plan: Plan) -> list[Option]:
    """Serial ports."""
    options = []
    for serial in plan.serials:
        name, why = f"serial{serial.index}", f"serial[{serial.index}].type"
        if serial.type == "file" and serial.fd is not None:
            options.append(option("-add-fd", why="rule: QEMU's account cannot open this file",
                                  fd=serial.fd, set=serial.fd, opaque=serial.path))
        if serial.type == "stdio":
            # Not QEMU's own stdio: it would share our process group, and die of a Ctrl-C.
            back = option("-chardev", "socket", why=why, id=name, fd=serial.fd)
        elif serial.type == "socket":
            back = option("-chardev", "socket", why=why, id=name, server=True, wait=False,
                          path=serial.path)
        else:
            path = serial.path if serial.fd is None else f"/dev/fdset/{serial.fd}"
            back = option("-chardev", "file", why=why, id=name, path=path, append=True)
        options += [back, device("isa-serial", why, chardev=name)]
    return options
