"""The changes a run makes to the host that outlive the process, as data.

Each has a handler in `host/` with capture, apply and undo. A step and what its handler captured
are JSON in the journal, so that `qlaunch recover` in another process can undo it. To add one: a
Struct here, its name in `Step`, a handler in `host/`, a line in `host/handlers.py`.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from qlaunch.values import HostPath, PciAddress, PciId


class _Step(Struct, frozen=True, kw_only=True, tag_field="step"):
    """`why` is the profile key or rule that asked for the step."""

    why: str = ""


class LoadModule(_Step, frozen=True, kw_only=True, tag="load-module"):
    """modprobe; never undone, because unloading vfio modules hangs the next start."""

    module: str

    def __str__(self) -> str:
        return f"load the kernel module {self.module}"


class TakeDevice(_Step, frozen=True, kw_only=True, tag="take-device"):
    """Move a PCI function from its host driver to a VFIO driver by driver_override."""

    address: PciAddress
    id: PciId | None = None  # what the plan saw; another device at that address is refused
    subsystem: PciId | None = None
    driver: str = "vfio-pci"
    return_to: str = "auto"

    def __str__(self) -> str:
        known = f" [{self.id}]" if self.id else ""
        return f"take {self.address}{known} to {self.driver}"


class ResetDevices(_Step, frozen=True, kw_only=True, tag="reset-devices"):
    """Settle how a card's functions are reset; undo resets them, once provably free."""

    addresses: tuple[PciAddress, ...]
    method: str = "auto"

    def __str__(self) -> str:
        return f"settle the reset of {', '.join(self.addresses)} ({self.method})"


class HoldPower(_Step, frozen=True, kw_only=True, tag="hold-power"):
    """Forbid D3cold while the guest may have the device: some cards do not wake from it."""

    address: PciAddress

    def __str__(self) -> str:
        return f"keep {self.address} out of D3cold"


class OwnNode(_Step, frozen=True, kw_only=True, tag="own-node"):
    """Give a device node to the account QEMU runs as. The node may appear by an earlier step."""

    path: HostPath
    uid: int
    gid: int
    mode: int = 0o600

    def __str__(self) -> str:
        return f"give {self.path} to uid {self.uid} (mode {self.mode:04o})"


class OwnGroup(_Step, frozen=True, kw_only=True, tag="own-group"):
    """The same for /dev/vfio/N of the IOMMU group that a device is in."""

    address: PciAddress
    group: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"give /dev/vfio/{self.group} to uid {self.uid}"


class MakeBridge(_Step, frozen=True, kw_only=True, tag="make-bridge"):
    """Create a bridge and bring it up; removed at exit only when this step made it."""

    name: str

    def __str__(self) -> str:
        return f"make the bridge {self.name}"


class ReserveHugePages(_Step, frozen=True, kw_only=True, tag="reserve-hugepages"):
    """Raise the pool of one page size so that `count` pages are free; lowered again at exit."""

    size: int  # bytes
    count: int
    node: int | None = None  # None: the whole machine's pool

    def __str__(self) -> str:
        where = "" if self.node is None else f" on node {self.node}"
        return f"have {self.count} huge pages of {self.size >> 20} MiB free{where}"


Step: TypeAlias = (
    LoadModule
    | TakeDevice
    | ResetDevices
    | HoldPower
    | OwnNode
    | OwnGroup
    | MakeBridge
    | ReserveHugePages
)

STEP_KINDS: tuple[type[Step], ...] = Step.__args__


def devices_of(step: Step) -> tuple[PciAddress, ...]:
    """The PCI functions that a step writes to: none of them is touched again once one hangs."""
    if isinstance(step, TakeDevice | HoldPower):
        return (step.address,)
    return step.addresses if isinstance(step, ResetDevices) else ()
