"""The size of a card's resizable BAR, while no driver has the card.

The kernel lists the sizes of BAR N in resourceN_resize as a bit each (1 MiB, 2 MiB …) and takes the
bit's number; it says EBUSY while a driver is bound, and ENOSPC when the bridge above has no room
(drivers/pci/pci-sysfs.c __resource_resize_store). The size that is set is read from `resource`.
"""

from __future__ import annotations

import errno
from typing import Any

from qlaunch.errors import KERNEL_LOG, HostError, Problem
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import TakeDevice
from qlaunch.values import PciAddress, Size

_NO_ROOM = ("the bridge above it has no room for it: a smaller size, or \"Above 4G "
            'decoding" and "Resizable BAR" in the firmware\'s setup')
_MIB = 20  # bit 0 is 1 MiB


def capture(host: Host, step: TakeDevice) -> Captured:
    """The BAR that is meant (the one that can become largest) and its size now; nothing when the
    step says nothing of it. Raises HostError when the card has no resizable BAR, or not this size.
    """
    if not step.rebar:
        return {}
    sizes = {n: found for n in range(6) if (found := _possible(host, step.address, n))}
    if not sizes:
        raise HostError(
            Problem("the kernel shows no resizable BAR of this card", where=step.address,
                    hint="rebar needs Linux 6.1, and a card that has one; else leave the key out")
        )
    bar = max(sizes, key=lambda n: sizes[n][-1])
    if step.rebar not in sizes[bar]:
        raise HostError(
            Problem(f"BAR {bar} of the card cannot have this size", where=step.address,
                    found=str(Size(step.rebar)),
                    allowed=", ".join(str(Size(size)) for size in sizes[bar]))
        )
    return {"bar": {"number": bar, "size": _size(host, step.address, bar)}}


def apply(host: Host, step: TakeDevice, captured: Captured) -> None:
    """Set the step's size. Raises HostError when the kernel does not."""
    if "bar" in captured:
        _set(host, step.address, captured["bar"]["number"], step.rebar)


def is_changed(host: Host, address: PciAddress, captured: Captured) -> bool:
    """Whether it has another size than it had."""
    bar: dict[str, Any] | None = captured.get("bar")
    return bar is not None and _size(host, address, bar["number"]) != bar["size"]


def restore(host: Host, address: PciAddress, captured: Captured) -> None:
    """The size that it had. Raises HostError."""
    if is_changed(host, address, captured):
        _set(host, address, captured["bar"]["number"], captured["bar"]["size"])


def _possible(host: Host, address: PciAddress, number: int) -> list[int]:
    text = sysfs.read_text(device.pci_path(host, address) / f"resource{number}_resize")
    bits = int(text, 16) if text else 0
    return [1 << (n + _MIB) for n in range(44) if bits >> n & 1]


def _size(host: Host, address: PciAddress, number: int) -> int:
    lines = (sysfs.read_text(device.pci_path(host, address) / "resource") or "").splitlines()
    start, end = (int(word, 16) for word in lines[number].split()[:2])
    return end - start + 1 if end else 0


def _set(host: Host, address: PciAddress, number: int, size: int) -> None:
    path = device.pci_path(host, address) / f"resource{number}_resize"
    if _size(host, address, number) == size:
        return
    what = f"resizing BAR {number} of {address}"
    try:
        sysfs.guarded_write(host, path, str(size.bit_length() - 1 - _MIB), what)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        raise HostError(
            Problem(
                f"BAR {number} cannot be made {Size(size)}", where=address,
                found=error.strerror or str(error),
                hint=_NO_ROOM if full else sysfs.way_on(error),
            )
        ) from error
    if _size(host, address, number) != size:
        raise HostError(
            Problem(f"BAR {number} did not become {Size(size)}", where=address,
                    found=str(Size(_size(host, address, number))), hint=KERNEL_LOG)
        )
