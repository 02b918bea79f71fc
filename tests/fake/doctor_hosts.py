"""Recorded machines for `doctor`: a healthy desktop, and what can be wrong with one.

Each is the healthy one with what its fault changes in the files that the kernel, the firmware or
the distribution would have written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from qlaunch.facts.health_model import ExaminedFacts
from qlaunch.facts.model import HostFacts, Wanted
from qlaunch.facts.probe import read_facts
from tests.fake.snapshots import USER, fx8120, qemu72
from tests.fake.trees import Tree
from tests.fake.vgpu_hosts import gvt

RELEASE = "6.1.0-28-amd64"
MODULES = f"lib/modules/{RELEASE}"
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
GRUB = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"'


def healthy(root: Path) -> Tree:
    """The FX-8120 with Debian 12, everything on."""
    tree = fx8120(root)
    furnish(tree, "kvm_amd")
    tree.write("sys/module/kvm_amd/parameters/nested", "1")
    tree.write("dev/net/tun")
    return tree


def furnish(tree: Tree, kvm: str) -> None:
    """What Debian 12 on a desktop has beside the devices."""
    tree.write("etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian')
    tree.write("etc/default/grub", GRUB)
    names = (
        "vfio/vfio", "vfio/pci/vfio-pci", "vfio/vfio_iommu_type1", "net/tun", "vhost/vhost_net",
    )  # fmt: skip
    tree.write(f"{MODULES}/modules.dep", "\n".join(f"kernel/drivers/{n}.ko:" for n in names)
               + f"\nkernel/arch/x86/kvm/{kvm.replace('_', '-')}.ko: kernel/arch/x86/kvm/kvm.ko"
               + "\nkernel/arch/x86/kvm/kvm.ko:")
    tree.write(f"{MODULES}/modules.builtin", "kernel/fs/binfmt_script.ko")
    tree.write("sys/module/kvm/parameters/ignore_msrs", "Y")
    tree.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    tree.write("sys/kernel/security/lockdown", "[none] integrity confidentiality")
    tree.write(SECURE_BOOT, b"\6\0\0\0\0")
    tree.write(
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max locked memory         unlimited            unlimited            bytes     ",
    )
    for cpu in range(8):
        policy = f"sys/devices/system/cpu/cpufreq/policy{cpu}"
        tree.write(f"{policy}/scaling_governor", "schedutil")
        tree.write(f"{policy}/scaling_driver", "acpi-cpufreq")
        tree.write(f"{policy}/affected_cpus", str(cpu))
    tree.write("proc/fb", "0 radeondrmfb")
    tree.write(
        "proc/iomem",
        "00000000-00000000 : PCI Bus 0000:02\n"
        "  00000000-00000000 : 0000:02:00.0\n"
        "    00000000-00000000 : radeon",
    )
    tree.write("sys/class/dmi/id/chassis_type", "3")
    tree.write("run/systemd/seats/seat0", "ACTIVE=2\nACTIVE_UID=1000")
    tree.write("run/systemd/sessions/2", "USER=user\nTYPE=x11")
    for program in ("bin/qemu-img", "bin/swtpm", "lib/qemu/virtiofsd", "bin/passt", "sbin/nft",
                    "sbin/dnsmasq"):
        tree.write(f"usr/{program}", "#!/bin/sh").chmod(0o755)


def _no_groups(tree: Tree) -> None:
    shutil.rmtree(tree.root / "sys/kernel/iommu_groups")
    shutil.rmtree(tree.root / "sys/class/iommu")
    for link in (tree.root / "sys/bus/pci/devices").glob("*/iommu_group"):
        link.unlink()
    tree.write("proc/interrupts", "   0:  44  IO-APIC    2-edge      timer")


def iommu_off_in_firmware(root: Path) -> Tree:
    """The BIOS setup has it off: no IVRS table."""
    tree = healthy(root)
    _no_groups(tree)
    (root / "sys/firmware/acpi/tables/IVRS").unlink()
    return tree


def iommu_off_on_kernel_line(root: Path) -> Tree:
    """amd_iommu=off, once typed and forgotten."""
    tree = healthy(root)
    _no_groups(tree)
    tree.write("proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 quiet amd_iommu=off")
    return tree


def no_kvm(root: Path) -> Tree:
    """SVM is off in the BIOS setup."""
    tree = healthy(root)
    tree.cpus("0-7", flags="npt")
    (root / "dev/kvm").unlink()
    shutil.rmtree(root / "sys/module/kvm_amd")
    return tree


def optimus(root: Path) -> Tree:
    """A laptop: Intel drives the panel, NVIDIA's card has no outputs."""
    tree = gvt(root)
    furnish(tree, "kvm_intel")
    tree.write("sys/module/kvm_intel/parameters/nested", "N")
    tree.write("sys/class/dmi/id/chassis_type", "10")
    tree.write("proc/fb", "0 i915drmfb")
    tree.pci("0000:01:00.0", "10de:1c8c", 0x030200, driver="nvidia", group=2, reset="bus",
             subsystem="17aa:3999")
    return tree


def locked_down(root: Path) -> Tree:
    """Secure Boot as Fedora and Ubuntu have it."""
    tree = healthy(root)
    tree.write(SECURE_BOOT, b"\6\0\0\0\1")
    tree.write("sys/kernel/security/lockdown", "none [integrity] confidentiality")
    return tree


def docker(root: Path) -> Tree:
    """Docker with its bridge; br_netfilter hands it the frames of every other bridge."""
    tree = healthy(root)
    tree.link_up("docker0", 4, mac="02:42:00:00:00:01")
    tree.directory("sys/class/net/docker0/bridge")
    tree.directory("sys/fs/cgroup/system.slice/docker.service")
    tree.write("proc/sys/net/bridge/bridge-nf-call-iptables", "1")
    return tree


def simpledrm(root: Path) -> Tree:
    """No driver for the boot card was loaded: the firmware's picture is still in its memory."""
    tree = healthy(root)
    tree.write("proc/fb", "0 simpledrmdrmfb")
    tree.write(
        "proc/iomem",
        "00000000-00000000 : PCI Bus 0000:02\n"
        "  00000000-00000000 : 0000:02:00.0\n"
        "    00000000-00000000 : BOOTFB\n"
        "      00000000-00000000 : simple-framebuffer\n"
        "00000000-00000000 : PCI Bus 0000:03\n"
        "  00000000-00000000 : 0000:03:00.0",
    )
    return tree


HOSTS: dict[str, Callable[[Path], Tree]] = {
    make.__name__: make for make in (
        healthy, iommu_off_in_firmware, iommu_off_on_kernel_line, no_kvm, optimus, locked_down,
        docker, simpledrm,
    )
}


def examined(tree: Tree, *, root: bool = True, qemu: bool = True) -> HostFacts:
    """What a doctor that root asks reads there; QEMU is Debian's, or missing."""
    facts = read_facts(Wanted(health=True, holders=True, qemu=None), tree.root)
    assert isinstance(facts, ExaminedFacts)
    asker = replace(USER, root=root, asked=1000 if root else None)
    return replace(facts, invoker=asker, qemu=qemu72() if qemu else None)
