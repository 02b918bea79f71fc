"""Processors: model, topology, what the guest is told, where the threads run."""

from __future__ import annotations

from typing import Literal, TypeAlias

from qlaunch.profile.table import Annotated, Count, Meta, Table
from qlaunch.values import CpuSet

Enlightenment: TypeAlias = Literal[
    "relaxed", "vapic", "spinlocks", "vpindex", "runtime", "synic", "stimer", "stimer-direct",
    "reset", "frequencies", "reenlightenment", "tlbflush", "tlbflush-ext", "tlbflush-direct",
    "ipi", "time", "crash", "evmcs", "avic", "xmm-input", "emsr-bitmap",
    "no-nonarch-coresharing",
]


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
    dies: Annotated[
        Count | None,
        Meta(
            description="Dies in each socket, for each of which the guest sees a level 3 cache of "
            "its own: 1 when absent. With pin = \"auto\" and without this key, cores counts those "
            "of the socket, and there are as many dies as level 3 caches that they are on."
        ),
    ] = None
    cores: Annotated[Count, Meta(description="Cores in each die.")] = 1
    threads: Annotated[
        Count | None,
        Meta(
            description="Threads in each core: 1 when absent. With pin = \"auto\" and without "
            "this key, cores counts vCPUs, which are then paired as the host's CPUs are."
        ),
    ] = None
    hyperv: Annotated[
        bool | tuple[Enlightenment, ...] | None,
        Meta(description="Hyper-V enlightenments: true is the era's set, a list names them."),
    ] = None
    hyperv_spinlocks: Annotated[
        Annotated[int, Meta(ge=4095, le=0xFFFFFFFF)] | None,
        Meta(description="Tries before a Windows guest reports a busy spinlock; 8191 when absent."),
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
    tsc_frequency: Annotated[
        Annotated[int, Meta(ge=1_000_000, le=100_000_000_000)] | None,
        Meta(description="Ticks a second of the guest's time stamp counter, e.g. 3_600_000_000."),
    ] = None
    cache: Annotated[
        Literal["passthrough", "emulate", "none"] | None,
        Meta(
            description='What the guest sees of the caches: "passthrough" is the real CPU\'s, '
            '"emulate" is QEMU\'s own with a level 3 cache, "none" has no level 3 cache. '
            "QEMU decides when absent."
        ),
    ] = None
    phys_bits: Annotated[
        Literal["host"] | Annotated[int, Meta(ge=32, le=52)] | None,
        Meta(
            description='Width of guest physical addresses: "host" or a number of bits. Cards '
            "with very large BARs need more than QEMU's 40."
        ),
    ] = None
    pmu: Annotated[
        bool | None, Meta(description="Performance counters in the guest; QEMU decides if absent.")
    ] = None
    migratable: Annotated[
        bool | None,
        Meta(description="false also passes on features that cannot be moved to another host."),
    ] = None
    enforce: Annotated[
        bool, Meta(description="Refuse to start when a CPU feature cannot be given.")
    ] = False
    pin: Annotated[
        Literal["auto"] | Pin | None,
        Meta(
            description='Host CPUs for vCPUs, emulator and iothreads; "auto" plans them from the '
            "host's cores, caches and nodes."
        ),
    ] = None
    isolate: Annotated[
        bool,
        Meta(
            description="The CPUs that vCPUs are pinned to are the guest's alone while it runs: "
            "the host's control groups, unbound work of the kernel and device interrupts leave "
            "them. Needs root, control groups (v2) and pin."
        ),
    ] = False
    governor: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[a-z][a-z0-9_-]*$",
                extra={"form": "a governor's name, like performance or schedutil"},
            ),
        ] | None,
        Meta(
            description="The cpufreq governor of the CPUs that vCPUs are pinned to, while the "
            'machine runs: "performance", or another that the host offers. Needs root and pin.'
        ),
    ] = None
    sched: Annotated[
        Literal["other", "batch", "fifo", "rr"] | None,
        Meta(description="Scheduling policy of the vCPU threads (sched(7)); fifo, rr need root."),
    ] = None
    priority: Annotated[
        Annotated[int, Meta(ge=1, le=99)] | None,
        Meta(description="Real-time priority of the vCPU threads with fifo or rr; 1 when absent."),
    ] = None
    nice: Annotated[
        Annotated[int, Meta(ge=-20, le=19)] | None,
        Meta(description="Niceness of the vCPU threads; less than 0 needs root."),
    ] = None

    @property
    def count(self) -> int:
        """Number of vCPUs."""
        return self.sockets * (self.dies or 1) * self.cores * (self.threads or 1)
