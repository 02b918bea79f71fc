"""The ports and slots of the maps, as a real QEMU has given them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.qemu.test_plugs import Ask, ask, get

__all__ = ["ask"]
pytestmark = pytest.mark.qemu
USB = (
    '[[input]]\ntype = "tablet"\n[[input]]\ntype = "keyboard"\n[[input]]\ntype = "mouse"\n'
    '[[cdrom]]\nbus = "usb"\n[audio]\nmodel = "usb"\nbackend = "none"\n'
    '[[serial]]\nbus = "usb"\n[[usb]]\ndevice = "ffff:fffe"\n[[usb]]\ndevice = "ffff:ffff"\n'
)
NAMES = ("input0", "input1", "input2", "cd0usb", "audio", "usbdev0", "usbdev1")
PORTS = {
    "xhci": ("1", "2", "15.1", "6", "8", "9", "10"),
    "ehci": ("1", "2.1", "2.2", "2.5", "2.8", "3", "4"),
    "uhci": ("1", "2.1", "2.2", "2.4", "2.6", "2.7", "2.8"),
}
SERIAL = {"xhci": "15.5", "ehci": "2.6", "uhci": "2.5"}


@pytest.mark.parametrize("board", ["q35", "pc"])
@pytest.mark.parametrize("model", ["xhci", "ehci", "uhci"])
def test_usb_ports_are_those_of_the_map(ask: Ask, board: str, model: str) -> None:
    found = ask(f'[machine]\ntype = "{board}"\nusb = "{model}"\n' + USB,
                *(get(f"peripheral/{name}", "port") for name in NAMES), monitor="info usb")
    assert tuple(
        found.said[f"qom-get /machine/peripheral/{name} port"] for name in NAMES
    ) == PORTS[model]
    listed = {line.partition("Port ")[2].partition(",")[0]: line
              for line in found.said["info usb"].splitlines()}
    assert "Serial" in listed[SERIAL[model]]
    hubs = [port for port, line in listed.items() if "Hub" in line]
    assert hubs == [PORTS[model][2].partition(".")[0]]  # none that QEMU has put in between


@pytest.mark.parametrize("model", ["xhci", "ehci"])
def test_a_disk_on_usb_has_its_port(ask: Ask, model: str) -> None:
    found = ask(
        f'[machine]\nusb = "{model}"\n'
        f'[[disk]]\nfile = "{__file__}"\nbus = "usb"\nread_only = true\n',
        get("peripheral/disk0", "port"),
    )
    (port,) = (said for question, said in found.said.items() if question.endswith(" port"))
    assert port == {"xhci": "3", "ehci": "2.3"}[model]


LATER = (
    '[[input]]\ntype = "tablet"\nbus = "virtio"\n[[input]]\ntype = "keyboard"\nbus = "virtio"\n'
    '[watchdog]\n[[serial]]\nbus = "pci"\n[[serial]]\nbus = "pci"\n[[serial]]\nbus = "pci"\n'
)
BEHIND = ("input0", "input1", "watchdog", "pvpanic", "serial0-pci", "serial1-pci", "serial2-pci")


@pytest.mark.parametrize(
    ("board", "buses", "addrs"),
    [
        ("pc", ("bridge",) * 7, ("01.0", "02.0", "0a.0", "08.0", "10.0", "11.0", "12.0")),
        ("q35", ("port02-0", "port02-1", "port05-1", "port02-7", *("port05-3",) * 3),
         ("00.0",) * 5 + ("00.1", "00.2")),
    ],
)
def test_kinds_that_came_later_are_behind_ports_or_a_bridge(
    ask: Ask, board: str, buses: tuple[str, ...], addrs: tuple[str, ...]
) -> None:
    found = ask(f'[machine]\ntype = "{board}"\npvpanic = "pci"\n' + LATER,
                *(get(f"peripheral/{name}", prop) for name in BEHIND
                  for prop in ("parent_bus", "addr")))

    def said(prop: str) -> list[Any]:
        return [found.said[f"qom-get /machine/peripheral/{n} {prop}"] for n in BEHIND]

    assert [path.rpartition("/")[2] for path in said("parent_bus")] == list(buses)
    assert [f"{devfn >> 3:02x}.{devfn & 7}" for devfn in said("addr")] == list(addrs)
