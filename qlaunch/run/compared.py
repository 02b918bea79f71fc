"""What a `selftest` compares before and after each round: all of the host that the profile's
devices are made of, whichever way they come to the guest."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from qlaunch.errors import StuckError
from qlaunch.host import sysfs
from qlaunch.host.carried import read_kinds
from qlaunch.host.device import pci_path, read_driver, read_group
from qlaunch.host.handler import Host
from qlaunch.host.vgpu import mdev_path, read_mdev
from qlaunch.plan.steps import CreateMdev, OwnNode, SetVfNet, Step, devices_of
from qlaunch.values import PciAddress

_ANSWER = 10.0  # seconds for the few files of a device that nothing is done to
_FILES = (
    "driver_override", "reset_method", "d3cold_allowed", "power/control",
    "sriov_numvfs", "sriov_drivers_autoprobe", "nvidia/current_vgpu_type",
)


def host_state(host: Host, steps: Sequence[Step]) -> dict[str, str]:
    """What these steps may have changed and their undo has put back: "PLACE what" → text."""
    addresses = {a for s in steps for a in devices_of(s)}
    addresses |= {s.address for s in steps if isinstance(s, SetVfNet)}
    state = device_state(host, sorted(addresses))
    for parent in {s.parent for s in steps if isinstance(s, CreateMdev)}:
        state[f"{parent} mediated devices"] = " ".join(_mdevs(host, parent))
    for path in {s.path for s in steps if isinstance(s, OwnNode)}:
        state[f"{path} owner"] = _owner(host.path(str(path).lstrip("/")))
    return state


def device_state(host: Host, addresses: Iterable[PciAddress]) -> dict[str, str]:
    """Of PCI functions, with those that a physical one has switched on, and of their groups.

    Some of the files take the device's lock, which what hangs in the kernel holds for ever.
    """
    state: dict[str, str] = {}
    patient = replace(host, deadline=min(host.deadline, _ANSWER))
    for address in addresses:
        path = pci_path(host, address)
        state[f"{address} is there"] = "yes" if path.exists() else "no"
        state[f"{address} driver"] = read_driver(host, address) or "none"

        def read(path: Path = path) -> dict[str, str]:
            return {name: sysfs.read_text(path / name) or "" for name in _FILES}

        try:
            files = sysfs.guarded_read(patient, read, f"reading {address}")
        except StuckError:
            files = {"answers": "no: what holds it hangs in the kernel"}
        state |= {f"{address} {name}": text for name, text in files.items()}
        state[f"{address} nodes"] = " ".join(sorted(map(str, read_kinds(host, address))))
        state[f"{address} functions"] = " ".join(_functions(host, path))
        group = read_group(host, address)  # its number changes with a rescan
        if group is not None:
            state[f"{address} group"] = _owner(host.path(f"dev/vfio/{group}"))
    return state


def differences(before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    """One sentence each. What cannot be read of a device that is gone or hangs is told by that."""
    return tuple(
        f"{key}: was {before.get(key) or 'empty'}, is {text or 'empty'}"
        for key, text in sorted(after.items()) if before.get(key, "") != text
    )


def _functions(host: Host, path: Path) -> list[str]:
    """Virtual functions, each with its driver."""
    found = []
    for link in path.glob("virtfn*"):
        address = PciAddress(link.resolve().name)
        found.append(f"{address}={read_driver(host, address) or 'none'}")
    return sorted(found)


def _mdevs(host: Host, parent: str) -> list[str]:
    folder = mdev_path(host, "x").parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return [n for n in names if (read_mdev(host, n) or ("", ""))[0] == parent]


def _owner(path: Path) -> str:
    """"without a node", or who may open it."""
    try:
        found = path.stat()
    except OSError:
        return "without a node"
    return f"of uid {found.st_uid}, gid {found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"
