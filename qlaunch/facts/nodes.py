"""Which /dev nodes and network links a PCI function carries.

They are found where the kernel puts them: in class directories (drm, sound, block, …) somewhere
below the function's own directory. Only directories that can lead there are entered: SCSI hosts
and targets, virtio devices, USB devices and their interfaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from qlaunch.facts.tree import list_names, read_attribute

_SOUND = ("pcmC", "controlC", "hwC", "midiC", "comprC")
_DEEPEST = 16  # USB allows seven tiers of hubs; a loop cannot occur, but cost must have an end


def find_nodes(path: str, entries: Iterable[str]) -> tuple[str, ...]:
    """Names relative to /dev (`dri/card0`, `snd/pcmC0D0p`, `nvme0n1p1`) and `net/NAME` for links.

    `path` is the function's directory, `entries` its names (already listed by the caller).
    """
    found: list[str] = []
    for name in entries:
        if name in _CLASSES or name.startswith(("virtio", "ata", "host", "usb")):
            found.extend(_walk(f"{path}/{name}", name, _DEEPEST))
    return tuple(sorted(found))


def _walk(path: str, name: str, depth: int) -> Iterator[str]:
    read_class = _CLASSES.get(name)
    if read_class is not None:
        yield from read_class(path)
        return
    if _is_usb_device(name) and (node := _device_name(path)):
        yield node
    if depth:
        for child in list_names(path):
            if _leads_on(child):
                yield from _walk(f"{path}/{child}", child, depth - 1)


def _leads_on(name: str) -> bool:
    """Digits begin SCSI addresses, USB ports and HID devices; the rest is named."""
    return name in _CLASSES or name[0].isdigit() or name.startswith(("host", "target", "virtio"))


def _is_usb_device(name: str) -> bool:
    """`usb1`, `1-1.4`; interfaces (`1-1:1.0`) are not nodes."""
    return name.startswith("usb") or (name[0].isdigit() and "-" in name and ":" not in name)


def _device_name(path: str) -> str | None:
    """DEVNAME= of a uevent file: `bus/usb/001/004`."""
    for line in (read_attribute(f"{path}/uevent") or "").splitlines():
        if line.startswith("DEVNAME="):
            return line.removeprefix("DEVNAME=")
    return None


def _plain(prefix: str = "") -> Callable[[str], Iterator[str]]:
    def read(path: str) -> Iterator[str]:
        return (prefix + name for name in list_names(path))

    return read


def _drm(path: str) -> Iterator[str]:
    """card0 and renderD128; `card0-HDMI-A-1` would be a connector, `version` is not one of ours."""
    for name in list_names(path):
        if name.startswith(("card", "renderD", "controlD")) and "-" not in name:
            yield f"dri/{name}"


def _sound(path: str) -> Iterator[str]:
    for card in list_names(path):
        for name in list_names(f"{path}/{card}") if card.startswith("card") else ():
            if name.startswith(_SOUND):
                yield f"snd/{name}"


def _block(path: str) -> Iterator[str]:
    for disk in list_names(path):
        yield disk
        yield from (name for name in list_names(f"{path}/{disk}") if name.startswith(disk))


def _nvme(path: str) -> Iterator[str]:
    """nvme0, nvme0n1 and its partitions; a multipath namespace shows as nvme0c1n1 here, and the
    node people see (nvme0n1) lives below /sys/devices/virtual (drivers/nvme/host/multipath.c).
    """
    for controller in list_names(path):
        yield controller
        for name in list_names(f"{path}/{controller}"):
            if name.startswith("nvme"):
                yield _namespace(name)
                parts = list_names(f"{path}/{controller}/{name}")
                yield from (part for part in parts if part.startswith(name))


def _namespace(name: str) -> str:
    head, _, rest = name.partition("c")
    return f"{head}n{rest.partition('n')[2]}" if rest and "n" in rest else name


_CLASSES: dict[str, Callable[[str], Iterator[str]]] = {
    "block": _block,
    "drm": _drm,
    "graphics": _plain(),
    "hidraw": _plain(),
    "net": _plain("net/"),
    "nvme": _nvme,
    "scsi_generic": _plain(),
    "sound": _sound,
    "vfio-dev": _plain("vfio/devices/"),
    "video4linux": _plain(),
}
