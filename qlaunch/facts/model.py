"""HostFacts: everything a plan may depend on, as frozen data that goes to JSON and back.

`None` means "could not tell" throughout; an empty collection means "looked, and there is none".
A snapshot written on one machine (`qlaunch facts --json`) makes that machine's plans on another.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from qlaunch.facts.cgroup_model import CgroupLevel, Limits, Tuning
from qlaunch.facts.desktop_model import Desktop
from qlaunch.facts.net_model import Link, NetworkState
from qlaunch.facts.usb_model import HostInput, UsbDevice
from qlaunch.facts.vgpu_model import VgpuFacts
from qlaunch.values import CpuSet, PciAddress, PciId

BRIDGE_CLASS = 0x06
DISPLAY_CLASS = 0x03


class Cpu(Struct, frozen=True, kw_only=True):
    """One logical CPU (/sys/devices/system/cpu/cpuN)."""

    id: int
    package: int = 0
    core: int = 0  # core_id: unique inside a package only
    siblings: CpuSet = CpuSet()  # thread_siblings_list, itself included
    l3: CpuSet = CpuSet()  # shared_cpu_list of the level 3 cache; empty when unknown
    l3_kib: int | None = None
    node: int = 0
    max_khz: int | None = None
    kind: Literal["", "performance", "efficient"] = ""  # hybrid machines only
    online: bool = True
    isolated: bool = False
    allowed: bool = True  # by the cgroup of whoever looks (cpuset)


class HugePages(Struct, frozen=True, kw_only=True):
    """One page size on one node (nodeN/hugepages/hugepages-*kB)."""

    size: int  # bytes
    total: int
    free: int


class MemoryNode(Struct, frozen=True, kw_only=True):
    """One NUMA node's memory, in bytes."""

    id: int
    total: int
    free: int
    cpus: CpuSet = CpuSet()
    hugepages: tuple[HugePages, ...] = ()


class Ram(Struct, frozen=True, kw_only=True):
    """The whole machine's memory in bytes, huge pages in `total` only (/proc/meminfo)."""

    total: int
    available: int  # MemAvailable: free, and what the kernel would give up


HolderKind = Literal[
    "process", "mount", "swap", "route", "lvm", "md", "zfs", "claimed", "seat", "vfio", "link",
    "mdev", "namespace",
]


class Holder(Struct, frozen=True, kw_only=True):
    """Who uses a device, by what, and what to do about it."""

    kind: HolderKind
    what: str  # the node, mount point, link or route
    pid: int | None = None
    command: str = ""
    unit: str = ""  # systemd unit or session from the process's cgroup
    remedy: str = ""  # the command to type, or what to do

    def __str__(self) -> str:
        who = f"{self.command} (pid {self.pid})" if self.pid else self.kind
        unit = f" of {self.unit}" if self.unit else ""
        return f"{who}{unit} uses {self.what}"


class PciDevice(Struct, frozen=True, kw_only=True):
    """One function under /sys/bus/pci/devices."""

    address: PciAddress
    id: PciId
    subsystem: PciId | None = None
    class_code: int = 0  # 24 bits: 0x030000 is VGA
    revision: int = 0
    header_type: int | None = None  # 0 is a device, 1 a bridge, 2 a CardBus bridge
    driver: str | None = None
    driver_override: str | None = None  # only where Wanted.overrides
    stuck: bool = False  # the kernel keeps its lock: an unbind, probe or reset of it hangs
    iommu_group: int | None = None
    reset_methods: tuple[str, ...] | None = None  # None: the kernel has no reset_method file
    numa_node: int | None = None
    sriov_total: int | None = None  # a physical function's limit
    sriov_count: int | None = None
    physfn: PciAddress | None = None  # a virtual function's parent
    boot_vga: bool | None = None
    power_state: str | None = None  # D0, D3hot, D3cold, unknown
    slot: str | None = None  # physical slot name from /sys/bus/pci/slots
    modalias: str = ""
    mdevs: tuple[str, ...] = ()  # UUIDs of the mediated devices that were made on it
    nodes: tuple[str, ...] = ()  # /dev nodes it carries: dri/card0, snd/pcmC0D0p, nvme0n1, …
    vfio_driver: str = "vfio-pci"  # what modules.alias names as its variant driver, or vfio-pci
    vfio_module: str = ""  # a variant driver's, which names the driver only once it is loaded
    holders: tuple[Holder, ...] | None = None  # None: not looked for

    @property
    def base_class(self) -> int:
        """The class code's top byte (0x03 display, 0x06 bridge)."""
        return self.class_code >> 16

    @property
    def is_bridge(self) -> bool:
        """vfio-pci refuses header types other than 0 (vfio_pci_core_register_device)."""
        return self.header_type in (1, 2) if self.header_type is not None else (
            self.base_class == BRIDGE_CLASS
        )


class Kvm(Struct, frozen=True, kw_only=True):
    """/dev/kvm: there, and able to run an ordinary guest."""

    present: bool
    usable: bool
    reason: str = ""  # why not usable
    hint: str = ""
    extension: Literal["", "vmx", "svm"] = ""  # Intel's or AMD's


class Iommu(Struct, frozen=True, kw_only=True):
    """The IOMMU as sysfs shows it (/sys/class/iommu, /sys/kernel/iommu_groups)."""

    enabled: bool
    kind: Literal["", "intel", "amd", "other"] = ""
    groups: int = 0
    interrupt_remapping: bool | None = None
    unsafe_interrupts: bool | None = None  # vfio_iommu_type1 allow_unsafe_interrupts, when loaded
    reason: str = ""  # why not enabled: firmware table missing, kernel parameter missing
    hint: str = ""


class QemuBinary(Struct, frozen=True, kw_only=True):
    """What one QEMU binary can do, asked from itself once and cached."""

    path: str
    version: tuple[int, int, int]
    machines: tuple[str, ...] = ()  # names and aliases
    devices: tuple[str, ...] = ()  # every user-creatable device type
    properties: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of devices we use
    displays: tuple[str, ...] = ()
    audiodevs: tuple[str, ...] = ()  # audio backends; empty when it does not say
    accels: tuple[str, ...] = ()
    cpus: tuple[str, ...] = ()  # CPU models
    aliases: dict[str, str] = field(default_factory=dict)  # "q35" → "pc-q35-7.2"
    aio: tuple[str, ...] = ()  # ways of I/O that it was built with: threads, native, io_uring

    def has(self, device: str, prop: str = "") -> bool:
        """Whether the device type (and its property, when asked and known) exists."""
        if device not in self.devices:
            return False
        return not prop or device not in self.properties or prop in self.properties[device]


class HostFile(Struct, frozen=True, kw_only=True):
    """A path that a profile names, and what stands there."""

    path: str
    kind: Literal["missing", "file", "block", "char", "directory", "socket", "other", "denied"]
    size: int | None = None  # bytes; of a block device, its capacity
    readable: bool = True  # by the user QEMU will run as
    writable: bool = True
    mounted: tuple[str, ...] = ()  # mount points of the device, its partitions or their holders
    written: bool = False  # one of those mounts is not read-only
    in_use: str = ""  # swap, lvm, md, zfs: why a block device is not free
    lock: Literal["", "reading", "writing"] = ""  # how other QEMUs use it
    locked_by: str = ""  # which, when that can be told: "the machine win7 (pid 77)"
    format: str = ""  # of an image, by its header: qcow2, vmdk …, or raw; "": nobody looked
    capacity: int | None = None  # bytes the guest sees, where the format's header tells it
    near: str = ""  # of a missing file without directory: the nearest one above that there is
    free: int | None = None  # of a missing file: bytes free where it would be
    device: str = ""  # of a block device, major:minor as sysfs has it: what all of this is about
    uid: int = 0
    gid: int = 0
    mode: int = 0


class Firmware(Struct, frozen=True, kw_only=True):
    """UEFI firmware for x86_64 that a descriptor offers (QEMU's docs/interop/firmware.json)."""

    descriptor: str  # the .json file
    code: HostFile
    code_format: str = "raw"
    vars: HostFile | None = None  # the template of its variables
    vars_format: str = "raw"
    vars_size: int | None = None  # bytes the guest sees, whatever the format
    mode: str = "split"  # of its flash: split, combined, stateless; "memory" for none
    machines: tuple[str, ...] = ()  # globs of machine types
    features: tuple[str, ...] = ()


class Kernel(Struct, frozen=True, kw_only=True):
    """The running kernel."""

    release: str
    cmdline: str = ""
    modules: tuple[str, ...] = ()  # loaded or built in, of those that matter here
    lockdown: str = ""


class Invoker(Struct, frozen=True, kw_only=True):
    """Who asks (uid), with what power (root), and whom QEMU will run as."""

    root: bool
    uid: int
    gid: int
    name: str
    home: str = ""
    groups: tuple[int, ...] = ()
    runtime_dir: str = ""  # XDG_RUNTIME_DIR of that user
    display: bool = False  # that user can open a window where this was started
    no_display: str = ""  # why not
    asked: int | None = None  # the uid behind sudo or pkexec, when that is how we are root


class HostFacts(Struct, frozen=True, kw_only=True):
    """The whole. A subject that was not asked for is None (see `Wanted`)."""

    version: int = 1
    host: str = ""
    kernel: Kernel | None = None
    invoker: Invoker | None = None
    cpus: tuple[Cpu, ...] | None = None
    memory: tuple[MemoryNode, ...] | None = None
    ram: Ram | None = None
    limits: Limits | None = None
    pinned: dict[str, CpuSet] | None = None  # machine that runs → CPUs of its vCPUs
    pci: tuple[PciDevice, ...] | None = None
    kvm: Kvm | None = None
    iommu: Iommu | None = None
    qemu: QemuBinary | None = None
    links: tuple[Link, ...] | None = None
    network: NetworkState | None = None
    desktop: Desktop | None = None
    files: tuple[HostFile, ...] = ()
    programs: dict[str, str] = field(default_factory=dict)  # asked for, and where; "" is missing
    vhost_net: bool | None = None  # /dev/vhost-net is there
    vhost_usable: bool | None = None  # and this process, which opens it for QEMU, may
    tun: bool | None = None  # /dev/net/tun is there
    usb: tuple[UsbDevice, ...] | None = None
    inputs: tuple[HostInput, ...] | None = None
    vsock_cids: tuple[int, ...] | None = None  # taken by machines that run
    vgpu: VgpuFacts | None = None  # what can be sliced
    firmware: tuple[Firmware, ...] | None = None  # in the order in which it is to be tried
    dmi: dict[str, str | None] | None = None  # /sys/class/dmi/id; None: not for this account
    cgroup: tuple[CgroupLevel, ...] | None = None  # ours first, the top last; () without v2
    tuning: Tuning | None = None

    def device(self, address: str) -> PciDevice | None:
        """The PCI function at a full address."""
        return next((d for d in self.pci or () if d.address == address), None)

    def group(self, number: int) -> tuple[PciDevice, ...]:
        """All members of an IOMMU group, by address."""
        return tuple(d for d in self.pci or () if d.iommu_group == number)

    def file(self, path: str) -> HostFile | None:
        """What stands at a path the profile names."""
        return next((f for f in self.files if f.path == path), None)

    def link(self, name: str) -> Link | None:
        """The network link of that name."""
        return next((x for x in self.links or () if x.name == name), None)


class Wanted(Struct, frozen=True, kw_only=True):
    """Which subjects to read, so that a plan pays only for what its profile needs."""

    cpus: bool = True
    memory: bool = True
    limits: bool = False
    pinned: bool = False
    pci: bool = True
    holders: bool = False  # scans every process's fds: for check, run and devices
    overrides: bool = False  # needs a child, because the file may not answer
    kvm: bool = True
    iommu: bool = True
    links: bool = True
    network: bool = True
    desktop: bool = True
    firewall: bool = False  # with network: which chains drop
    qemu: str | None = "qemu-system-x86_64"  # binary name or path; None: do not ask
    user: str = ""  # [qemu] user: whom QEMU is to run as
    machine: str = ""  # its name: root for itself has QEMU run as a uid of the machine's own
    trusted: bool = True  # root's own profile: it may name any user
    vgpu: bool = False
    files: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()  # names of programs to look for
    usb: bool = False
    inputs: bool = False
    evdev: tuple[str, ...] = ()  # paths that lead to input devices
    vsock: bool = False
    firmware: bool = True
    dmi: bool = True
    cgroup: bool = True
    tuning: bool = False
    health: bool = False  # for doctor and check: facts/health_model.py


EVERYTHING = Wanted(vgpu=True, holders=True, overrides=True, usb=True, inputs=True, health=True,
                    limits=True, tuning=True)
