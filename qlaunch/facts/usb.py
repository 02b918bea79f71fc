"""USB devices: who is plugged in where, with what on it that the host uses.

From /sys/bus/usb/devices (Documentation/ABI/stable/sysfs-bus-usb): devices are named by bus and
ports, interfaces by their device with a colon. What an interface carries lies below it.
"""

from __future__ import annotations

import os
from pathlib import Path

from qlaunch.facts.blocks import BlockTable
from qlaunch.facts.files import can_access
from qlaunch.facts.model import Invoker
from qlaunch.facts.tree import (
    base_of,
    link_name,
    list_names,
    read_attribute,
    read_number,
    real_path,
)
from qlaunch.facts.usb_model import UsbDevice

_DEVICES = "/sys/bus/usb/devices"


def read_usb(root: Path = Path("/"), account: Invoker | None = None) -> tuple[UsbDevice, ...]:
    """All devices but root hubs, by name."""
    path = base_of(root) + _DEVICES
    blocks: BlockTable | None = None
    found = []
    for name in sorted(list_names(path), key=_ports):
        if ":" in name or name.startswith("usb"):
            continue
        carried = _carried(path, name)
        if carried["block"] and blocks is None:
            blocks = BlockTable(root)
        device = _read_device(path, name, carried, blocks)
        if device is not None:
            found.append(_with_access(device, root, account))
    return tuple(found)


def plugged(root: Path = Path("/")) -> tuple[UsbDevice, ...]:
    """The same without what they carry and who may open them: a look that costs little."""
    path = base_of(root) + _DEVICES
    names = [n for n in list_names(path) if ":" not in n and not n.startswith("usb")]
    nothing: dict[str, tuple[str, ...]] = {"driver": (), "block": (), "net": ()}
    devices = (_read_device(path, name, nothing, None) for name in sorted(names, key=_ports))
    return tuple(device for device in devices if device is not None)


def _ports(name: str) -> tuple[int, ...]:
    parts = name.partition(":")[0].replace("-", ".").split(".")
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


def _read_device(
    path: str, name: str, carried: dict[str, tuple[str, ...]], blocks: BlockTable | None
) -> UsbDevice | None:
    """None for one that was unplugged while it was read."""
    own = f"{path}/{name}"
    vendor, product = (read_attribute(f"{own}/{n}") for n in ("idVendor", "idProduct"))
    bus, address = (read_number(f"{own}/{n}") for n in ("busnum", "devnum"))
    if not vendor or not product or bus is None or address is None:
        return None
    words = (read_attribute(f"{own}/{n}") or "" for n in ("manufacturer", "product"))
    names = carried["block"] if blocks else ()
    return UsbDevice(
        name=name, id=f"{vendor}:{product}".lower(), bus=bus, address=address,
        serial=read_attribute(f"{own}/serial") or "",
        text=" ".join(word for word in words if word),
        device_class=read_number(f"{own}/bDeviceClass", base=16) or 0,
        drivers=carried["driver"], blocks=carried["block"], links=carried["net"],
        mounted=tuple(point for n in names for point in blocks.mounted(n)) if blocks else (),
        in_use=next((use for n in names if (use := blocks.in_use(n))), "") if blocks else "",
    )


def _carried(path: str, name: str) -> dict[str, tuple[str, ...]]:
    """Drivers of the interfaces, block devices and network links below them."""
    found: dict[str, list[str]] = {"driver": [], "block": [], "net": []}
    real = real_path(f"{path}/{name}")
    for interface in (n for n in list_names(real) if n.startswith(f"{name}:")):
        driver = link_name(f"{real}/{interface}/driver")
        found["driver"] += [driver] if driver else []
        for directory, below, _ in os.walk(f"{real}/{interface}"):
            kind = directory.rpartition("/")[2]
            if kind in ("block", "net"):
                found[kind] += sorted(below)
                below.clear()
    return {kind: tuple(dict.fromkeys(names)) for kind, names in found.items()}


def _with_access(device: UsbDevice, root: Path, account: Invoker | None) -> UsbDevice:
    from msgspec.structs import replace

    if account is None:
        return device
    node = f"{base_of(root)}{device.node}"
    usable = can_access(node, account.uid, account.gid, account.groups, "rw", top=str(root))
    return replace(device, usable=usable)
