"""What few machines say of their start: a kernel, SMBIOS texts, what an installation changes."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import HostPath

_Text = Annotated[
    str,
    Meta(pattern=r"^[^\x00-\x1f\x7f]{1,255}$", extra={"form": "a text of 1 to 255 characters"}),
]


class Kernel(Table, frozen=True):
    """A Linux kernel that is started directly, without a boot loader."""

    file: Annotated[
        HostPath, Meta(description='Kernel image, for example "/boot/vmlinuz-6.1.0-28-amd64".')
    ]
    initrd: Annotated[HostPath | None, Meta(description="Its initial RAM disk.")] = None
    append: Annotated[
        str, Meta(description='Its command line, for example "root=/dev/vda1 console=ttyS0".')
    ] = ""


class Smbios(Table, frozen=True):
    """What the guest reads of its board (dmidecode): some software and licences look at it."""

    copy: Annotated[
        bool,
        Meta(
            description="Copy what is not given here from the host's own tables; its serial "
            "numbers, which root alone may read, only for machines of root's own."
        ),
    ] = False
    bios: Annotated[
        dict[Literal["vendor", "version", "date", "release"], _Text] | None,
        Meta(description='Firmware (type 0): {vendor = "…", version, date, release = "5.17"}.'),
    ] = None
    system: Annotated[
        dict[
            Literal["manufacturer", "product", "version", "serial", "sku", "family"], _Text
        ] | None,
        Meta(
            description='System (type 1): {manufacturer = "…", product, version, serial, sku, '
            "family}; its UUID is the machine's."
        ),
    ] = None
    board: Annotated[
        dict[
            Literal["manufacturer", "product", "version", "serial", "asset", "location"], _Text
        ] | None,
        Meta(
            description='Main board (type 2): {manufacturer = "…", product, version, serial, '
            "asset, location}."
        ),
    ] = None
    chassis: Annotated[
        dict[Literal["manufacturer", "version", "serial", "asset", "sku"], _Text] | None,
        Meta(description='Case (type 3): {manufacturer = "…", version, serial, asset, sku}.'),
    ] = None
    oem_strings: Annotated[
        tuple[_Text, ...],
        Meta(description='Free texts (type 11), for example ["io.systemd.credential:…"].'),
    ] = ()


class Install(Table, frozen=True):
    """What `--install` may change beside the display and the host's devices."""

    friendly: Annotated[
        bool,
        Meta(
            description="Give disks and network cards the models that the guest's installer has "
            "drivers for. Windows finds another disk controller at the next plain start: its "
            "driver must be installed by then."
        ),
    ] = False
    bus: Annotated[
        Literal["virtio", "sata", "ide"] | None,
        Meta(description="The bus of all disks during the installation."),
    ] = None
    net: Annotated[
        Literal["virtio", "e1000e", "e1000", "rtl8139"] | None,
        Meta(description="The model of all network cards during the installation."),
    ] = None
