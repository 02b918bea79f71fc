"""Host USB devices handed to the guest, and channels for a viewer's."""

from __future__ import annotations

from qlaunch.profile.fields import BootIndex
from qlaunch.profile.table import Annotated, Meta, Table


class Usb(Table, frozen=True):
    """A USB device for the guest: by its ids, its serial number or its port; or a channel by which
    a SPICE viewer hands over one of its own."""

    device: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}$",
                extra={"form": "a vendor:product pair like 046d:c52b (lsusb)"},
            ),
        ] | None,
        Meta(description='vendor:product as lsusb shows it ("046d:c52b").'),
    ] = None
    port: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9]{1,3}-[0-9]{1,3}(\.[0-9]{1,3}){0,5}$",
                extra={"form": "a bus and a port like 1-4 or 1-4.2"},
            ),
        ] | None,
        Meta(description='Bus and port ("1-4.2"): whatever is plugged in there, or the device '
             "named beside it there only."),
    ] = None
    serial: Annotated[
        Annotated[
            str, Meta(pattern=r"^[ -~]{1,126}$", extra={"form": "a serial number, 1 to 126 signs"})
        ] | None,
        Meta(description="Serial number as the device tells it (iSerial in lsusb -v)."),
    ] = None
    optional: Annotated[
        bool,
        Meta(description="Start without the device; it is attached when it is plugged in."),
    ] = False
    redirect: Annotated[
        bool,
        Meta(description="No device of the host's but a channel for one of the SPICE viewer's."),
    ] = False
    boot: BootIndex = None
