"""USB and input devices in a recorded tree, laid out as the kernel does: what a device carries lies
below its interfaces, and everything in /sys/bus/usb/devices is a link."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.fake.trees import Tree

HOST = "sys/devices/pci0000:00/0000:00:14.0"
BUS = "sys/bus/usb/devices"
KEYBOARD = "10000 7 ff9f207ac14057ff ffbeffdfffefffff fffffffffffffffe"
MOUSE = "1f0000 0 0 0 0"


class UsbTree(Tree):
    """A host with USB ports."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.devices = 0
        self.directory(BUS)
        self.directory("sys/class/block")
        self.write("proc/bus/input/devices", b"")

    def plug(
        self, name: str, ident: str, *, serial: str = "", product: str = "", cls: int = 0,
        drivers: tuple[str, ...] = ("usbhid",), block: str = "", net: str = "",
    ) -> Path:
        """A device on a port; each time under a new number, as the kernel counts."""
        self.devices += 1
        bus = int(name.partition("-")[0])
        path = f"{HOST}/usb{bus}/{name}"
        vendor, _, number = ident.partition(":")
        for key, value in (
            ("idVendor", vendor), ("idProduct", number), ("busnum", str(bus)),
            ("devnum", str(self.devices)), ("bDeviceClass", f"{cls:02x}"),
        ):
            self.write(f"{path}/{key}", value)
        if serial:
            self.write(f"{path}/serial", serial)
        if product:
            self.write(f"{path}/product", product)
        for index, driver in enumerate(drivers):
            interface = f"{path}/{name}:1.{index}"
            self.directory(interface)
            if driver:
                self.directory(f"sys/bus/usb/drivers/{driver}")
                self.link(f"{interface}/driver", str(self.root / f"sys/bus/usb/drivers/{driver}"))
            self.link(f"{BUS}/{name}:1.{index}", str(self.root / interface))
        if block:
            where = f"{path}/{name}:1.0/host6/target6:0:0/6:0:0:0/block/{block}"
            self.write(f"{where}/dev", "8:16")
            self.link(f"sys/class/block/{block}", str(self.root / where))
        if net:
            self.directory(f"{path}/{name}:1.0/net/{net}")
        self.link(f"{BUS}/{name}", str(self.root / path))
        node = self.write(f"dev/bus/usb/{bus:03}/{self.devices:03}", b"node")
        node.chmod(0o664)
        return node

    def unplug(self, name: str) -> None:
        """Gone, with its node."""
        bus = int(name.partition("-")[0])
        path = self.root / f"{HOST}/usb{bus}/{name}"
        number = int((path / "devnum").read_text())
        (self.root / f"dev/bus/usb/{bus:03}/{number:03}").unlink()
        for link in (self.root / BUS).glob(f"{name}*"):
            if link.name == name or link.name.startswith(f"{name}:"):
                link.unlink()
        shutil.rmtree(path)

    def input(
        self, event: int, name: str, *, keys: str = "", axes: str = "", on: str = "",
        by_id: str = "",
    ) -> None:
        """An input device; `on` is the USB port that it hangs on, `by_id` its lasting name."""
        where = f"/devices/pci0000:00/0000:00:14.0/usb1/{on}/{on}:1.0/0003:046D" if on else (
            "/devices/platform/i8042/serio0")
        keyboard = "sysrq kbd " if keys == KEYBOARD else ""
        text = (
            f"I: Bus=0003 Vendor=046d Product=c52b Version=0111\nN: Name=\"{name}\"\n"
            f"P: Phys=usb-0000:00:14.0-1/input0\nS: Sysfs={where}/input/input{event}\n"
            f"U: Uniq=\nH: Handlers={keyboard}event{event} leds \nB: PROP=0\nB: EV=120013\n"
            + (f"B: KEY={keys}\n" if keys else "") + (f"B: REL={axes}\n" if axes else "") + "\n"
        )
        with (self.root / "proc/bus/input/devices").open("a") as file:
            file.write(text)
        self.write(f"dev/input/event{event}", b"")
        if by_id:
            self.link(f"dev/input/by-id/{by_id}", f"../event{event}")


def mount(tree: Tree, number: str, point: str) -> None:
    """A line of mountinfo."""
    tree.append("proc/self/mountinfo", f"30 1 {number} / {point} rw - ext4 /dev/x rw")


def present(node: Path, root: Path) -> str:
    """The node as the host would name it."""
    return f"/{os.path.relpath(node, root)}"
