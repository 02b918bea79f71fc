"""The whole profile: one frozen value, complete with defaults, that the plan is made from.

A table that few machines have is in LATE: `tables.py` defines it for the profiles that say it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qlaunch.profile.control import Hooks, Qemu, Stop
from qlaunch.profile.cpu import Cpu
from qlaunch.profile.display import Display
from qlaunch.profile.machine import GuestName, Machine
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import VmName

if TYPE_CHECKING:
    from qlaunch.profile.audio import Audio
    from qlaunch.profile.channels import Agent, Channel
    from qlaunch.profile.extras import Rng, Shmem, Vsock, Watchdog
    from qlaunch.profile.firmware import Install, Kernel, Smbios
    from qlaunch.profile.inputs import Input
    from qlaunch.profile.limits import Limits
    from qlaunch.profile.memory import Balloon, Memory, Numa
    from qlaunch.profile.network import Net
    from qlaunch.profile.pci import Pci
    from qlaunch.profile.ports import Debugcon, Parallel, Serial
    from qlaunch.profile.shares import Share
    from qlaunch.profile.storage import Cdrom, Controller, Disk
    from qlaunch.profile.tpm import Tpm
    from qlaunch.profile.usb import Usb
    from qlaunch.profile.vgpu import Vgpu

LATE = {
    "Audio": "qlaunch.profile.audio",
    "Agent": "qlaunch.profile.channels",
    "Channel": "qlaunch.profile.channels",
    "Rng": "qlaunch.profile.extras",
    "Shmem": "qlaunch.profile.extras",
    "Vsock": "qlaunch.profile.extras",
    "Watchdog": "qlaunch.profile.extras",
    "Install": "qlaunch.profile.firmware",
    "Kernel": "qlaunch.profile.firmware",
    "Smbios": "qlaunch.profile.firmware",
    "Input": "qlaunch.profile.inputs",
    "Limits": "qlaunch.profile.limits",
    "Balloon": "qlaunch.profile.memory",
    "Memory": "qlaunch.profile.memory",
    "Numa": "qlaunch.profile.memory",
    "Net": "qlaunch.profile.network",
    "Pci": "qlaunch.profile.pci",
    "Debugcon": "qlaunch.profile.ports",
    "Parallel": "qlaunch.profile.ports",
    "Serial": "qlaunch.profile.ports",
    "Share": "qlaunch.profile.shares",
    "Cdrom": "qlaunch.profile.storage",
    "Controller": "qlaunch.profile.storage",
    "Disk": "qlaunch.profile.storage",
    "Tpm": "qlaunch.profile.tpm",
    "Usb": "qlaunch.profile.usb",
    "Vgpu": "qlaunch.profile.vgpu",
}


class Profile(Table, frozen=True):
    """A virtual machine."""

    name: Annotated[VmName, Meta(description="The machine's name; the file's stem when absent.")]
    guest: Annotated[
        GuestName, Meta(description="Operating system era; it decides the defaults.")
    ] = "other"
    extends: Annotated[
        str | tuple[str, ...],
        Meta(
            description="Profiles this one is laid over, relative to this file: tables merge, "
            "lists of tables append, other values replace. Empty once a profile has been read."
        ),
    ] = ()
    uuid: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
                extra={"form": "a UUID like 6f9619ff-8b86-4011-b42d-00c04fc964ff"},
            ),
        ] | None,
        Meta(description="Machine UUID; derived from the name when absent."),
    ] = None
    machine: Annotated[Machine, Meta(description="Chipset, memory, firmware.")] = Machine()
    kernel: Annotated[Kernel | None, Meta(description="A kernel to start directly.")] = None
    smbios: Annotated[Smbios | None, Meta(description="What the board says of itself.")] = None
    install: Annotated[Install | None, Meta(description="What --install changes.")] = None
    cpu: Annotated[Cpu, Meta(description="Processors.")] = Cpu()
    memory: Annotated[Memory | None, Meta(description="How guest memory is allocated.")] = None
    numa: Annotated[tuple[Numa, ...], Meta(description="NUMA nodes of the guest.")] = ()
    disk: Annotated[tuple[Disk, ...], Meta(description="Disks.")] = ()
    cdrom: Annotated[tuple[Cdrom, ...], Meta(description="CD drives.")] = ()
    net: Annotated[tuple[Net, ...], Meta(description="Network cards.")] = ()
    controller: Annotated[tuple[Controller, ...], Meta(description="Storage controllers.")] = ()
    pci: Annotated[tuple[Pci, ...], Meta(description="Host PCI devices for the guest.")] = ()
    vgpu: Annotated[
        tuple[Vgpu, ...],
        Meta(description="Slices of host devices: mediated devices, virtual functions."),
    ] = ()
    display: Annotated[Display, Meta(description="Emulated display.")] = Display()
    audio: Annotated[Audio | None, Meta(description="Sound card.")] = None
    serial: Annotated[tuple[Serial, ...], Meta(description="Serial ports.")] = ()
    parallel: Annotated[tuple[Parallel, ...], Meta(description="Parallel ports.")] = ()
    debugcon: Annotated[
        Debugcon | None, Meta(description="The firmware's debug console.")
    ] = None
    channel: Annotated[
        tuple[Channel, ...], Meta(description="Channels of your own to the guest.")
    ] = ()
    agent: Annotated[Agent | None, Meta(description="Channels of the usual agents.")] = None
    usb: Annotated[tuple[Usb, ...], Meta(description="Host USB devices for the guest.")] = ()
    input: Annotated[
        tuple[Input, ...], Meta(description="Keyboards, mice, tablets.")
    ] = ()
    share: Annotated[tuple[Share, ...], Meta(description="Directories of the host.")] = ()
    tpm: Annotated[Tpm | None, Meta(description="Trusted platform module.")] = None
    rng: Annotated[Rng | None, Meta(description="Random numbers.")] = None
    watchdog: Annotated[Watchdog | None, Meta(description="Watchdog timer.")] = None
    shmem: Annotated[tuple[Shmem, ...], Meta(description="Memory shared with the host.")] = ()
    vsock: Annotated[
        Vsock | None, Meta(description="Sockets between host and guest.")
    ] = None
    balloon: Annotated[Balloon | None, Meta(description="Memory balloon.")] = None
    limits: Annotated[
        Limits | None, Meta(description="What the machine may use of the host at most.")
    ] = None
    stop: Annotated[Stop, Meta(description="How the machine ends.")] = Stop()
    hooks: Annotated[Hooks, Meta(description="Commands around a run.")] = Hooks()
    qemu: Annotated[Qemu, Meta(description="Escape hatch.")] = Qemu()
