"""The roots of five distributions, as far as the setup of a host looks at them.

Texts are as the distributions ship them, shortened; programs are there by name, and those whose
text is looked at say what the real ones say.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.fake.trees import Tree

MACHINE_ID = "0123456789abcdef0123456789abcdef"
GRUB_DEBIAN = """\
# If you change this file, run 'update-grub' afterwards to update
# /boot/grub/grub.cfg.

GRUB_DEFAULT=0
GRUB_TIMEOUT=5
GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"
GRUB_CMDLINE_LINUX=""
"""
GRUB_FEDORA = """\
GRUB_TIMEOUT=5
GRUB_CMDLINE_LINUX="rhgb quiet"
GRUB_ENABLE_BLSCFG=true"""  # without a newline at its end
ALIASES = """\
# Aliases extracted from modules themselves.
alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau
alias pci:v000010DEd*sv*sd*bc03sc*i* nvidia
alias pci:v00008086d*sv*sd*bc03sc*i* i915
alias pci:v000010DEd*sv*sd*bc04sc03i00* snd_hda_intel
alias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci
alias usb:v05ACp* appledisplay
"""


def _common(tree: Tree, vendor: str, ident: str, release: str, *programs: str) -> None:
    tree.write("etc/os-release", ident)
    tree.write("etc/machine-id", MACHINE_ID)
    tree.write("etc/passwd", "root:x:0:0::/root:/bin/bash\nanna:x:1000:1000::/home/anna:/bin/sh")
    tree.write("proc/cpuinfo", f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu vmx")
    tree.write("proc/meminfo", "MemTotal:       33554432 kB\nHugepagesize:       2048 kB")
    tree.write("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=UUID=1-2 ro quiet")
    tree.write("proc/sys/kernel/osrelease", release)
    tree.write(f"lib/modules/{release}/modules.alias", ALIASES.rstrip())
    tree.write(f"lib/modules/{release}/modules.builtin", "kernel/drivers/tty/serial/8250/8250.ko")
    for directory in ("etc/modprobe.d", "etc/modules-load.d", "etc/sysctl.d", "etc/udev/rules.d",
                      "etc/security/limits.d", "var/lib"):
        tree.directory(directory)
    tree.directory("run/systemd/system")
    tree.write("run/udev/control")
    for program in ("udevadm", "systemctl", *programs):
        tree.write(f"usr/bin/{program}", "#!/bin/sh")
    devices(tree)


def devices(tree: Tree) -> None:
    """The host's own card, the guest's with its sound, twin controllers, a bridge, a disk."""
    tree.pci("0000:00:01.0", "8086:0c01", 0x060400, driver="pcieport", group=1, header_type=1)
    tree.pci("0000:00:02.0", "8086:0412", 0x030000, driver="i915", group=2, boot_vga="1")
    tree.pci("0000:01:00.0", "10de:1200", 0x030000, driver="nouveau", group=1, boot_vga="0")
    tree.pci("0000:01:00.1", "10de:0e0c", 0x040300, driver="snd_hda_intel", group=1)
    for number in (3, 4):
        tree.pci(f"0000:0{number}:00.0", "1912:0014", 0x0C0330, driver="xhci_hcd", group=number)
    sata = tree.pci("0000:05:00.0", "1002:4391", 0x010601, driver="ahci", group=5)
    tree.disk(f"{sata}/ata1/host0/target0:0:0/0:0:0:0", "sda", "8:0", 100, {"sda1": ("8:1", 10)})
    tree.mount("8:1", "/", "/dev/sda1")


def _grub_scripts(tree: Tree, *, dropins: bool) -> None:
    more = "for x in ${sysconfdir}/default/grub.d/*.cfg ; do . \"${x}\" ; done" if dropins else ""
    tree.write("usr/sbin/grub-mkconfig", f". ${{sysconfdir}}/default/grub\n{more}")


def debian(tree: Tree) -> None:
    """Debian 12: GRUB, which reads drop-ins, but has no directory of them; initramfs-tools."""
    _common(tree, "GenuineIntel", 'ID=debian\nVERSION_ID="12"', "6.1.0-18-amd64",
            "update-grub", "update-initramfs", "mkinitramfs")
    _grub_scripts(tree, dropins=True)
    tree.write("etc/default/grub", GRUB_DEBIAN.encode())
    tree.write("etc/initramfs-tools/modules", "# List of modules that you want to include")
    tree.write("boot/vmlinuz-6.1.0-18-amd64")


def ubuntu(tree: Tree) -> None:
    """Ubuntu 22.04 on AMD: vfio-pci is built into the kernel."""
    release = "5.15.0-91-generic"
    _common(tree, "AuthenticAMD", "ID=ubuntu\nID_LIKE=debian", release,
            "update-grub", "update-initramfs", "mkinitramfs")
    _grub_scripts(tree, dropins=True)
    tree.write(f"lib/modules/{release}/modules.builtin",
               "kernel/drivers/vfio/vfio_iommu_type1.ko\nkernel/drivers/vfio/pci/vfio-pci.ko")
    tree.write("etc/default/grub", GRUB_DEBIAN.encode())
    tree.write("etc/default/grub.d/50-cloudimg-settings.cfg",
               'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1"')
    tree.write("etc/initramfs-tools/modules", "# List of modules that you want to include")


def fedora(tree: Tree) -> None:
    """Fedora 40: GRUB with loader entries, which grubby edits; dracut."""
    _common(tree, "GenuineIntel", "ID=fedora\nVERSION_ID=40", "6.8.5-301.fc40.x86_64",
            "grubby", "dracut", "grub2-mkconfig", "kernel-install")
    tree.write("etc/default/grub", GRUB_FEDORA.encode())
    for release in ("6.8.5-301.fc40.x86_64", "0-rescue"):
        tree.write(f"boot/loader/entries/{MACHINE_ID}-{release}.conf",
                   f"title Fedora Linux\nversion {release}\nlinux /vmlinuz-{release}\n"
                   "options root=UUID=1-2 ro rhgb quiet ")
    tree.directory("etc/dracut.conf.d")


def arch(tree: Tree) -> None:
    """Arch Linux: systemd-boot with entries written by hand; mkinitcpio with drop-ins."""
    _common(tree, "GenuineIntel", "ID=arch", "6.9.1-arch1-1", "mkinitcpio", "kernel-install")
    tree.write("usr/bin/mkinitcpio", 'for f in /etc/mkinitcpio.conf.d/*.conf; do . "$f"; done')
    tree.write("usr/lib/modules/6.9.1-arch1-1/vmlinuz")
    tree.write("boot/loader/loader.conf", "default arch.conf")
    for name in ("arch", "arch-fallback"):
        tree.write(f"boot/loader/entries/{name}.conf",
                   f"title   Arch Linux\nlinux   /vmlinuz-linux\ninitrd  /{name}.img\n"
                   "options root=PARTUUID=3-4 rw".encode())
    tree.write("etc/mkinitcpio.conf", "MODULES=()\nHOOKS=(base udev modconf kms block filesystems)")
    tree.directory("etc/mkinitcpio.conf.d")


def pop(tree: Tree) -> None:
    """Pop!_OS 22.04: systemd-boot, whose parameters kernelstub keeps; initramfs-tools."""
    _common(tree, "GenuineIntel", 'ID=pop\nID_LIKE="ubuntu debian"', "6.6.10-76060610-generic",
            "kernelstub", "update-initramfs", "mkinitramfs", "kernel-install")
    user = {"kernel_options": ["quiet", "loglevel=0", "splash"], "config_rev": 3}
    whole = json.dumps({"default": user, "user": user}, indent=2)
    tree.write("etc/kernelstub/configuration", whole)
    tree.write("boot/efi/loader/loader.conf", "default Pop_OS-current")
    tree.write("etc/initramfs-tools/modules", "# List of modules that you want to include")


DISTROS: dict[str, Callable[[Tree], None]] = {
    "debian": debian, "ubuntu": ubuntu, "fedora": fedora, "arch": arch, "pop": pop,
}


def arch_grub(tree: Tree) -> None:
    """Arch with GRUB, which reads no drop-ins, and an old mkinitcpio."""
    arch(tree)
    for path in ("boot/loader/loader.conf", "boot/loader/entries/arch.conf",
                 "boot/loader/entries/arch-fallback.conf"):
        (tree.root / path).unlink()
    _grub_scripts(tree, dropins=False)
    tree.write("usr/bin/mkinitcpio", ". /etc/mkinitcpio.conf")
    tree.write("etc/default/grub", GRUB_FEDORA.encode())


def kernel_install(tree: Tree) -> None:
    """Debian with systemd-boot: kernel-install writes the entries; no /etc/kernel/cmdline."""
    debian(tree)
    (tree.root / "etc/default/grub").unlink()
    tree.write("boot/initrd.img-6.1.0-18-amd64")
    tree.write("usr/bin/kernel-install")
    tree.write("boot/efi/loader/loader.conf", "timeout 3")
    tree.write(f"boot/efi/loader/entries/{MACHINE_ID}-6.1.0-18-amd64+3.conf",
               "title Debian\nlinux /x/linux\noptions root=UUID=1-2 ro quiet")


def unified(tree: Tree) -> None:
    """Arch with a unified kernel image: no entries, and /etc/kernel/cmdline is taken in."""
    arch(tree)
    for name in ("arch", "arch-fallback"):
        (tree.root / f"boot/loader/entries/{name}.conf").unlink()
    tree.write("etc/kernel/cmdline", "root=PARTUUID=3-4 rw quiet")


def suse(tree: Tree) -> None:
    """openSUSE: GRUB, whose tools are called grub2-…; no drop-ins, no grubby."""
    _common(tree, "GenuineIntel", 'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"',
            "6.9.1-1-default", "grub2-mkconfig", "dracut")
    tree.write("etc/default/grub", GRUB_DEBIAN.encode())


def rhel(tree: Tree) -> None:
    """A rebuild of RHEL without grubby, which is a package of its own."""
    _common(tree, "GenuineIntel", 'ID="rocky"\nID_LIKE="rhel centos fedora"',
            "5.14.0-427.el9.x86_64", "grub2-mkconfig", "dracut")
    tree.write("etc/default/grub", GRUB_FEDORA.encode())


def silverblue(tree: Tree) -> None:
    """Fedora Silverblue: rpm-ostree keeps the parameters, whatever else is there."""
    fedora(tree)
    tree.write("usr/bin/rpm-ostree", "#!/bin/sh")
    tree.write("run/ostree-booted")


def arch_grubby(tree: Tree) -> None:
    """Arch with GRUB and, of the AUR, grubby: nobody's loader entries there are its own."""
    arch_grub(tree)
    tree.write("usr/bin/grubby", "#!/bin/sh")


MORE: dict[str, Callable[[Tree], None]] = {
    "arch-grub": arch_grub, "kernel-install": kernel_install, "unified": unified,
}
# Of whom only the boot loader is looked at.
LOADERS: dict[str, Callable[[Tree], None]] = {
    "suse": suse, "rhel": rhel, "silverblue": silverblue, "arch-grubby": arch_grubby,
}


def make_root(name: str, root: Path) -> Tree:
    """One of them below `root`."""
    tree = Tree(root)
    (DISTROS | MORE | LOADERS)[name](tree)
    return tree


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file, link and directory with mode and content."""
    found: dict[str, tuple[int, bytes]] = {}
    for path in sorted(root.rglob("*")):
        content = b""
        if path.is_symlink():
            content = bytes(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (path.lstat().st_mode, content)
    return found
