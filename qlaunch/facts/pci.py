"""The PCI functions of the host (Documentation/ABI/testing/sysfs-bus-pci).

Read before every launch, so it is spare: one directory listing tells which attributes exist,
`modalias` holds the ids, and everything is opened relative to the function's directory. Nothing
here wakes a sleeping device: `config` is left alone in D3cold, because reading it resumes the
device (pci_config_pm_runtime_get). And nothing here sleeps with an unbind or reset that hangs:
`driver_override`, `sriov_numvfs` and in some kernels `uevent` (uevent_show, 6.1.105 for one) take
the device's lock. The first is read where it is wanted (overrides.py); functions are counted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from qlaunch.facts.model import PciDevice
from qlaunch.facts.nodes import read_nodes
from qlaunch.facts.tree import (
    base_of,
    link_name,
    list_names,
    read_attribute,
    read_lines,
    read_number,
)
from qlaunch.values import PciAddress, PciId, is_uuid, parse_pci_address, parse_pci_id

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PCI_HEADER_TYPE = 0x0E  # include/uapi/linux/pci_regs.h
_ALIAS = b"alias vfio_pci:"

Variants = tuple[tuple[str, str], ...]  # (modalias pattern without its bus, module)
Nodes = dict[str, tuple[str, ...]]


class Variant(NamedTuple):
    """A VFIO driver and, unless it is vfio-pci, its module."""

    driver: str = "vfio-pci"
    module: str = ""


def read_pci(root: Path = Path("/"), *, release: str = "") -> tuple[PciDevice, ...]:
    """Every function, sorted by address. One that vanishes while it is read is left out.

    With a kernel `release`, `vfio_driver` is looked up in that kernel's modules.alias; without,
    it is "vfio-pci".
    """
    base = base_of(root)
    path = f"{base}/sys/bus/pci/devices"
    slots = _read_slots(base)
    variants = read_variants(root, release) if release else ()
    nodes = read_nodes(base)
    try:
        bus = os.open(path, _DIRECTORY)
    except OSError:
        return ()
    try:
        found = [_read_device(base, bus, name, slots, variants, nodes) for name in list_names(bus)]
    finally:
        os.close(bus)
    return tuple(device for device in found if device is not None)


def _read_slots(base: str) -> dict[str, str]:
    """`0000:03:00` → physical slot name, from /sys/bus/pci/slots/NAME/address."""
    path = f"{base}/sys/bus/pci/slots"
    return {
        address: name
        for name in list_names(path)
        if (address := read_attribute(f"{path}/{name}/address"))
    }


def _read_device(
    base: str, bus: int, name: str, slots: dict[str, str], variants: Variants, nodes: Nodes
) -> PciDevice | None:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=bus)
    except OSError:
        return None
    try:
        return _Function(base, fd, name).read(slots, variants, nodes)
    finally:
        os.close(fd)


class _Function:
    """One function's open directory; not for keeping."""

    def __init__(self, base: str, fd: int, name: str) -> None:
        self.base, self.fd, self.name = base, fd, name
        self.entries = list_names(fd)
        self.has = frozenset(self.entries)
        self.modalias = self._text("modalias") or ""

    def read(
        self, slots: dict[str, str], variants: Variants, nodes: Nodes
    ) -> PciDevice | None:
        """None when there is no vendor and device id: the function has gone."""
        ident = self._id(5, "vendor", "device")
        if ident is None:
            return None
        driver = self._link("driver")
        power = self._text("power_state")
        group = self._link("iommu_group")
        physfn = self._link("physfn")
        variant = match_variant(self.base, variants, self.modalias)
        return PciDevice(
            address=PciAddress(self.name),
            id=ident,
            subsystem=self._id(24, "subsystem_vendor", "subsystem_device"),
            class_code=self._class_code(),
            revision=self._number("revision", 0) or 0,
            header_type=None if power == "D3cold" else self._header_type(),
            driver=driver,
            iommu_group=int(group) if group and group.isdigit() else None,
            reset_methods=self._reset_methods(),
            numa_node=self._numa_node(),
            sriov_total=self._number("sriov_totalvfs"),
            sriov_count=self._functions(),
            physfn=_address(physfn),
            boot_vga=self._boot_vga(),
            power_state=power,
            slot=slots.get(self.name.partition(".")[0]),
            modalias=self.modalias,
            mdevs=tuple(name for name in self.entries if is_uuid(name)),
            nodes=self._nodes(driver, nodes.get(self.name, ())),
            vfio_driver=variant.driver,
            vfio_module=variant.module,
        )

    def _text(self, name: str) -> str | None:
        return read_attribute(name, self.fd) if name in self.has else None

    def _number(self, name: str, base: int = 10) -> int | None:
        return read_number(name, self.fd, base=base) if name in self.has else None

    def _link(self, name: str) -> str | None:
        return link_name(name, self.fd) if name in self.has else None

    def _id(self, at: int, vendor: str, device: str) -> PciId | None:
        """From the modalias, or from the two attributes; 0000:0000 is no id."""
        text = ""
        if self._is_whole():
            gap = 9 if at == 5 else 10  # v00001002d0000679A, sv…sd…
            text = f"{self.modalias[at + 4:at + 8]}:{self.modalias[at + gap + 4:at + gap + 8]}"
        else:
            first, second = self._number(vendor, 0), self._number(device, 0)
            if first is None or second is None:
                return None
            text = f"{first:04x}:{second:04x}"
        try:
            return parse_pci_id(text) if text != "0000:0000" else None
        except ValueError:
            return None

    def _is_whole(self) -> bool:
        """pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02X (pci-sysfs.c modalias_show)."""
        return len(self.modalias) == 53 and self.modalias.startswith("pci:v")

    def _class_code(self) -> int:
        text = self.modalias
        try:
            return (
                int(text[44:46] + text[48:50] + text[51:53], 16) if self._is_whole()
                else self._number("class", 0) or 0
            )
        except ValueError:
            return 0

    def _functions(self) -> int | None:
        """Virtual functions that are on, by their links."""
        if "sriov_totalvfs" not in self.has:
            return None
        return sum(name.startswith("virtfn") for name in self.entries)

    def _header_type(self) -> int | None:
        """The layout without its multifunction bit; None when the device does not answer."""
        try:
            config = os.open("config", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return None
        try:
            byte = os.pread(config, 1, _PCI_HEADER_TYPE)
        except OSError:
            return None
        finally:
            os.close(config)
        return byte[0] & 0x7F if byte and byte[0] != 0xFF else None

    def _reset_methods(self) -> tuple[str, ...] | None:
        text = self._text("reset_method")
        return tuple(text.split()) if text is not None else None

    def _numa_node(self) -> int | None:
        node = self._number("numa_node")
        return node if node is not None and node >= 0 else None

    def _boot_vga(self) -> bool | None:
        text = self._text("boot_vga")
        return text == "1" if text else None

    def _nodes(self, driver: str | None, nodes: tuple[str, ...]) -> tuple[str, ...]:
        if driver != "nvidia":
            return nodes
        # NVIDIA's nodes hang on no sysfs device; its own /proc tree gives their minor number
        for line in read_lines(f"{self.base}/proc/driver/nvidia/gpus/{self.name}/information"):
            key, _, value = line.partition(":")
            if key.strip() == "Device Minor" and value.strip().isdigit():
                return (*nodes, f"nvidia{value.strip()}")
        return nodes


def read_variants(root: Path, release: str) -> Variants:
    """The `alias vfio_pci:PATTERN MODULE` lines of modules.alias but vfio_pci's own.

    These are drivers that bind by driver_override only (PCI_DRIVER_OVERRIDE_DEVICE_VFIO in
    include/linux/pci.h). The file has megabytes; it is searched, not split.
    """
    import mmap  # searching the page cache in place takes a third of the time of reading it

    path = f"{base_of(root)}/lib/modules/{release}/modules.alias"
    found = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):  # a release that is no path
        return ()
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as text:
            at = text.find(_ALIAS)
            while at >= 0:
                text.seek(at + len(_ALIAS))
                words = text.readline().decode(errors="replace").split()
                if len(words) == 2 and words[1] != "vfio_pci":
                    found.append((words[0], words[1]))
                at = text.find(_ALIAS, at + len(_ALIAS))
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return ()
    finally:
        os.close(fd)
    return tuple(found)


def match_variant(base: str, variants: Variants, modalias: str) -> Variant:
    """The driver of the matching pattern with the fewest wildcards, or vfio-pci.

    modules.alias names its module. The driver may have another name (xe_vfio_pci's is
    "xe-vfio-pci"), which shows once the module is loaded; until then the module's stands for it.
    """
    if not variants or not modalias.startswith("pci:"):
        return Variant()
    from fnmatch import fnmatchcase

    name = modalias.removeprefix("pci:")
    fitting = [(p.count("*"), module) for p, module in variants if fnmatchcase(name, p)]
    if not fitting:
        return Variant()
    module = min(fitting)[1]
    for entry in list_names(f"{base}/sys/module/{module}/drivers"):  # "pci:mlx5_vfio_pci"
        if entry.startswith("pci:"):
            return Variant(entry.removeprefix("pci:"), module)
    return Variant(module, module)


def _address(name: str | None) -> PciAddress | None:
    """What a link to a device says, when it leads to one."""
    try:
        return parse_pci_address(name) if name else None
    except ValueError:
        return None
