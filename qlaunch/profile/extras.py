"""Small devices: random numbers, watchdog, shared memory, sockets between host and guest."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.fields import Slot
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import Size


class Rng(Table, frozen=True):
    """A virtio source of random numbers."""

    source: Annotated[
        Literal["urandom", "random", "hwrng", "builtin"],
        Meta(description="Where they come from: a device of the host's by that name in /dev, or "
             'QEMU itself ("builtin").'),
    ] = "urandom"
    rate: Annotated[
        Size | None,
        Meta(description='Most the guest gets a second, e.g. "1K"; no limit when absent.'),
    ] = None
    addr: Slot = None


class Watchdog(Table, frozen=True):
    """A watchdog timer that acts when the guest stops feeding it."""

    model: Annotated[
        Literal["i6300esb", "itco"],
        Meta(description='"i6300esb" is a PCI device; "itco" is in the q35 chipset.'),
    ] = "i6300esb"
    action: Annotated[
        Literal["reset", "shutdown", "poweroff", "pause", "inject-nmi", "none"],
        Meta(description='What happens when it runs out: "shutdown" presses the power button, '
             '"poweroff" ends the machine at once, "inject-nmi" lets the guest write its dump.'),
    ] = "reset"
    addr: Slot = None


class Shmem(Table, frozen=True):
    """Memory that the guest shares with programs of the host (ivshmem-plain)."""

    name: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                extra={"form": "a file's name: letters, digits, . _ -, at most 64"},
            ),
        ],
        Meta(description="The file in /dev/shm; it is made at start and removed at exit when it "
             "was not there."),
    ]
    size: Annotated[Size, Meta(description='A power of two from "1M" up, e.g. "64M".')]
    addr: Slot = None


class Vsock(Table, frozen=True):
    """Sockets between host and guest that need no network (AF_VSOCK)."""

    cid: Annotated[
        Annotated[int, Meta(ge=3, le=0xFFFFFFFE)] | Literal["auto"],
        Meta(description='The guest\'s address, a number from 3 up; "auto" derives it from the '
             "machine's uuid and takes the next one when another machine has it."),
    ] = "auto"
    addr: Slot = None
