"""The plan: every decision a run needs, as frozen data that the command line is rendered from.

Each decision carries its reasons: the profile keys it follows (`machine.memory`, `pci[0].device`)
or the rule that set it, so that `qlaunch plan` can name the line that put an option there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from qlaunch.errors import Problem
from qlaunch.plan.steps import MakeCgroup, MakeShared, Step
from qlaunch.profile.profile import Profile
from qlaunch.values import CpuSet, GuestSlot, MacAddress, PciAddress

if TYPE_CHECKING:
    from qlaunch.plan.inherited import PlannedFd
    from qlaunch.plan.plugs import (
        PlannedChannel,
        PlannedEvdev,
        PlannedInput,
        PlannedSerial,
        PlannedShmem,
        PlannedUsb,
        PlannedUsbBus,
        PlannedVsock,
    )
    from qlaunch.plan.ram import MemoryPlan
    from qlaunch.plan.screen_model import PlannedAudio, PlannedScreen
    from qlaunch.plan.vgpu_model import PlannedVgpu

FIRST_FD = 100  # planned fd numbers start here, well above what Python has open


class Place(Struct, frozen=True):
    """Where a guest device is plugged in: bus id, and slot or USB port on it."""

    bus: str
    addr: GuestSlot | None = None
    port: str | None = None  # "4", or "15.2" on a hub


class PlannedNic(Struct, frozen=True, kw_only=True):
    """One network card."""

    index: int
    model: str  # QEMU device type
    mac: MacAddress
    mac_why: str
    kind: Literal["user", "tap", "macvtap", "stream"]
    ifname: str | None = None
    bridge: str | None = None
    bridge_helper: str = ""  # QEMU's, which plugs the tap in for an ordinary user
    stream_fd: int | None = None  # to a helper
    mtu: int | None = None
    queues: int = 1
    tap_fds: tuple[int, ...] = ()
    vhost_fds: tuple[int, ...] = ()
    place: Place
    why: str


class PlannedController(Struct, frozen=True, kw_only=True):
    """A storage controller that is not the chipset's."""

    id: str
    key: str  # "controller[0]", or the disk's that needs one
    device: str  # QEMU device type
    place: Place
    multifunction: bool = False
    iothreads: tuple[str, ...] = ()
    queues: int | None = None
    why: str


class PlannedDisk(Struct, frozen=True, kw_only=True):
    """One disk or CD drive; `node` is its block node and `id` its device."""

    id: str
    node: str
    key: str  # "disk[0]" or "cdrom[1]"
    file: str  # "" is an empty drive
    format: str
    protocol: Literal["file", "host_device"]
    device: str  # QEMU device type
    place: Place
    unit: int | None = None
    target: int | None = None  # SCSI
    lun: int | None = None
    via: str = ""  # id of the USB device that it is the SCSI drive of
    read_only: bool = False
    iothreads: tuple[str, ...] = ()  # several: they share its queues
    queues: int | None = None
    serial: str | None = None
    fd: int | None = None  # opened by us and handed over, because QEMU's account may not
    overlay: int | None = None  # of the temporary file that takes the guest's writes
    capacity: int = 0  # bytes, of that file


class PlannedPort(Struct, frozen=True, kw_only=True):
    """A PCI Express root port, or the bridge of a pc machine."""

    id: str
    type: str
    addr: GuestSlot
    chassis: int
    port: int
    multifunction: bool
    why: str


class PlannedCard(Struct, frozen=True, kw_only=True):
    """One PCI function handed to the guest."""

    id: str
    key: str  # "pci[2]"
    address: PciAddress
    place: Place
    multifunction: bool = False
    x_vga: bool = False
    rom: str | None = None
    rombar: bool | None = None
    boot: int | None = None
    iommu_group: int | None = None
    companion: bool = False  # taken along by functions = "all"


class PinPlan(Struct, frozen=True, kw_only=True):
    """Host CPUs for each vCPU (by index), QEMU's own threads and the iothreads."""

    vcpus: tuple[CpuSet, ...] = ()
    emulator: CpuSet | None = None
    iothreads: CpuSet | None = None
    sched: Literal["other", "batch", "fifo", "rr"] | None = None  # of the vCPUs, as the next two
    priority: int = 0  # 1 to 99 with fifo and rr
    nice: int | None = None
    why: str = ""


class PlannedCpu(Struct, frozen=True, kw_only=True):
    """The guest's processors: `-cpu` and `-smp`."""

    model: str
    model_why: str
    sockets: int
    dies: int
    cores: int
    threads: int
    smp_why: str
    hyperv: tuple[str, ...] = ()  # enlightenments without their "hv-"
    hyperv_why: str = ""
    topoext: bool = False


class PlannedFirmware(Struct, frozen=True, kw_only=True):
    """UEFI firmware in two flash chips: its code, and the variables this machine keeps."""

    code: str
    code_format: str = "raw"
    vars: str = ""  # qcow2; "" is firmware without any
    vars_fd: int | None = None  # opened by us, because QEMU's account may not
    smm: bool = False
    secure_flash: bool = False  # the variables are writable from SMM only
    why: str
    code_node: str = "uefi-code"
    vars_node: str = "uefi-vars"


class PlannedSmbios(Struct, frozen=True, kw_only=True):
    """One SMBIOS table: `-smbios type=…` and its fields in QEMU's names."""

    type: int
    fields: tuple[tuple[str, str], ...]
    why: str


class PlannedHelper(Struct, frozen=True, kw_only=True):
    """A daemon that serves one device (swtpm, virtiofsd, passt), run as QEMU's account.

    It has its end of a socket as `inner_fd`, named in `argv`; QEMU has the other as the planned fd
    of kind "helper" of this id. It ends when QEMU closes its end, so nothing of it is undone.
    """

    id: str  # "tpm0"
    name: str = ""  # for the user; the program's when empty
    key: str  # the profile's table, "tpm"
    argv: tuple[str, ...]  # the program's absolute path first
    inner_fd: int = 3
    groups: bool = True  # False: it is given none of the account's other groups
    socket: Literal["pair", "listen"] = "pair"  # connected; or listening, and QEMU's is connected
    directories: tuple[str, ...] = ()  # made for it before, 0700, the account's own
    files: tuple[tuple[int, str, bool], ...] = ()  # more it has open: (number, path, writable)
    why: str = ""


class PlannedMake(Struct, frozen=True, kw_only=True):
    """A file the machine keeps, made by a tool when it is missing and never taken away again.

    The tool writes `path` + ".new", which becomes `path` when it ended well: half a file is none.
    """

    path: str
    key: str  # the profile's key, "disk[0].create"
    argv: tuple[str, ...]  # names `path` + ".new"
    what: str  # for the user: "a qcow2 disk of 64G"


class Account(Struct, frozen=True, kw_only=True):
    """Whom QEMU runs as; None in the plan means: as whoever runs qlaunch."""

    uid: int
    gid: int
    name: str
    groups: tuple[int, ...] = ()
    home: str = "/"
    runtime_dir: str = ""  # of that user's session: where their sound and display are


class Plan(Struct, frozen=True, kw_only=True):
    """Everything `run` will do. Equal inputs give an equal plan."""

    profile: Profile
    name: str
    uuid: str
    uuid_why: str
    qemu: str  # binary
    qemu_version: tuple[int, int, int]
    accel: Literal["kvm", "tcg"]
    accel_why: str
    runtime_dir: str  # lock, journal, our own sockets: the launcher's alone
    socket_dir: str  # sockets for the user; QEMU's account owns it
    state_dir: str  # what the VM keeps: log, last command line
    display: str  # display type after "auto" was decided
    display_why: str
    screen: PlannedScreen | None = None  # None: nothing but the type and the card
    audio: PlannedAudio | None = None
    steps: tuple[Step, ...]
    fds: tuple[PlannedFd, ...]
    ports: tuple[PlannedPort, ...] = ()
    controllers: tuple[PlannedController, ...] = ()
    disks: tuple[PlannedDisk, ...] = ()
    qemu_img: str = ""  # the program that makes disks' temporary files
    nics: tuple[PlannedNic, ...] = ()
    cards: tuple[PlannedCard, ...] = ()
    vgpus: tuple[PlannedVgpu, ...] = ()
    serials: tuple[PlannedSerial, ...] = ()
    shmems: tuple[PlannedShmem, ...] = ()
    usb_bus: PlannedUsbBus | None = None
    usbs: tuple[PlannedUsb, ...] = ()
    inputs: tuple[PlannedInput, ...] = ()
    evdevs: tuple[PlannedEvdev, ...] = ()
    channel_bus: str = ""  # the key that wants virtio-serial
    channels: tuple[PlannedChannel, ...] = ()
    rng_fd: int | None = None
    vsock: PlannedVsock | None = None
    places: dict[str, Place]  # of devices that are not cards, disks or nics, by id
    helpers: tuple[PlannedHelper, ...] = ()
    makes: tuple[PlannedMake, ...] = ()
    cpu: PlannedCpu
    memory: MemoryPlan | None = None  # None: nothing but its size
    firmware: PlannedFirmware | None = None  # None: BIOS
    smbios: tuple[PlannedSmbios, ...] = ()
    pins: PinPlan | None = None
    root_for: str = ""  # the key that needs root's power beside steps and taps
    account: Account | None = None
    memlock: int | None = None  # bytes; None: leave the limit alone
    cgroup: str = ""  # of QEMU and its helpers, below /sys/fs/cgroup; "": ours
    ready_timeout: float = 30.0  # seconds until QEMU must answer
    args: tuple[str, ...] | None = None  # [qemu] args in this QEMU's words; None: as they are
    problems: tuple[Problem, ...] = ()  # warnings and notes; errors are raised

    def fd(self, kind: str, of: str | None = None) -> int:
        """The number of the one fd of a kind (and subject). Raises StopIteration for none."""
        return next(f.number for f in self.fds if f.kind == kind and of in (None, f.of))

    @property
    def needs_root(self) -> bool:
        """Whether any step or tap needs more than an ordinary user has."""
        taps = any(n.kind == "tap" and n.bridge and not n.bridge_helper for n in self.nics)
        steps = any(not isinstance(step, MakeShared | MakeCgroup) for step in self.steps)
        return steps or bool(self.root_for) or taps
