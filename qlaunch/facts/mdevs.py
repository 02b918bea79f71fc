"""Who uses the mediated devices that were made on a PCI function.

A driver that is unbound removes all of them (mdev_unregister_parent): one that nobody has open is
gone without a word, and for one that a guest has open the unbind waits inside the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from msgspec.structs import replace

from qlaunch.facts.model import Holder, PciDevice
from qlaunch.facts.tree import base_of, link_name
from qlaunch.facts.vgpu_model import remove_by_hand

Processes = Mapping[str, Sequence[Holder]]


class MdevTable:
    """The mediated devices of these functions; their group's nodes, and whose they are."""

    def __init__(self, root: Path, devices: Sequence[PciDevice]) -> None:
        base = base_of(root)
        paths = {
            uuid: f"{base}/sys/bus/pci/devices/{device.address}/{uuid}"
            for device in devices for uuid in device.mdevs
        }
        self._types = {uuid: link_name(f"{path}/mdev_type") for uuid, path in paths.items()}
        groups = {uuid: link_name(f"{path}/iommu_group") for uuid, path in paths.items()}
        self.nodes = {f"/dev/vfio/{group}": uuid for uuid, group in groups.items() if group}
        self._claims: Mapping[str, str] = {}
        self._left: Mapping[str, str] = {}
        if paths:
            from qlaunch.facts.vgpu import read_claims

            self._claims, self._left = read_claims(base)

    def holders(self, device: PciDevice, processes: Processes) -> list[Holder]:
        """One for each process that has one of them open, and one for each that nobody has."""
        return [h for uuid in device.mdevs for h in self._of_one(uuid, processes.get(uuid, ()))]

    def _of_one(self, uuid: str, users: Sequence[Holder]) -> list[Holder]:
        kind = self._types.get(uuid)
        what = f"{uuid} ({kind})" if kind else uuid
        owner = self._claims.get(uuid)
        remedy = f"qlaunch stop {quote(owner)}" if owner else ""
        if users:
            return [replace(h, kind="mdev", what=what, remedy=remedy or h.remedy) for h in users]
        if owner:
            return [Holder(kind="mdev", what=f"{what} of the machine {owner}", remedy=remedy)]
        if dead := self._left.get(uuid):
            return [Holder(kind="mdev", what=f"{what} that {dead} left",
                           remedy=f"qlaunch recover {quote(dead)}")]
        return [Holder(kind="mdev", what=what, remedy=remove_by_hand(uuid))]
