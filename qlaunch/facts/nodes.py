"""Which /dev nodes and network links each PCI function carries.

Read from the other end: /sys/dev/char, /sys/class/block and /sys/class/net list everything that
has a node or is a link, and each is a link that says where it hangs. So whatever lies between a
controller and its disk (SAS expanders, FC rports, MMC cards, VMD's own PCI domain) need not be
known, and the cost is one readlink a node.
"""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.facts.tree import link_target, list_names

_USB_MAJOR = "189"  # of whole devices; 128 minors a bus (drivers/usb/core/hub.c usb_new_device)
# devnode() of the classes: where below /dev the kernel makes their nodes.
_FOLDERS = {
    "accel": "accel/", "drm": "dri/", "infiniband_mad": "infiniband/", "input": "input/",
    "infiniband_verbs": "infiniband/", "sound": "snd/", "vfio-dev": "vfio/devices/",
}  # fmt: skip
_USB_FOLDER = ("adutux", "hiddev", "iowarrior", "legousbtower", "lp")  # of usbmisc: usb/NAME
_UNSEEN = frozenset(("bsg",))  # a second node of each SCSI device, that nothing keeps open


def read_nodes(base: str) -> dict[str, tuple[str, ...]]:
    """PCI address → names relative to /dev (`dri/card0`, `snd/pcmC0D0p`, `nvme0n1p1`) and
    `net/NAME` for links, sorted.
    """
    found: dict[str, set[str]] = {}
    for target, node in _all(base):
        for address in carriers(target):
            found.setdefault(address, set()).add(node)
    return {address: tuple(sorted(nodes)) for address, nodes in found.items()}


def carriers(target: str) -> tuple[str, ...]:
    """The PCI functions that what lies at a path of /sys/devices depends on.

    In each PCI domain of the path it is the last one; those before it are the bridges above. Only
    VMD has a second: its own function, below which `pci10000:e0` begins anew.
    """
    found: list[str] = []
    before = ""
    for part in target.split("/"):
        if part.count(":") == 2 and part[-2:-1] == "." and len(part) >= 12:
            before = part
        elif before and part.startswith("pci") and ":" in part:
            found.append(before)
            before = ""
    return (*found, before) if before else tuple(found)


def _all(base: str) -> Iterator[tuple[str, str]]:
    """(where it hangs, its name) of what hangs on hardware."""
    for folder in ("dev/char", "class/block", "class/net"):
        path = f"{base}/sys/{folder}"
        for name in list_names(path):
            target = link_target(f"{path}/{name}")
            if target is None or "/devices/virtual/" in target or ":" not in target:
                continue
            if folder == "class/block":
                yield target, _namespace(name.replace("!", "/"))
            elif folder == "class/net":
                yield target, f"net/{name}"
            elif node := _char(name, target):
                yield target, node


def _char(number: str, target: str) -> str | None:
    """The node of a character device: `major:minor`, and the device's path."""
    major, _, minor = number.partition(":")
    if major == _USB_MAJOR:
        place = int(minor) if minor.isdecimal() else 0
        return f"bus/usb/{place // 128 + 1:03}/{place % 128 + 1:03}"
    *_, above, parent, name = "", "", *target.split("/")
    if parent in _UNSEEN or not name:
        return None
    if parent == "dvb":  # dvb0.frontend1 (drivers/media/dvb-core/dvbdev.c dvb_devnode)
        card, _, what = name.partition(".")
        return f"dvb/adapter{card.removeprefix('dvb')}/{what}"
    if parent == "usbmisc" and name.startswith(_USB_FOLDER):
        return f"usb/{name}"
    # sound/card0/pcmC0D0p and input/input7/event3 have a device of their own in between
    return _FOLDERS.get(parent, _FOLDERS.get(above, "")) + name.replace("!", "/")


def _namespace(name: str) -> str:
    """With multipath a namespace hangs on its controller as nvme0c1n1, and the node people see
    (nvme0n1) lies below /sys/devices/virtual (drivers/nvme/host/multipath.c)."""
    head, _, rest = name.partition("c")
    path, between, number = rest.partition("n")
    if head.startswith("nvme") and between and path.isdecimal():
        return f"{head}n{number}"
    return name
