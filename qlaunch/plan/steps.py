"""The changes a run makes to the host that outlive the process, as data.

Each has a handler in `host/` with capture, apply and undo. A step and what its handler captured
are JSON in the journal, so that `qlaunch recover` in another process can undo it. Those about the
host's CPUs are in cpu_steps.py. To add one: a Struct, its name in `Step`, a handler in `host/`, a
line in `host/handlers.py`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from qlaunch.plan.cpu_steps import IsolateCpus, MoveIrqs, SetGovernor
from qlaunch.plan.step import BaseStep
from qlaunch.values import HostPath, Ipv4Network, MacAddress, PciAddress, PciId


class LoadModule(BaseStep, frozen=True, kw_only=True, tag="load-module"):
    """modprobe; never undone, because unloading vfio modules hangs the next start."""

    module: str

    def __str__(self) -> str:
        return f"load the kernel module {self.module}"


class TakeDevice(BaseStep, frozen=True, kw_only=True, tag="take-device"):
    """Move a PCI function from its host driver to a VFIO driver by driver_override."""

    address: PciAddress
    id: PciId | None = None  # what the plan saw; another device at that address is refused
    subsystem: PciId | None = None
    driver: str = "vfio-pci"
    module: str = ""  # a variant driver's: once loaded, it tells the driver's own name
    return_to: str = "auto"
    rebar: int = 0  # bytes: the size of its resizable BAR meanwhile; 0 leaves it alone
    console: bool = False  # take the host's console off it first

    def __str__(self) -> str:
        known = f" [{self.id}]" if self.id else ""
        return f"take {self.address}{known} to {self.driver}"


class ResetDevices(BaseStep, frozen=True, kw_only=True, tag="reset-devices"):
    """Settle how a card's functions are reset; undo resets them, once provably free."""

    addresses: tuple[PciAddress, ...]
    method: str = "auto"
    return_to: str = ""  # of TakeDevice; a rescan has to know it

    def __str__(self) -> str:
        if self.method == "rescan":
            return f"reset {', '.join(self.addresses)} by removing and finding them again"
        if self.method == "default":
            return f"have the kernel look again for the resets of {', '.join(self.addresses)}"
        return f"settle the reset of {', '.join(self.addresses)} ({self.method})"


class HoldPower(BaseStep, frozen=True, kw_only=True, tag="hold-power"):
    """Forbid D3cold while the guest may have the device: some cards do not wake from it."""

    address: PciAddress

    def __str__(self) -> str:
        return f"keep {self.address} out of D3cold"


class OwnNode(BaseStep, frozen=True, kw_only=True, tag="own-node"):
    """Give a device node to the account QEMU runs as. The node may appear by an earlier step."""

    path: HostPath
    uid: int
    gid: int
    mode: int = 0o600

    def __str__(self) -> str:
        return f"give {self.path} to uid {self.uid} (mode {self.mode:04o})"


class OwnGroup(BaseStep, frozen=True, kw_only=True, tag="own-group"):
    """The same for /dev/vfio/N of the IOMMU group that a device is in."""

    address: PciAddress
    group: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"give /dev/vfio/{self.group} to uid {self.uid}"


class MakeBridge(BaseStep, frozen=True, kw_only=True, tag="make-bridge"):
    """Create a bridge and bring it up; removed at exit only when this step made it.

    One with an address is the machine's own: a bridge of that name may not be there before.
    """

    name: str
    address: str = ""  # "192.168.77.1/24"; no other link may have one of that network
    mtu: int | None = None

    def __str__(self) -> str:
        return f"make the bridge {self.name}" + (f" with {self.address}" if self.address else "")


class MakeMacvtap(BaseStep, frozen=True, kw_only=True, tag="make-macvtap"):
    """Create a macvtap on a link and bring it up; removed at exit."""

    name: str
    parent: str
    mode: Literal["bridge", "private", "vepa", "passthru"]
    mac: MacAddress | None  # None: the parent's own (passthru)
    mtu: int | None = None

    def __str__(self) -> str:
        return f"make the macvtap {self.name} on {self.parent} ({self.mode})"


class SetForwarding(BaseStep, frozen=True, kw_only=True, tag="set-forwarding"):
    """Have IPv4 packets forwarded; no longer once the last machine that wants it has ended."""

    machine: str
    directory: str  # where machines that want it are noted, and what was before

    def __str__(self) -> str:
        return "have the kernel forward IPv4 packets"


class NftTable(BaseStep, frozen=True, kw_only=True, tag="nft-table"):
    """A table of our own in nf_tables: masquerading, forwarded ports, nobody else let in."""

    table: str
    bridge: str
    network: Ipv4Network
    guest: str  # its IPv4 address
    forward: tuple[str, ...] = ()  # as in the profile
    program: str = "nft"

    def __str__(self) -> str:
        return f"add the firewall table ip {self.table} ({self.network} goes out masqueraded)"


class RunDnsmasq(BaseStep, frozen=True, kw_only=True, tag="run-dnsmasq"):
    """A dnsmasq for one bridge: DHCP and names. It is ended at exit."""

    bridge: str
    directory: str  # of its pid file and leases
    network: Ipv4Network
    mac: MacAddress
    guest: str  # the address that `mac` gets
    dns: tuple[str, ...] = ()
    domain: str = ""
    mtu: int | None = None
    program: str = "dnsmasq"

    def __str__(self) -> str:
        return f"run dnsmasq on {self.bridge}"


class ReserveHugePages(BaseStep, frozen=True, kw_only=True, tag="reserve-hugepages"):
    """Raise the pool of one page size so that `count` pages are free; lowered again at exit."""

    size: int  # bytes
    count: int
    node: int | None = None  # None: the whole machine's pool

    def __str__(self) -> str:
        where = "" if self.node is None else f" on node {self.node}"
        return f"have {self.count} huge pages of {self.size >> 20} MiB free{where}"


class MakeShared(BaseStep, frozen=True, kw_only=True, tag="make-shared"):
    """Make a file of shared memory for QEMU's account; one that is there is used and left there."""

    path: HostPath
    size: int  # bytes
    uid: int
    gid: int
    mode: int = 0o600
    ours: bool = True  # False: QEMU makes it, and leaves it there

    def __str__(self) -> str:
        if not self.ours:
            return f"have the memory file {self.path} removed when QEMU has ended"
        return f"make the shared memory {self.path} of {self.size >> 20} MiB"


class LendUsb(BaseStep, frozen=True, kw_only=True, tag="lend-usb"):
    """Give a USB device's interfaces back to the drivers they had, when the guest is gone.

    The device is the one at `name`, the ones of `id`, or those of both; QEMU detaches the drivers.
    """

    name: str = ""  # sysfs name of the port, "1-4.2"
    id: str = ""  # vendor:product
    serial: str = ""

    def __str__(self) -> str:
        parts = (self.name, self.id and f"[{self.id}]", self.serial)
        return f"lend the USB device {' '.join(part for part in parts if part)}"


class CreateMdev(BaseStep, frozen=True, kw_only=True, tag="create-mdev"):
    """Make a mediated device; removed at exit only when this step made it."""

    uuid: str  # lower case, as sysfs names it
    parent: str  # below /sys/class/mdev_bus
    type: str
    existing: bool = False  # the plan saw it: it is used and left there

    def __str__(self) -> str:
        if self.existing:
            return f"use the mediated device {self.uuid}"
        return f"make the mediated device {self.uuid}, {self.type} of {self.parent}"


class EnableVfs(BaseStep, frozen=True, kw_only=True, tag="enable-vfs"):
    """Switch on a physical function's virtual ones; off again with the last machine that has one.

    `uses` are those that this machine has: (number, the address that the plan expects).
    """

    address: PciAddress
    count: int
    uses: tuple[tuple[int, PciAddress], ...] = ()
    on: bool = False  # they were when this was planned

    def __str__(self) -> str:
        if self.on:
            return f"keep the {self.count} virtual functions of {self.address} that are on"
        return f"switch on {self.count} virtual functions of {self.address}"


class SetVfNet(BaseStep, frozen=True, kw_only=True, tag="set-vf-net"):
    """Give a network card's virtual function its MAC address and VLAN, through the physical one."""

    address: PciAddress  # the physical function's
    number: int
    mac: str | None = None
    vlan: int | None = None

    def __str__(self) -> str:
        what = [f"MAC {self.mac}"] if self.mac else []
        what += [f"VLAN {self.vlan}"] if self.vlan is not None else []
        return f"give virtual function {self.number} of {self.address} {' and '.join(what)}"


class SetVgpuType(BaseStep, frozen=True, kw_only=True, tag="set-vgpu-type"):
    """Make an NVIDIA vGPU on a virtual function by the vendor's files; taken away at exit."""

    address: PciAddress
    type: int
    name: str = ""
    existing: int = 0  # the type that the plan saw on it: it makes way, and is put back

    def __str__(self) -> str:
        instead = f", in place of its type {self.existing}" if self.existing else ""
        return f"make {self.name or 'a vGPU'} (type {self.type}) on {self.address}{instead}"


class OwnDeviceGroup(BaseStep, frozen=True, kw_only=True, tag="own-device-group"):
    """OwnGroup for a device that an earlier step makes: its group is known only then."""

    device: str  # directory below /sys, "bus/mdev/devices/UUID"
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"give the IOMMU group of {self.device.rpartition('/')[2]} to uid {self.uid}"


class MakeCgroup(BaseStep, frozen=True, kw_only=True, tag="make-cgroup"):
    """A control group for QEMU and its helpers; what is left in it at the end is killed."""

    path: str  # below /sys/fs/cgroup: "/system.slice/qlaunch-win7"
    memory: int | None = None  # bytes, memory.max
    pids: int | None = None  # pids.max
    enable: tuple[str, ...] = ()  # controllers to be turned on in the group above
    isolated: bool = False  # outside of the groups that leave the machine's CPUs

    @property
    def needed(self) -> bool:
        """Whether the machine does not start without."""
        return self.memory is not None or self.pids is not None or self.isolated

    def __str__(self) -> str:
        limits = [f"{self.memory >> 20} MiB of memory"] if self.memory is not None else []
        limits += [f"{self.pids} processes"] if self.pids is not None else []
        return f"make the cgroup {self.path}" + (f" with {' and '.join(limits)}" if limits else "")


Step: TypeAlias = (
    LoadModule | CreateMdev | EnableVfs | SetVfNet | SetVgpuType | OwnDeviceGroup
    | TakeDevice | ResetDevices | HoldPower | OwnNode | OwnGroup
    | MakeBridge | MakeMacvtap | SetForwarding | NftTable | RunDnsmasq
    | ReserveHugePages | MakeShared | LendUsb | IsolateCpus | MoveIrqs | SetGovernor | MakeCgroup
)  # fmt: skip

STEP_KINDS: tuple[type[Step], ...] = Step.__args__


def devices_of(step: Step) -> tuple[PciAddress, ...]:
    """The PCI functions that a step writes to: none of them is touched again once one hangs."""
    if isinstance(step, TakeDevice | HoldPower | SetVgpuType):
        return (step.address,)
    if isinstance(step, EnableVfs):
        return (step.address, *(address for _, address in step.uses))
    return step.addresses if isinstance(step, ResetDevices) else ()
