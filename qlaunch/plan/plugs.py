"""What the plan says of ports, shared memory, USB, input devices and channels, as model.py does.

A file of its own so that a plan without them need not import it.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from qlaunch.plan.model import Place


class PlannedSerial(Struct, frozen=True, kw_only=True):
    """One serial or parallel port; `path` is a file's, a socket's or an address, `fd` ours."""

    id: str  # "serial0", "parallel0", "debugcon"
    key: str  # "serial[0]"
    type: str
    path: str = ""
    fd: int | None = None
    device: str = "isa-serial"  # QEMU device type
    place: Place | None = None
    nth: int = 0  # of its device type


class PlannedShmem(Struct, frozen=True, kw_only=True):
    """Memory that the guest shares with the host: an ivshmem device and what is behind it."""

    id: str
    key: str  # "shmem[0]", "display"
    path: str
    size: int  # bytes
    place: Place


class PlannedUsbBus(Struct, frozen=True, kw_only=True):
    """The USB controller; its bus is usb.0."""

    model: str  # "xhci", "ehci", "uhci"
    device: str  # QEMU device type
    why: str
    hub: str = ""  # the port of a hub for slow devices
    hub_why: str = ""


class PlannedUsb(Struct, frozen=True, kw_only=True):
    """One host USB device, or a viewer's (`redirect`)."""

    id: str  # "usbdev0"
    key: str  # "usb[0]"
    name: str = ""  # the port that it has to be on, "1-4.2"
    ident: str = ""  # vendor:product
    serial: str = ""
    node: str = ""  # where it is now; "": not plugged in, or nobody looked
    fd: int | None = None  # the node, opened by us
    boot: int | None = None
    redirect: bool = False
    sought: bool = False  # nobody has looked, or it is missing: QEMU would look by itself
    lent: bool = False  # its nodes are opened by us, now and after a replug
    place: Place | None = None  # None: which port it has nobody said (a run of an older qlaunch)


class PlannedInput(Struct, frozen=True, kw_only=True):
    """An input device of the guest."""

    id: str
    key: str
    device: str  # QEMU device type
    place: Place


class PlannedEvdev(Struct, frozen=True, kw_only=True):
    """An input device of the host's that feeds the guest (QEMU's input-linux)."""

    id: str
    key: str
    path: str  # as the profile names it: it outlives a replug
    grab_all: bool = False
    grab_keys: str | None = None
    repeat: bool = False
    why: str = ""


class PlannedChannel(Struct, frozen=True, kw_only=True):
    """One port of the virtio-serial bus channel.0."""

    id: str
    key: str
    name: str  # in the guest
    number: int
    backend: Literal["socket", "spicevmc", "spiceport", "qemu-vdagent"]
    fd: int | None = None  # a listening socket


class PlannedVsock(Struct, frozen=True, kw_only=True):
    """The guest's vsock address and the fd of /dev/vhost-vsock."""

    cid: int
    why: str
    fd: int
    place: Place
