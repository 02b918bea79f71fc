"""The machine itself: chipset, firmware, clock, memory and processors."""

from typing import Literal

from qlaunch.profile.table import Annotated, Count, Meta, Table
from qlaunch.values import CpuSet, HostPath, Size

GuestName = Literal["windows7", "windows10", "windows11", "linux", "other"]


class AcpiTable(Table, frozen=True):
    """An extra ACPI table handed to the guest's firmware."""

    file: Annotated[HostPath, Meta(description="File with a complete ACPI table, header included.")]


class Machine(Table, frozen=True):
    """Chipset, acceleration, memory, firmware and boot menu."""

    type: Annotated[
        str, Meta(description='QEMU machine: "q35", "pc", or a pinned version like "pc-q35-7.2".')
    ] = "q35"
    accel: Annotated[
        Literal["auto", "kvm", "tcg"],
        Meta(description='"auto" takes KVM where it is usable; "kvm" insists; "tcg" emulates.'),
    ] = "auto"
    memory: Annotated[Size, Meta(description='Guest memory, e.g. "8G".')] = Size(2 << 30)
    hugepages: Annotated[
        bool | Literal["2M", "1G"],
        Meta(
            description="Back guest memory with huge pages of this size (true means 2M); "
            "missing pages are reserved at start and given back at exit."
        ),
    ] = False
    firmware: Annotated[
        Literal["bios"], Meta(description='"bios" is QEMU\'s own SeaBIOS.')
    ] = "bios"
    bios: Annotated[
        HostPath | None, Meta(description="A firmware image of your own, given to QEMU as -bios.")
    ] = None
    boot_menu: Annotated[bool, Meta(description="Offer the firmware's boot menu.")] = False
    rtc: Annotated[
        Literal["utc", "localtime"] | None,
        Meta(description="What the guest's clock shows; the guest's era decides when absent."),
    ] = None
    acpi_tables: Annotated[
        tuple[AcpiTable, ...], Meta(description="Extra ACPI tables, in order.")
    ] = ()
    fw_cfg: Annotated[
        dict[
            Annotated[
                str,
                Meta(
                    pattern=r"^opt/[!-~]{1,51}$",
                    extra={"form": "a name like opt/org.example/key (opt/ and up to 51 more)"},
                ),
            ],
            str,
        ] | None,
        Meta(description='Texts the guest can read through fw_cfg, by name ("opt/…").'),
    ] = None


class Pin(Table, frozen=True):
    """Which host CPUs the machine's threads run on."""

    vcpus: Annotated[
        tuple[CpuSet, ...],
        Meta(description='One entry a vCPU: a CPU number or a list such as "2,10".'),
    ] = ()
    emulator: Annotated[
        CpuSet | None, Meta(description="CPUs for QEMU's own threads, vhost included.")
    ] = None
    iothreads: Annotated[CpuSet | None, Meta(description="CPUs for the iothreads.")] = None


class Cpu(Table, frozen=True):
    """Processors: model, topology, what the guest is told, where the threads run."""

    model: Annotated[
        str, Meta(description='QEMU CPU model; "host" passes the real one on.')
    ] = "host"
    flags: Annotated[
        tuple[
            Annotated[
                str,
                Meta(
                    pattern=r"^[+-][a-z0-9._-]+$",
                    extra={"form": "a CPU feature with its sign, like +invtsc or -svm"},
                ),
            ],
            ...,
        ],
        Meta(description='CPU features to add or remove, e.g. ["+invtsc", "-svm"].'),
    ] = ()
    sockets: Annotated[Count, Meta(description="Processor sockets.")] = 1
    cores: Annotated[Count, Meta(description="Cores in each socket.")] = 1
    threads: Annotated[Count, Meta(description="Threads in each core.")] = 1
    hyperv: Annotated[
        bool
        | tuple[
            Literal[
                "relaxed", "vapic", "spinlocks", "vpindex", "runtime", "synic", "stimer",
                "reset", "frequencies", "reenlightenment", "tlbflush", "ipi", "time",
            ],
            ...,
        ]
        | None,
        Meta(description="Hyper-V enlightenments: true is the era's set, a list names them."),
    ] = None
    hide_kvm: Annotated[bool, Meta(description="Hide KVM's CPUID leaf from the guest.")] = False
    vendor_id: Annotated[
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=12,
                pattern=r"^[ -+\--~]+$",
                extra={"form": "1 to 12 printable ASCII characters, no comma"},
            ),
        ] | None,
        Meta(description="Hyper-V vendor id shown to the guest, up to 12 characters."),
    ] = None
    pin: Annotated[
        Pin | None, Meta(description="Host CPUs for vCPUs, emulator and iothreads.")
    ] = None

    @property
    def count(self) -> int:
        """Number of vCPUs."""
        return self.sockets * self.cores * self.threads
