"""Desktops that the shipped profiles are written for: a tower with two cards of which both can go
to guests, and a machine of 2012 with a Radeon HD 7870 and an md array.
"""

from __future__ import annotations

from pathlib import Path

from tests.fake.topologies import two_ccds
from tests.fake.trees import Tree


def tower(root: Path) -> Tree:
    """Sixteen cores in two CCDs, 64 GiB; a GeForce RTX 4090, an older card, the CPU's own GPU."""
    tree = Tree(root)
    two_ccds(tree)
    tree.node(0, "0-31", 65536, 48000)
    _host(tree, "tower")
    own = tree.pci("0000:0d:00.0", "1002:164e", 0x030000, driver="amdgpu", group=20,
                   header_type=0x80, boot_vga="1")
    tree.drm(own, 0, 128)
    _card(tree, "01:00", "10de:2684", "10de:22ba", driver="nouveau", group=12, card=1)
    _card(tree, "0a:00", "10de:1e84", "10de:10f8", driver="nouveau", group=14, card=2)
    tree.pci("0000:0a:00.2", "10de:1ad8", 0x0C0330, driver="xhci_hcd", group=14, header_type=0x80)
    tree.pci("0000:0a:00.3", "10de:1ad9", 0x0C8000, driver="nvidia-gpu", group=14,
             header_type=0x80)
    tree.pci("0000:0c:00.3", "1022:149c", 0x0C0330, driver="xhci_hcd", group=16, header_type=0x80)
    for name in ("pulse/native", "pipewire-0"):
        tree.write(f"run/user/1000/{name}")
    return tree


def hd7870(root: Path) -> Tree:
    """Six cores without SMT; the card for the guest beside the chipset's own graphics."""
    tree = Tree(root)
    tree.cpus("0-5", flags="svm npt")
    for cpu in range(6):
        tree.cpu(cpu, cpu, str(cpu), l3="0-5", l3_kib=6144, max_khz=3200000)
    tree.node(0, "0-5", 8192, 6000)
    _host(tree, "hd7870")
    own = tree.pci("0000:00:01.0", "1002:9715", 0x030000, driver="radeon", group=1, boot_vga="1")
    tree.drm(own, 0, 128)
    _card(tree, "01:00", "1002:6818", "1002:aab0", driver="radeon", group=9, card=1)
    tree.disk("sys/devices/virtual", "md0", "9:0", 1953525168)
    nic = tree.pci("0000:03:00.0", "10ec:8168", 0x020000, driver="r8169", group=10)
    tree.link_up("eth0", 2, below=nic)
    tree.link_up("xenbr0", 3)
    tree.write("sys/devices/virtual/net/xenbr0/bridge/bridge_id", "8000.525400000001")
    tree.enslave("eth0", "xenbr0")
    tree.route("xenbr0")
    return tree


def _card(
    tree: Tree, slot: str, ident: str, audio: str, *, driver: str, group: int, card: int
) -> None:
    vga = tree.pci(f"0000:{slot}.0", ident, 0x030000, driver=driver, group=group,
                   header_type=0x80, reset="bus", boot_vga="0")
    sound = tree.pci(f"0000:{slot}.1", audio, 0x040300, driver="snd_hda_intel", group=group,
                     header_type=0x80)
    tree.drm(vga, card, 128 + card)
    tree.sound(sound, card)


def _host(tree: Tree, name: str) -> None:
    tree.write("proc/sys/kernel/hostname", name)
    tree.write("proc/sys/kernel/osrelease", "6.1.0-28-amd64")
    tree.write("proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz-6.1.0-28-amd64 root=/dev/nvme0n1p2")
    for module in ("vfio", "vfio_pci", "kvm", "kvm_amd", "tun", "bridge"):
        tree.append("proc/modules", f"{module} 16384 0 - Live 0x0000000000000000")
    tree.write("sys/firmware/acpi/tables/IVRS", b"IVRS")
    tree.write("sys/class/iommu/ivhd0/amd-iommu/features", "80000853")
    tree.write("proc/interrupts", "   0:  44  IR-IO-APIC    2-edge      timer")
    tree.write("dev/kvm")
    tree.write("dev/vhost-net")
    tree.mount("259:2", "/", "/dev/nvme0n1p2")
