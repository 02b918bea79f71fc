"""Mediated devices, virtual functions and NVIDIA's vGPU types, as sysfs shows them.

Sources: Documentation/ABI/testing/sysfs-bus-vfio-mdev and sysfs-bus-pci; what a type can do stands
in its `description`, whose form is each driver's own (drivers/gpu/drm/i915/gvt/kvmgt.c, NVIDIA's
vGPU guide, samples/vfio-mdev). NVIDIA's vendor files are told in its guide for kernels from 6.8.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from qlaunch.facts.pci import Variants, match_variant, read_variants
from qlaunch.facts.tree import base_of, link_name, list_names, read_attribute, read_number
from qlaunch.facts.vgpu_model import (
    Mdev,
    MdevParent,
    MdevType,
    NvidiaType,
    NvidiaVf,
    Sriov,
    VgpuFacts,
)
from qlaunch.values import PciAddress, PciId, parse_pci_address, parse_pci_id

PARAMETERS = ("i915.enable_gvt", "i915.enable_guc", "kvm.ignore_msrs")
MODULES = (
    "i915", "kvmgt", "mdev", "vfio_mdev", "vfio_iommu_type1", "xe", "nouveau", "nvidia",
    "nvidia_vgpu_vfio",
)  # fmt: skip
_MIB = 1 << 20
# NVIDIA RTX6000-Ada-8Q: 8 GiB; 0 is half a GiB. The letter is the series (A, B, C, Q).
_NVIDIA_MEMORY = re.compile(r"-([0-9]{1,3})[A-Z][0-9]?$")


def read_vgpu(root: Path = Path("/")) -> VgpuFacts:
    """All of it; what this kernel does not have is empty."""
    base = base_of(root)
    devices = f"{base}/sys/bus/pci/devices"
    names = list_names(devices)
    functions = [name for name in names if Path(f"{devices}/{name}/sriov_totalvfs").exists()]
    release = read_attribute(f"{base}/proc/sys/kernel/osrelease") or ""
    variants = read_variants(root, release) if release and functions else ()
    claims, left = read_claims(base)
    return VgpuFacts(
        parents=tuple(_parent(base, name) for name in list_names(f"{base}/sys/class/mdev_bus")),
        mdevs=tuple(_mdev(base, name) for name in list_names(f"{base}/sys/bus/mdev/devices")),
        sriov=tuple(s for name in functions if (s := _sriov(base, variants, name)) is not None),
        nvidia=tuple(v for name in names if (v := _nvidia(f"{devices}/{name}", name)) is not None),
        parameters=_parameters(base),
        claims=claims, left=left,
        modules=tuple(m for m in MODULES if Path(f"{base}/sys/module/{m}").exists()),
    )


def _parameters(base: str) -> dict[str, str]:
    found = {}
    for name in PARAMETERS:
        module, _, key = name.partition(".")
        text = read_attribute(f"{base}/sys/module/{module}/parameters/{key}")
        if text is not None:
            found[name] = text
    return found


def read_claims(base: str) -> tuple[dict[str, str], dict[str, str]]:
    """Devices that machines have claimed (run/claims.py), and those that dead ones left: the file
    is locked while one lives, and goes with a claim that is given up. Only root can look."""
    held: dict[str, str] = {}
    left: dict[str, str] = {}
    directory = f"{base}/run/qlaunch/.claims"
    for name in list_names(directory):
        try:
            fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if owner := _owner(fd):
                left[name] = owner
        except BlockingIOError:
            held[name] = _owner(fd) or "?"
        finally:
            os.close(fd)
    return held, left


def _owner(fd: int) -> str:
    owner = re.search(rb'"name":"([^"\\]*)"', os.pread(fd, 4096, 0))
    return owner[1].decode(errors="replace") if owner else ""


def _parent(base: str, name: str) -> MdevParent:
    path = f"{base}/sys/class/mdev_bus/{name}/mdev_supported_types"
    try:
        address: PciAddress | None = parse_pci_address(name)
    except ValueError:
        address = None
    types = tuple(_type(f"{path}/{entry}", entry) for entry in list_names(path))
    return MdevParent(name=name, address=address, types=types)


def _type(path: str, name: str) -> MdevType:
    said = read_attribute(f"{path}/description") or ""
    label = read_attribute(f"{path}/name") or name
    resolution = _find(r"resolution[=:]?\s*([0-9]+)x([0-9]+)", said) or _find(
        r"([0-9]+)x([0-9]+) framebuffer", said
    )
    heads = _find(r"num_heads=([0-9]+)", said)
    return MdevType(
        id=name, name=label, api=read_attribute(f"{path}/device_api") or "",
        available=read_number(f"{path}/available_instances"), description=said,
        memory=_memory(said, label), heads=heads[0] if heads else (1 if resolution else None),
        width=resolution[0] if resolution else None,
        height=resolution[1] if resolution else None,
    )


def _memory(said: str, name: str) -> int | None:
    """Bytes: i915's two parts of graphics memory together; NVIDIA's frame buffer; mbochs's."""
    parts = [int(n) for n in re.findall(r"(?:low|high)_gm_size:\s*([0-9]+)MB", said)]
    if parts:
        return sum(parts) * _MIB
    found = _find(r"framebuffer=([0-9]+)M", said) or _find(r"([0-9]+) MB video memory", said)
    return found[0] * _MIB if found else nvidia_memory(name)


def nvidia_memory(name: str) -> int | None:
    """Bytes of an NVIDIA type's frame buffer, from its name; None for any other name."""
    found = _NVIDIA_MEMORY.search(name)
    if found is None:
        return None
    return (int(found[1]) << 30) or 1 << 29


def _find(pattern: str, text: str) -> tuple[int, ...] | None:
    found = re.search(pattern, text)
    return tuple(int(group) for group in found.groups()) if found else None


def _mdev(base: str, uuid: str) -> Mdev:
    path = f"{base}/sys/bus/mdev/devices/{uuid}"
    group = link_name(f"{path}/iommu_group")
    return Mdev(
        uuid=uuid, parent=_above(path), type=link_name(f"{path}/mdev_type") or "",
        group=int(group) if group and group.isdigit() else None,
    )


def _above(path: str) -> str:
    """The name of the directory that a device's own is in: its parent."""
    try:
        return Path(path).resolve(strict=True).parent.name
    except OSError:
        return ""


def _sriov(base: str, variants: Variants, name: str) -> Sriov | None:
    path = f"{base}/sys/bus/pci/devices/{name}"
    if not read_number(f"{path}/sriov_totalvfs"):
        return None
    vendor = read_number(f"{path}/vendor", base=0) or 0
    device = read_number(f"{path}/sriov_vf_device", base=16)
    variant = match_variant(base, variants, _vf_alias(path, device) if variants else "")
    return Sriov(
        address=PciAddress(name), offset=read_number(f"{path}/sriov_offset") or 0,
        stride=read_number(f"{path}/sriov_stride") or 0,
        vf_id=_pci_id(vendor, device),
        vfio_driver=variant.driver, vfio_module=variant.module,
    )


def _pci_id(vendor: int, device: int | None) -> PciId | None:
    """None when a number is missing or has more than four digits."""
    try:
        return parse_pci_id(f"{vendor:04x}:{device:04x}") if device is not None else None
    except ValueError:
        return None


def _vf_alias(path: str, device: int | None) -> str:
    """The modalias that virtual functions will have: the physical one's, with their device id."""
    own = read_attribute(f"{path}/modalias") or ""
    return re.sub("d[0-9A-F]{8}sv", f"d{device or 0:08X}sv", own, count=1)


def _nvidia(path: str, name: str) -> NvidiaVf | None:
    current = read_number(f"{path}/nvidia/current_vgpu_type")
    if current is None:
        return None
    lines = (read_attribute(f"{path}/nvidia/creatable_vgpu_types") or "").splitlines()
    return NvidiaVf(
        address=PciAddress(name), current=current,
        creatable=tuple(t for line in lines if (t := _creatable(line)) is not None),
    )


def _creatable(line: str) -> NvidiaType | None:
    """A line of "ID : NAME"; the heading has no number."""
    number, _, name = line.partition(":")
    if not number.strip().isdigit():
        return None
    return NvidiaType(int(number), name.strip(), nvidia_memory(name.strip()))
