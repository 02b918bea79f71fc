"""What a PCI function carries for the host (screens, sound, links, disks), and that it is back.

A driver that binds without an error may still bring nothing: firmware that does not load, a probe
that goes on in the background and fails. The numbers in the names change with each bind, so what
is remembered and waited for is the kind. Disks behind a SATA or USB controller come and go by
themselves and take long to spin up: they are not looked for.
"""

from __future__ import annotations

from qlaunch.errors import HostError, Problem
from qlaunch.host import device, sysfs
from qlaunch.host.handler import Host
from qlaunch.values import PciAddress

_KINDS = {  # kind → where it is, below the function's directory
    "drm/card": ("drm/card*",),
    "drm/renderD": ("drm/renderD*",),
    "sound/card": ("sound/card*",),
    "net": ("net/*", "virtio*/net/*"),
    "block": ("nvme/nvme*/nvme*n*", "virtio*/block/*"),
}
_PATIENCE = 4.0  # times the settling time: drivers probe codecs and namespaces after they bound


def read_kinds(host: Host, address: PciAddress) -> list[str]:
    """The kinds of nodes and links that the function has now. Takes no lock."""
    path = device.pci_path(host, address)
    return [
        kind for kind, patterns in _KINDS.items() if any(any(path.glob(p)) for p in patterns)
    ]


def check_carried(host: Host, address: PciAddress, kinds: list[str]) -> None:
    """Wait until each kind is there again. Raises HostError naming what did not come."""

    def missing() -> list[str]:
        there = read_kinds(host, address)
        return [kind for kind in kinds if kind not in there]

    what = f"what {address} has carried"
    back = sysfs.wait_until(host, lambda: not missing(), what, times=_PATIENCE)
    if not back and (gone := missing()):
        driver = device.read_driver(host, address)
        folder = f"/sys/bus/pci/drivers/{driver}"
        raise HostError(
            Problem(
                f"the device is on {driver} again, but did not bring back its {', '.join(gone)}",
                where=address, found=f"none within {host.settle * _PATIENCE:g} s",
                hint=f"sudo dmesg | grep {address}; a second bind may help: "
                f"echo {address} | sudo tee {folder}/unbind {folder}/bind",
            )
        )
