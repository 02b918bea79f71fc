"""The plan: every decision a run needs, as frozen data that the command line is rendered from.

Each decision carries its reasons: the profile keys it follows (`machine.memory`, `pci[0].device`)
or the rule that set it, so that `qlaunch plan` can name the line that put an option there.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from qlaunch.errors import Problem
from qlaunch.plan.steps import Step
from qlaunch.profile.profile import Profile
from qlaunch.values import CpuSet, GuestSlot, MacAddress, PciAddress

FIRST_FD = 100  # planned fd numbers start here, well above what Python has open


class Place(Struct, frozen=True):
    """Where a guest device is plugged in: bus id and slot on it."""

    bus: str
    addr: GuestSlot | None = None


FdKind = Literal[
    "lock", "control", "qmp", "tap", "vhost", "serial", "terminal", "file", "claim"
]


class PlannedFd(Struct, frozen=True, kw_only=True):
    """A file descriptor that QEMU inherits under a fixed number, so that plan and run agree."""

    number: int
    kind: FdKind
    of: str = ""  # socket or file path, tap's index, device address
    writable: bool = True


class PlannedNic(Struct, frozen=True, kw_only=True):
    """One network card."""

    index: int
    model: str  # QEMU device type
    mac: MacAddress
    mac_why: str
    kind: Literal["user", "tap"]
    ifname: str | None = None
    bridge: str | None = None
    queues: int = 1
    tap_fds: tuple[int, ...] = ()
    vhost_fds: tuple[int, ...] = ()
    place: Place
    why: str


class PlannedDisk(Struct, frozen=True, kw_only=True):
    """One disk or CD drive; `node` is its block node and `id` its device."""

    id: str
    node: str
    key: str  # "disk[0]" or "cdrom[1]"
    file: str
    format: str
    protocol: Literal["file", "host_device"]
    device: str  # QEMU device type
    place: Place
    unit: int | None = None
    read_only: bool = False
    iothread: str | None = None
    fd: int | None = None  # opened by us and handed over, because QEMU's account may not


class PlannedSerial(Struct, frozen=True, kw_only=True):
    """One serial port; `path` is a file's or a socket's, `fd` that of a file opened by us."""

    index: int
    type: str
    path: str = ""
    fd: int | None = None


class PlannedPort(Struct, frozen=True, kw_only=True):
    """A PCI Express root port."""

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
    display: str  # QEMU display type after "auto" was decided
    display_why: str
    steps: tuple[Step, ...]
    fds: tuple[PlannedFd, ...]
    ports: tuple[PlannedPort, ...]
    disks: tuple[PlannedDisk, ...]
    nics: tuple[PlannedNic, ...]
    cards: tuple[PlannedCard, ...]
    serials: tuple[PlannedSerial, ...]
    places: dict[str, Place]  # of devices that are not cards, disks or nics, by id
    pins: PinPlan | None = None
    account: Account | None = None
    memlock: int | None = None  # bytes; None: leave the limit alone
    ready_timeout: float = 30.0  # seconds until QEMU must answer
    problems: tuple[Problem, ...] = ()  # warnings and notes; errors are raised

    def fd(self, kind: str) -> int:
        """The number of the one fd of a kind. Raises StopIteration when there is none."""
        return next(f.number for f in self.fds if f.kind == kind)

    @property
    def needs_root(self) -> bool:
        """Whether any step or tap needs more than an ordinary user has."""
        return bool(self.steps) or any(n.kind == "tap" and n.bridge for n in self.nics)
