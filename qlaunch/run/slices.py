"""vGPUs made and removed by hand: under the same lock and claims as a run's."""

from __future__ import annotations

from qlaunch.errors import HostError, Problem
from qlaunch.host.device import pci_path
from qlaunch.host.handler import telling
from qlaunch.host.nvidia import SetVgpuTypeHandler
from qlaunch.host.vgpu import create_mdev, read_mdev, remove_mdev
from qlaunch.plan.steps import SetVgpuType
from qlaunch.run.claims import CLAIMS, read_owner
from qlaunch.run.manual import Say, claimed
from qlaunch.values import PciAddress


def create_slice(base: str, parent: str, kind: str, uuid: str, say: Say) -> None:
    """Make it; it stays until it is removed by hand, or until the next boot. Raises HostError."""
    host = telling(say)
    with claimed(base, [uuid], say):
        try:
            create_mdev(host, parent, kind, uuid)
        except FileExistsError:
            there = read_mdev(host, uuid)
            raise HostError(
                Problem("a mediated device of this UUID is there already", where=uuid,
                        found=f"{there[1]} of {there[0]}" if there else "",
                        hint="give another --uuid, or none")
            ) from None
    say(f"{uuid} is a {kind} of {parent}")


def remove_slice(base: str, uuid: str, say: Say) -> None:
    """Remove it, when nobody has it open and no machine has claimed it. Raises HostError."""
    host = telling(say)
    with claimed(base, [uuid], say):
        there = read_mdev(host, uuid)
        if there is None:
            raise HostError(
                Problem("this host has no such mediated device", where=uuid,
                        hint="qlaunch devices --vgpu lists them")
            )
        remove_mdev(host, uuid)
    say(f"{uuid}, {there[1]} of {there[0]}, is removed")


def set_type(base: str, address: PciAddress, kind: int, name: str, say: Say) -> None:
    """Make an NVIDIA vGPU on a virtual function that has none. Raises HostError."""
    host, handler = telling(say), SetVgpuTypeHandler()
    step = SetVgpuType(address=address, type=kind, name=name)
    with claimed(base, [address], say):
        state = handler.capture(host, step)
        if state["type"]:
            raise HostError(
                Problem("the function has a vGPU already", where=address,
                        found=f"type {state['type']}", hint=f"qlaunch vgpu remove {address}")
            )
        handler.apply(host, step, state)
    say(f"{address} is a {name}")


def clear_type(base: str, address: PciAddress, say: Say) -> None:
    """Take a virtual function's NVIDIA vGPU away, when nobody has it open and no machine has
    claimed it. Raises HostError."""
    host, handler = telling(say), SetVgpuTypeHandler()
    if not pci_path(host, address).exists():
        raise HostError(Problem("this host has no such PCI device", where=address,
                                hint="qlaunch devices --vgpu lists the virtual functions"))
    with claimed(base, [address], say):
        now = handler.capture(host, SetVgpuType(address=address, type=0))["type"]
        if not now:
            raise HostError(Problem("the function has no vGPU", where=address,
                                    hint="qlaunch devices --vgpu lists them"))
        told = handler.undo(host, SetVgpuType(address=address, type=now), {"type": 0})
    say(told or f"{address} has no vGPU any more")


def owner_of(base: str, name: str) -> str:
    """The machine that has claimed a UUID or an address; "" for none."""
    owner = read_owner(f"{base}/{CLAIMS}/{name}")
    return owner.name if owner else ""
