"""Which driver each PCI function is kept for, and whether the kernel answers for it at all.

`driver_override` takes the device's lock (pci-sysfs.c driver_override_show), which an unbind, a
probe or a reset that hangs holds for ever. So it is read in a child, and not on the way to a
launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from qlaunch.children import guarded
from qlaunch.errors import HostError, StuckError
from qlaunch.facts.model import PciDevice
from qlaunch.facts.tree import base_of, read_attribute

DEADLINE = 3.0  # for a hundred short files


def with_overrides(
    root: Path, devices: Sequence[PciDevice], *, deadline: float = DEADLINE
) -> tuple[PciDevice, ...]:
    """The devices with `driver_override` filled in, or `stuck`. A child reads all of them, and
    when it does not return, one child each."""
    path = f"{base_of(root)}/sys/bus/pci/devices"
    found = _overrides(path, [d.address for d in devices], deadline)
    if found is not None:
        return tuple(replace(d, driver_override=found.get(d.address)) for d in devices)
    filled = []
    for device in devices:
        one = _overrides(path, [device.address], deadline)
        text = one.get(device.address) if one is not None else None
        filled.append(replace(device, driver_override=text, stuck=one is None))
    return tuple(filled)


def _overrides(path: str, addresses: Sequence[str], deadline: float) -> dict[str, str] | None:
    """Address → driver, of those that have one; None when the kernel does not answer."""

    def read() -> str:
        texts = ((a, read_attribute(f"{path}/{a}/driver_override")) for a in addresses)
        # pci-sysfs.c prints a NULL override with %s
        return "\n".join(f"{a} {text}" for a, text in texts if text not in (None, "", "(null)"))

    try:
        said = guarded(read, "reading driver_override", deadline=deadline)
    except StuckError:
        return None
    except (OSError, HostError):
        return {}
    return dict(line.partition(" ")[::2] for line in said.splitlines())
