"""What a host can be sliced into: mediated devices, virtual functions, NVIDIA's vGPU types.

Part of HostFacts (facts/model.py), and like it frozen data that goes to JSON and back.
"""

from __future__ import annotations

from msgspec import Struct, field

from qlaunch.values import PciAddress, PciId


class MdevType(Struct, frozen=True, kw_only=True):
    """One directory of mdev_supported_types; what its description does not say is None."""

    id: str  # "i915-GVTg_V5_4": the driver's name and the type's
    name: str = ""  # the file `name`; the id where there is none
    api: str = ""  # device_api: "vfio-pci"
    available: int | None = None  # a hint: types of one parent change each other's
    description: str = ""
    memory: int | None = None  # bytes
    heads: int | None = None
    width: int | None = None
    height: int | None = None


class MdevParent(Struct, frozen=True, kw_only=True):
    """One entry of /sys/class/mdev_bus."""

    name: str  # a PCI address, or a driver's own name ("mtty")
    address: PciAddress | None = None
    types: tuple[MdevType, ...] = ()


class Mdev(Struct, frozen=True, kw_only=True):
    """One entry of /sys/bus/mdev/devices."""

    uuid: str
    parent: str = ""
    type: str = ""
    group: int | None = None


def remove_by_hand(uuid: str) -> str:
    """What to type about a mediated device that nobody has open."""
    return f"when nothing needs it: qlaunch vgpu remove {uuid}"


class Sriov(Struct, frozen=True, kw_only=True):
    """How a physical function numbers its virtual ones (sriov_* in its directory)."""

    address: PciAddress
    offset: int = 0  # from its own routing id to the first one's
    stride: int = 1
    vf_id: PciId | None = None
    vfio_driver: str = "vfio-pci"  # what modules.alias names for them
    vfio_module: str = ""  # see PciDevice


class NvidiaType(Struct, frozen=True):
    """One line of creatable_vgpu_types."""

    number: int
    name: str
    memory: int | None = None  # bytes, by its name


class NvidiaVf(Struct, frozen=True, kw_only=True):
    """A virtual function with NVIDIA's vendor files (directory `nvidia`, kernel 6.8 and newer)."""

    address: PciAddress
    current: int = 0  # 0: no vGPU
    creatable: tuple[NvidiaType, ...] = ()  # what can be made now


class VgpuFacts(Struct, frozen=True, kw_only=True):
    """The whole; `parameters` are those of modules that decide about it ("i915.enable_gvt")."""

    parents: tuple[MdevParent, ...] = ()
    mdevs: tuple[Mdev, ...] = ()
    sriov: tuple[Sriov, ...] = ()
    nvidia: tuple[NvidiaVf, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()  # loaded, of those that matter here
    claims: dict[str, str] = field(default_factory=dict)  # device → the machine that has it
    left: dict[str, str] = field(default_factory=dict)  # device → the dead machine that had it

    def parent(self, name: str) -> MdevParent | None:
        """The parent of that name."""
        return next((p for p in self.parents if p.name == name), None)

    def mdev(self, uuid: str) -> Mdev | None:
        """The mediated device of that UUID, in lower case as sysfs has it."""
        return next((m for m in self.mdevs if m.uuid == uuid), None)
