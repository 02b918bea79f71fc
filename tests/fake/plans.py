"""Plans from a few lines of TOML and a host made of the parts a test is about."""

from __future__ import annotations

from typing import Any

import msgspec
import tomli

from qlaunch.facts.model import (
    Cpu,
    Holder,
    HostFacts,
    HostFile,
    Iommu,
    Kvm,
    PciDevice,
    QemuBinary,
)
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.profile.profile import Profile
from qlaunch.profile.tables import build
from qlaunch.values import PciAddress, PciId
from tests.fake.snapshots import USER as SNAPSHOT_USER

USER = SNAPSHOT_USER
ROOT = msgspec.structs.replace(USER, root=True, asked=1000)
QEMU = QemuBinary(
    path="/usr/bin/qemu-system-x86_64", version=(8, 2, 0),
    machines=("q35", "pc", "pc-q35-7.2", "pc-q35-8.2"),
    devices=(
        "ahci", "lsi53c895a", "megasas", "nvme", "pvscsi", "scsi-cd", "scsi-hd", "usb-bot",
        "usb-storage", "virtio-scsi-pci",
        "vfio-pci", "virtio-blk-pci", "virtio-net-pci", "ide-hd", "ide-cd", "e1000", "e1000e",
        "VGA", "pcie-root-port", "ioh3420", "ich9-intel-hda", "hda-duplex",
        "tpm-crb", "tpm-tis", "vhost-user-fs-pci", "virtio-9p-pci",
        "qemu-xhci", "usb-hub", "pci-bridge", "usb-tablet", "virtio-tablet-pci",
        "virtio-serial-pci", "virtserialport",
        "pci-serial", "virtio-rng-pci", "i6300esb", "pvpanic-pci", "vhost-vsock-pci",
        "ivshmem-plain",
    ),
    displays=("none", "gtk", "spice"), accels=("kvm", "tcg"),
)  # fmt: skip
VGA, AUDIO, NET, SATA, BRIDGE = 0x030000, 0x040300, 0x020000, 0x010601, 0x060400


def device(
    address: str, ident: str = "10de:1200", cls: int = VGA, *, group: int | None = 1,
    driver: str | None = "nouveau", holders: tuple[Holder, ...] = (), **more: Any,
) -> PciDevice:
    """A PCI function in group 1, by default a card on nouveau that nobody uses."""
    return PciDevice(
        address=PciAddress(f"0000:{address}"), id=PciId(ident), class_code=cls, iommu_group=group,
        driver=driver, holders=holders, header_type=1 if cls == BRIDGE else 0, **more,
    )


def host(*devices: PciDevice, **more: Any) -> HostFacts:
    """A host on which everything works, with a second card of its own and these devices."""
    own = device("00:02.0", "8086:0412", driver="i915", group=90)
    facts = HostFacts(
        pci=(own, *devices), invoker=ROOT, qemu=QEMU, kvm=Kvm(present=True, usable=True),
        iommu=Iommu(enabled=True, kind="intel", groups=9, interrupt_remapping=True),
        cpus=tuple(Cpu(id=n, online=n != 3) for n in range(4)),
        files=(HostFile(path="/dev/kvm", kind="char"),), links=(), tun=True, vhost_net=True,
    )
    return msgspec.structs.replace(facts, **more)


def profile(text: str) -> Profile:
    """A profile without a file; checked as msgspec checks it, and not further."""
    return build({"name": "vm", **tomli.loads(text)})


def planned(text: str, facts: HostFacts | None = None) -> Plan:
    """The plan of these lines on this host."""
    return make_plan(profile(text), facts or host())


def said(plan: Plan, severity: str = "error") -> list[str]:
    """Messages of one severity, with their keys."""
    return [f"{p.where}: {p.message}" for p in plan.problems if p.severity == severity]
