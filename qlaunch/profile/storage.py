"""Disks, CD drives and the controllers they are plugged into."""

from __future__ import annotations

from typing import Literal, TypeAlias

from qlaunch.profile.fields import BootIndex, QemuId, Slot
from qlaunch.profile.table import Annotated, Count, Meta, Table
from qlaunch.values import HostPath, Size

Format: TypeAlias = Literal["raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed"]
Iothread: TypeAlias = Annotated[
    bool | QemuId,
    Meta(
        description="Serve it by a thread of its own instead of QEMU's main loop; a name instead "
        'of true, such as "fast", makes all that say the same name share one thread.'
    ),
]
Iothreads: TypeAlias = Annotated[
    Annotated[int, Meta(ge=2, le=64)] | None,
    Meta(description="Spread its queues over this many threads (QEMU 9.0 and newer)."),
]
Queues: TypeAlias = Annotated[
    Count | None,
    Meta(description="Request queues; QEMU makes one a vCPU when absent (NVMe: 64)."),
]
BlockSize: TypeAlias = Annotated[int, Meta(ge=512, le=2 << 20)]
Port: TypeAlias = Annotated[
    Annotated[int, Meta(ge=0, le=255)] | None,
    Meta(
        description="Where on its controller: the SATA port, the place on the two IDE cables (0 to "
        "3), or the SCSI target; the next free one when absent."
    ),
]
Lun: TypeAlias = Annotated[
    Annotated[int, Meta(ge=0, le=16383)] | None,
    Meta(description="SCSI logical unit of the target; 0 when absent."),
]
OnController: TypeAlias = Annotated[
    QemuId | None,
    Meta(
        description="Id of the [[controller]] it is plugged into; the first that fits its bus, or "
        "the chipset's own, when absent."
    ),
]


class Create(Table, frozen=True):
    """How a disk's image is made by qemu-img when the file is missing."""

    size: Annotated[
        Size | None,
        Meta(description='Capacity of the disk, e.g. "64G"; that of the backing file if absent.'),
    ] = None
    preallocation: Annotated[
        Literal["off", "metadata", "falloc", "full"],
        Meta(
            description='What is written at once: "metadata" makes qcow2 faster and stays small, '
            '"falloc" reserves the whole space, "full" also fills it with zeros.'
        ),
    ] = "off"
    cluster_size: Annotated[
        Size | None, Meta(description='Cluster size of qcow2 or qed, e.g. "128K".')
    ] = None
    lazy_refcounts: Annotated[
        bool,
        Meta(description="Postpone qcow2's reference counts: faster, repaired after a crash."),
    ] = False
    extended_l2: Annotated[
        bool, Meta(description="Keep account of parts of qcow2 clusters (32 each).")
    ] = False
    compression_type: Annotated[
        Literal["zlib", "zstd"] | None, Meta(description="How qcow2 compresses clusters.")
    ] = None
    backing: Annotated[
        HostPath | None,
        Meta(description="Image that holds all that the new one has not written itself."),
    ] = None
    backing_format: Annotated[
        Format | None, Meta(description="Its format; read from the file when absent.")
    ] = None


class Disk(Table, frozen=True):
    """A disk of the guest: an image, a partition or a whole drive."""

    file: Annotated[HostPath, Meta(description="Image file or block device.")]
    format: Annotated[
        Format, Meta(description="Image format; block devices and plain images are raw.")
    ] = "raw"
    create: Annotated[
        Create | None,
        Meta(description="Make the image at the first start, e.g. { size = \"64G\" }."),
    ] = None
    bus: Annotated[
        Literal["virtio", "scsi", "sata", "ide", "nvme", "usb"],
        Meta(
            description='How the guest sees it; "sata" and "ide" share the AHCI controller on q35, '
            '"scsi" is a virtio-scsi controller unless a [[controller]] says otherwise.'
        ),
    ] = "virtio"
    controller: OnController = None
    port: Port = None
    lun: Lun = None
    cache: Annotated[
        Literal["none", "writeback", "writethrough", "directsync", "unsafe"] | None,
        Meta(description='Host cache mode; "none" bypasses the page cache.'),
    ] = None
    io: Annotated[
        Literal["threads", "native", "io_uring"] | None, Meta(description="QEMU's aio= backend.")
    ] = None
    discard: Annotated[bool, Meta(description="Pass the guest's discards (TRIM) on.")] = False
    detect_zeroes: Annotated[
        Literal["off", "on", "unmap"] | None,
        Meta(
            description='Write zeros the short way; "unmap" makes holes of them, with discard.'
        ),
    ] = None
    iothread: Iothread = False
    iothreads: Iothreads = None
    queues: Queues = None
    read_only: Annotated[bool, Meta(description="The guest cannot write to it.")] = False
    throwaway: Annotated[
        bool,
        Meta(
            description="Keep what the guest writes in a temporary file that is gone at the end; "
            "the disk's own file is only read."
        ),
    ] = False
    share_rw: Annotated[
        bool,
        Meta(
            description="Others may write to it at the same time, as a cluster file system can "
            "stand; without one it destroys data."
        ),
    ] = False
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
    wwn: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^0x[0-9a-fA-F]{16}$",
                extra={"form": "0x and 16 hexadecimal digits, like 0x5000c50015ea71ac"},
            ),
        ] | None,
        Meta(description="World wide name shown to the guest (SATA, IDE, SCSI)."),
    ] = None
    rotation_rate: Annotated[
        Annotated[int, Meta(ge=1, le=65534)] | None,
        Meta(description="Rounds a minute that the guest is told; 1 is an SSD (SATA, IDE, SCSI)."),
    ] = None
    logical_block_size: Annotated[
        BlockSize | None, Meta(description="Sector size in bytes: 512 (the default) or 4096.")
    ] = None
    physical_block_size: Annotated[
        BlockSize | None, Meta(description="What the guest is told to align to, in bytes.")
    ] = None
    discard_granularity: Annotated[
        BlockSize | None, Meta(description="Smallest piece the guest discards, in bytes.")
    ] = None
    werror: Annotated[
        Literal["report", "stop", "ignore", "enospc"] | None,
        Meta(
            description="What a failed write does: tell the guest, stop the machine, or nothing; "
            '"enospc", the default, stops it when the space is used up and reports the rest.'
        ),
    ] = None
    rerror: Annotated[
        Literal["report", "stop", "ignore"] | None,
        Meta(description='What a failed read does; "report" is the default.'),
    ] = None
    iops: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None,
        Meta(description="Requests a second that the guest gets at most."),
    ] = None
    bps: Annotated[
        Size | None, Meta(description='Bytes a second that the guest gets at most, e.g. "50M".')
    ] = None
    boot: BootIndex = None
    addr: Slot = None


class Cdrom(Table, frozen=True):
    """A CD drive, with an image in it or empty."""

    file: Annotated[
        HostPath | None,
        Meta(description="ISO image; an empty drive when absent. `qlaunch media` changes it."),
    ] = None
    bus: Annotated[
        Literal["sata", "ide", "scsi", "usb"] | None,
        Meta(
            description='How the guest sees the drive; "sata" on q35 and "ide" on pc when absent.'
        ),
    ] = None
    controller: OnController = None
    port: Port = None
    lun: Lun = None
    boot: BootIndex = None


class Controller(Table, frozen=True):
    """A storage controller beside the chipset's own."""

    type: Annotated[
        Literal["ahci", "virtio-scsi", "lsi", "pvscsi", "megasas"],
        Meta(
            description='What it is: SATA ("ahci"), or SCSI: paravirtual ("virtio-scsi"), LSI '
            '53C895A ("lsi"), VMware\'s ("pvscsi"), LSI MegaRAID ("megasas").'
        ),
    ]
    id: Annotated[
        QemuId | None,
        Meta(description="QEMU id, for a disk's `controller`; type and number when absent."),
    ] = None
    iothread: Iothread = False
    iothreads: Iothreads = None
    queues: Queues = None
    addr: Slot = None
