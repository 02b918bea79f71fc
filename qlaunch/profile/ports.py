"""Serial and parallel ports, and the firmware's debug console."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import HostPath


class Serial(Table, frozen=True):
    """A serial port."""

    type: Annotated[
        Literal["file", "socket", "stdio", "pty", "tcp", "device"],
        Meta(description='Where it goes: a file, a unix socket in the runtime directory, the '
             "terminal, a new pseudo-terminal, a TCP port, or a serial port of the host's."),
    ] = "file"
    file: Annotated[
        HostPath | None,
        Meta(description="The file, or the host's port (/dev/ttyS0); serialN.log in the state "
             "directory when absent."),
    ] = None
    address: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^([0-9.]+|\[[0-9A-Fa-f:.]+\]|localhost):[0-9]{1,5}$",
                extra={"form": "an address and a port like 127.0.0.1:4444"},
            ),
        ] | None,
        Meta(description='What QEMU listens on for type tcp ("127.0.0.1:4444").'),
    ] = None
    bus: Annotated[
        Literal["isa", "usb", "pci", "virtio"],
        Meta(description='How the guest sees it: a COM port, a USB or PCI adapter, or a virtio '
             "console (hvc0)."),
    ] = "isa"


class Parallel(Table, frozen=True):
    """A parallel port."""

    type: Annotated[
        Literal["file", "socket", "device"],
        Meta(description="Where it goes: a file, a unix socket in the runtime directory, or a "
             "parallel port of the host's."),
    ] = "file"
    file: Annotated[
        HostPath | None,
        Meta(description="The file, or the host's port (/dev/parport0); parallelN.log in the state "
             "directory when absent."),
    ] = None


class Debugcon(Table, frozen=True):
    """Where the firmware's debug messages go (I/O port 0x402 of SeaBIOS and OVMF)."""

    type: Annotated[
        Literal["file", "socket", "stdio"],
        Meta(description="A file, a unix socket in the runtime directory, or the terminal."),
    ] = "file"
    file: Annotated[
        HostPath | None,
        Meta(description="The file; debugcon.log in the state directory when absent."),
    ] = None
    iobase: Annotated[
        Annotated[int, Meta(ge=1, le=0xFFFF)], Meta(description="I/O port.")
    ] = 0x402
