"""The whole profile: one frozen value, complete with defaults, that the plan is made from."""

from qlaunch.profile.devices import (
    Balloon,
    Cdrom,
    Controller,
    Disk,
    Display,
    Hooks,
    Net,
    Pci,
    Qemu,
    Serial,
    Stop,
)
from qlaunch.profile.machine import Cpu, GuestName, Machine
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import VmName


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
    cpu: Annotated[Cpu, Meta(description="Processors.")] = Cpu()
    disk: Annotated[tuple[Disk, ...], Meta(description="Disks.")] = ()
    cdrom: Annotated[tuple[Cdrom, ...], Meta(description="CD drives.")] = ()
    net: Annotated[tuple[Net, ...], Meta(description="Network cards.")] = ()
    controller: Annotated[tuple[Controller, ...], Meta(description="Storage controllers.")] = ()
    pci: Annotated[tuple[Pci, ...], Meta(description="Host PCI devices for the guest.")] = ()
    display: Annotated[Display, Meta(description="Emulated display.")] = Display()
    serial: Annotated[tuple[Serial, ...], Meta(description="Serial ports.")] = ()
    balloon: Annotated[Balloon | None, Meta(description="Memory balloon.")] = None
    stop: Annotated[Stop, Meta(description="How the machine ends.")] = Stop()
    hooks: Annotated[Hooks, Meta(description="Commands around a run.")] = Hooks()
    qemu: Annotated[Qemu, Meta(description="Escape hatch.")] = Qemu()
