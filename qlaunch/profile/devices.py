"""What is plugged into the machine: disks, networks, passed-through devices, the display."""

from typing import Literal

from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import Duration, GuestSlot, HostPath, MacAddress, PciId, PciSelector, Program

Slot = Annotated[
    GuestSlot | None,
    Meta(description='Guest PCI slot, hexadecimal ("1c.0"); the slot map decides when absent.'),
]
BootIndex = Annotated[
    Annotated[int, Meta(ge=0, le=255)] | None,
    Meta(description="Boot order; the lowest number is tried first."),
]


class Disk(Table, frozen=True):
    """A disk of the guest: an image, a partition or a whole drive."""

    file: Annotated[HostPath, Meta(description="Image file or block device.")]
    format: Annotated[Literal["raw", "qcow2"], Meta(description="Image format.")] = "raw"
    bus: Annotated[
        Literal["virtio", "sata", "ide"],
        Meta(
            description='How the guest sees it; "sata" and "ide" share the AHCI controller on q35.'
        ),
    ] = "virtio"
    cache: Annotated[
        Literal["none", "writeback", "writethrough", "directsync", "unsafe"] | None,
        Meta(description='Host cache mode; "none" bypasses the page cache.'),
    ] = None
    io: Annotated[
        Literal["threads", "native", "io_uring"] | None, Meta(description="QEMU's aio= backend.")
    ] = None
    discard: Annotated[bool, Meta(description="Pass the guest's discards (TRIM) on.")] = False
    iothread: Annotated[bool, Meta(description="Give the disk its own iothread (virtio).")] = False
    read_only: Annotated[bool, Meta(description="The guest cannot write to it.")] = False
    serial: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9_-]{1,20}$",
                extra={"form": "1 to 20 letters, digits, - or _"},
            ),
        ] | None,
        Meta(description="Serial number shown to the guest."),
    ] = None
    boot: BootIndex = None
    addr: Slot = None


class Cdrom(Table, frozen=True):
    """A CD drive with an image in it."""

    file: Annotated[HostPath, Meta(description="ISO image.")]
    boot: BootIndex = None
    port: Annotated[
        Annotated[int, Meta(ge=0, le=5)] | None,
        Meta(description="AHCI port; the next free one when absent."),
    ] = None


class UserNet(Table, frozen=True):
    """QEMU's user-mode network: no privileges, NAT behind the host."""

    forward: Annotated[
        tuple[
            Annotated[
                str,
                Meta(
                    pattern=r"^(tcp|udp):([0-9.]+:)?[0-9]+:[0-9]+$",
                    extra={"form": "a forward like tcp:2222:22 or tcp:127.0.0.1:2222:22"},
                ),
            ],
            ...,
        ],
        Meta(description='Ports from host to guest: "tcp:2222:22" or "tcp:127.0.0.1:2222:22".'),
    ] = ()
    restrict: Annotated[
        bool, Meta(description="Cut the guest off from everything outside.")
    ] = False
    hostname: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9-]{1,63}$",
                extra={"form": "a host name of letters, digits and -, at most 63"},
            ),
        ] | None,
        Meta(description="Name given by DHCP."),
    ] = None


LinkName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$",
        extra={"form": "a network interface's name (letters, digits, . _ -, at most 15)"},
    ),
]


class Net(Table, frozen=True):
    """A network card and what it is connected to: one of `bridge`, `tap` or `user`."""

    bridge: Annotated[
        LinkName | None, Meta(description="Connect to this bridge by a tap of our own.")
    ] = None
    make_bridge: Annotated[
        bool, Meta(description="Make the bridge when it is missing, and remove it at exit.")
    ] = False
    tap: Annotated[
        LinkName | None,
        Meta(description="With `bridge`: our tap's name. Alone: an existing persistent tap."),
    ] = None
    user: Annotated[UserNet | None, Meta(description="User-mode networking.")] = None
    mac: Annotated[
        MacAddress | None, Meta(description="MAC address; derived from the uuid when absent.")
    ] = None
    model: Annotated[
        Literal["virtio", "e1000e", "e1000", "rtl8139"],
        Meta(description="The card the guest sees."),
    ] = "virtio"
    queues: Annotated[
        Annotated[int, Meta(ge=1, le=64)], Meta(description="Queue pairs (virtio on a tap).")
    ] = 1
    vhost: Annotated[
        bool | None, Meta(description="Use the kernel's vhost-net; on where it is there.")
    ] = None
    boot: BootIndex = None
    addr: Slot = None


ResetMethod = Literal["auto", "flr", "pm", "bus", "device_specific", "acpi", "none"]


class Pci(Table, frozen=True):
    """A host PCI device handed to the guest."""

    device: Annotated[
        PciSelector,
        Meta(description='Address ("03:00.0") or vendor:device that matches exactly one device.'),
    ]
    id: Annotated[
        PciId | None,
        Meta(description="Refuse to start when another device stands at that address."),
    ] = None
    functions: Annotated[
        Literal["one", "all"],
        Meta(description='"all" takes the card\'s other functions (its audio) along.'),
    ] = "one"
    group: Annotated[
        Literal["refuse", "take"],
        Meta(
            description="What to do with devices of the same IOMMU group that the profile does "
            'not name: refuse to start, or take them from the host as well ("take").'
        ),
    ] = "refuse"
    x_vga: Annotated[bool, Meta(description="Route legacy VGA to it (primary card, BIOS).")] = False
    rom: Annotated[HostPath | None, Meta(description="ROM image file shown as the card's.")] = None
    rombar: Annotated[
        bool | None, Meta(description="false hides the card's ROM from the guest.")
    ] = None
    port: Annotated[
        Literal["ioh3420", "pcie-root-port", "none"] | None,
        Meta(description='The root port it is plugged into; "none" is straight on pcie.0.'),
    ] = None
    reset: Annotated[ResetMethod, Meta(description="How it is reset before its return.")] = "auto"
    return_to: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}$",
            extra={"form": 'a kernel driver\'s name, or "auto"'},
            description='"auto": the driver it had; or a driver\'s name; "vfio-pci" leaves it '
            "there.",
        ),
    ] = "auto"
    multifunction: Annotated[
        bool | None, Meta(description="Set QEMU's multifunction flag; automatic when absent.")
    ] = None
    boot: BootIndex = None
    addr: Slot = None


class Controller(Table, frozen=True):
    """A storage controller beside the chipset's own."""

    type: Annotated[Literal["ahci"], Meta(description="QEMU device.")]
    id: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,31}$",
                extra={"form": "a QEMU id: a letter, then letters, digits, . _ -, at most 32"},
            ),
        ] | None,
        Meta(description="QEMU id; type and number when absent."),
    ] = None
    addr: Slot = None


class Display(Table, frozen=True):
    """How the machine is looked at from the host."""

    type: Annotated[
        Literal["none", "auto", "gtk", "sdl", "vnc", "spice"],
        Meta(description='"auto" opens a window where there is a display; vnc and spice listen '
             "on a unix socket in the runtime directory."),
    ] = "none"
    vga: Annotated[
        Literal["none", "std", "cirrus", "qxl", "virtio"], Meta(description="Emulated card.")
    ] = "none"


class Serial(Table, frozen=True):
    """A serial port."""

    type: Annotated[
        Literal["file", "socket", "stdio"],
        Meta(description='Where it goes: a file, a unix socket in the runtime directory, or the '
             "terminal."),
    ] = "file"
    file: Annotated[
        HostPath | None,
        Meta(description="File for type file; serialN.log in the state directory when absent."),
    ] = None


class Balloon(Table, frozen=True):
    """A virtio memory balloon."""

    addr: Slot = None


class Stop(Table, frozen=True):
    """How the machine ends."""

    timeout: Annotated[
        Duration, Meta(description="How long the guest has to power off before it is stopped.")
    ] = Duration(60)


class Hooks(Table, frozen=True):
    """Commands around a run: argv lists, never shell strings."""

    before: Annotated[tuple[tuple[str, ...], ...], Meta(description="Before the host steps.")] = ()
    after: Annotated[tuple[tuple[str, ...], ...], Meta(description="After all is given back.")] = ()


class Qemu(Table, frozen=True):
    """The escape hatch."""

    binary: Annotated[
        Program, Meta(description="QEMU binary: a name on PATH, or with a slash in it a path.")
    ] = Program("qemu-system-x86_64")
    args: Annotated[
        tuple[str, ...], Meta(description="Arguments added verbatim at the end, one a word.")
    ] = ()
    env: Annotated[
        dict[str, str] | None, Meta(description="Environment variables for QEMU.")
    ] = None
    set: Annotated[
        dict[str, str | int | bool] | None,
        Meta(description='Device properties, verbatim: {"net0.host_mtu" = 9000} becomes -set.'),
    ] = None
    user: Annotated[
        str | None,
        Meta(description="Account QEMU runs as when started by root; the asking user when absent."),
    ] = None


__all__ = [
    "Balloon", "Cdrom", "Controller", "Disk", "Display", "Hooks", "Net", "Pci", "Qemu", "Serial",
    "Stop", "UserNet",
]
