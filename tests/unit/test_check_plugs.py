"""The rules of USB, input devices, ports, channels and small devices: where, what, what to do."""

from __future__ import annotations

import pytest

from qlaunch.profile.check import check_profile
from qlaunch.profile.keys import key_text
from tests.fake.plans import profile

CASES: dict[str, tuple[str, list[str]]] = {
    "no usb device": ("[[usb]]\noptional = true\n", ["usb[0]: which USB device?"]),
    "one usb device twice": (
        '[[usb]]\ndevice = "046D:c52b"\n[[usb]]\ndevice = "046d:C52B"\n',
        ["usb[1]: usb[0] is the same device"],
    ),
    "twins by their ports": (
        '[[usb]]\ndevice = "046d:c52b"\nport = "1-1"\n'
        '[[usb]]\ndevice = "046d:c52b"\nport = "1-2"\n',
        [],
    ),
    "a viewer's device and the host's": (
        '[display]\ntype = "spice"\n[[usb]]\nredirect = true\nport = "1-1"\n',
        ["usb[0].port: a channel for a viewer's device names none of the host's"],
    ),
    "a viewer without spice": (
        "[[usb]]\nredirect = true\n", ["usb[0].redirect: only SPICE viewers hand over USB devices"],
    ),
    "no input device": ('[[input]]\nbus = "usb"\n', [
        "input[0]: which input device?", "input[0].bus: a bus is for a device of the guest's"]),
    "grab keys of an emulated keyboard": (
        '[[input]]\ntype = "keyboard"\ngrab_keys = "alt-alt"\n',
        ["input[0].grab_keys: this is for a device of the host's"],
    ),
    "a usb touch screen": (
        '[[input]]\ntype = "multitouch"\nbus = "usb"\n',
        ["input[0].bus: a multitouch screen is a virtio device"],
    ),
    "a ps/2 tablet": ('[[input]]\ntype = "tablet"\nbus = "ps2"\n',
                      ["input[0].bus: there is no PS/2 tablet"]),
    "a slot for usb": ('[[input]]\ntype = "tablet"\naddr = "0b"\n',
                       ["input[0].addr: only a virtio device has a slot of its own"]),
    "one evdev twice": (
        '[[input]]\nevdev = "/dev/input/event1"\n[[input]]\nevdev = "/dev/input/event1"\n',
        ["input[1].evdev: input[0] is the same device"],
    ),
    "two keyboards that hand all over": (
        '[[input]]\nevdev = "/dev/input/event1"\ngrab = true\n'
        '[[input]]\nevdev = "/dev/input/event2"\ngrab = true\n',
        ["input[1].grab: input[0] hands all devices over already; two would undo each other"],
    ),
    "tcp without an address": ('[[serial]]\ntype = "tcp"\n',
                               ["serial[0].type: a TCP port needs an address"]),
    "an address of a file": ('[[serial]]\naddress = "127.0.0.1:1"\n',
                             ['serial[0].address: an address is for type = "tcp", not "file"']),
    "an open console": (
        '[[serial]]\ntype = "tcp"\naddress = "0.0.0.0:4444"\n',
        ["serial[0].address: everybody who reaches this address has the serial port, without a "
         "password"],
    ),
    "no port of the host's": ('[[parallel]]\ntype = "device"\n',
                              ["parallel[0].type: which of the host's ports?"]),
    "two on the terminal": (
        '[[serial]]\ntype = "stdio"\n[debugcon]\ntype = "stdio"\n',
        ["debugcon.type: serial[0] is on the terminal already"],
    ),
    "one file of two ports": (
        '[[serial]]\nfile = "/a"\n[debugcon]\nfile = "/a"\n',
        ["debugcon.file: serial[0] writes to the same file"],
    ),
    "a port that writes into a disk": (
        '[[serial]]\nfile = "/d"\n',
        ["serial[0].file: disk[0] is the same file, and would be written over"],
    ),
    "a port number": ('[[serial]]\ntype = "tcp"\naddress = "127.0.0.1:99999"\n',
                      ["serial[0].address: a port number from 1 to 65535 is wanted"]),
    "an address that is none": (
        '[[serial]]\ntype = "tcp"\naddress = "127.0.0.999:1"\n',
        ["serial[0].address: there is no such IPv4 address"],
    ),
    "no random numbers": ('[rng]\nrate = "0B"\n', ["rng.rate: the guest would never get any"]),
    "four parallel ports": ("[[parallel]]\n" * 4, ["parallel[3]: a PC has three parallel ports"]),
    "one channel twice": (
        '[[channel]]\nname = "a"\n[[channel]]\nname = "a"\n',
        ["channel[1].name: channel[0] has the same name"],
    ),
    "an agent's channel": (
        '[[channel]]\nname = "org.qemu.guest_agent.0"\n',
        ["channel[0].name: this channel has a key of its own"],
    ),
    "odd shared memory": (
        '[[shmem]]\nname = "a"\nsize = "3M"\n[[shmem]]\nname = "a"\nsize = "64K"\n',
        ["shmem[0].size: shared memory is a power of two, 1M or more",
         "shmem[1].size: shared memory is a power of two, 1M or more",
         "shmem[1].name: shmem[0] is the same memory"],
    ),
    "shared memory of Looking Glass's": (
        '[display]\ntype = "looking-glass"\nresolution = "1920x1080"\n'
        '[[shmem]]\nname = "looking-glass"\nsize = "64M"\n',
        ["shmem[0].name: display.shared_file is the same memory"],
    ),
    "the chipset's watchdog": (
        '[machine]\ntype = "pc"\n[watchdog]\nmodel = "itco"\naddr = "0b"\n',
        ["watchdog.model: only the q35 chipset has this watchdog",
         "watchdog.addr: this watchdog is in the chipset and has no slot"],
    ),
    "all is well": (
        '[display]\ntype = "spice"\n[agent]\nwebdav = true\n[[usb]]\nredirect = true\n'
        '[[usb]]\nserial = "A"\nboot = 1\n[[input]]\ntype = "tablet"\n[[channel]]\nname = "a.b"\n'
        '[[serial]]\ntype = "pty"\n[[shmem]]\nname = "a"\nsize = "64M"\n[watchdog]\n',
        [],
    ),
}


@pytest.mark.parametrize(("text", "wanted"), CASES.values(), ids=CASES)
def test_rules(text: str, wanted: list[str]) -> None:
    disk = '[[disk]]\nfile = "/d"\n'
    found = check_profile(profile(text + disk))
    assert [f"{key_text(f.path)}: {f.problem.message}" for f in found] == wanted


def test_a_machine_may_boot_from_a_usb_device() -> None:
    assert check_profile(profile('[[usb]]\ndevice = "0781:5581"\nboot = 1\n')) == []
    twice = '[[usb]]\ndevice = "0781:5581"\nboot = 1\n[[disk]]\nfile = "/d"\nboot = 1\n'
    (found,) = check_profile(profile(twice))
    assert found.problem.message == "disk[0] has the same place in the boot order"
