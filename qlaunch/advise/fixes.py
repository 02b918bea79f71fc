"""What to type on this distribution: packages, kernel parameters, module options.

Where the distribution or the boot loader is not known, all that is known is said.
"""

from __future__ import annotations

from typing import NamedTuple

from qlaunch.facts.health_model import Health


class Package(NamedTuple):
    """A package's name on three families; "" where there is none."""

    debian: str
    fedora: str
    arch: str


PACKAGES = {
    "qemu": Package("qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86"),
    "ovmf": Package("ovmf", "edk2-ovmf", "edk2-ovmf"),
    "qemu-img": Package("qemu-utils", "qemu-img", "qemu-img"),
    "swtpm": Package("swtpm", "swtpm", "swtpm"),
    "virtiofsd": Package("virtiofsd", "virtiofsd", "virtiofsd"),
    "passt": Package("passt", "passt", "passt"),
    "nft": Package("nftables", "nftables", "nftables"),
    "dnsmasq": Package("dnsmasq-base", "dnsmasq", "dnsmasq"),
}
_INSTALL = {"debian": "apt install", "fedora": "dnf install", "arch": "pacman -S"}


def install(health: Health, *parts: str) -> str:
    """One command for keys of PACKAGES, or the names on each family."""
    packages = [PACKAGES[part] for part in parts]
    if health.family in _INSTALL:
        names = [getattr(package, health.family) for package in packages]
        return f"sudo {_INSTALL[health.family]} {' '.join(dict.fromkeys(names))}"
    families = (("Debian", 0), ("Fedora", 1), ("Arch", 2))
    said = [f"{' '.join(p[index] for p in packages)} ({family})" for family, index in families]
    return f"install {', '.join(said)}"


def add_parameter(health: Health, parameter: str) -> tuple[str, ...]:
    """How this host's kernel is told a parameter; it holds after a reboot."""
    if health.boot == "kernelstub":
        return f"sudo kernelstub -a {parameter}", "reboot"
    if health.boot == "grubby":
        return f"sudo grubby --update-kernel=ALL --args={parameter}", "reboot"
    if health.boot == "rpm-ostree":
        return f"sudo rpm-ostree kargs --append-if-missing={parameter}", "reboot"
    if health.boot == "grub":
        return (
            f"add {parameter} to GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub",
            _grub(health), "reboot",
        )
    if health.boot == "systemd-boot":
        return (
            f"add {parameter} to the options line in /boot/loader/entries/*.conf, and to "
            "/etc/kernel/cmdline where there is one", "reboot",
        )
    return f"add {parameter} to the kernel's command line in the boot loader", "reboot"


def drop_parameter(health: Health, parameter: str) -> tuple[str, ...]:
    """The same for one that has to go."""
    if health.boot == "kernelstub":
        return f"sudo kernelstub -d {parameter}", "reboot"
    if health.boot == "grubby":
        return f"sudo grubby --update-kernel=ALL --remove-args={parameter}", "reboot"
    if health.boot == "rpm-ostree":
        return f"sudo rpm-ostree kargs --delete-if-present={parameter}", "reboot"
    if health.boot == "grub":
        return f"take {parameter} out of /etc/default/grub", _grub(health), "reboot"
    return f"take {parameter} off the kernel's command line in the boot loader", "reboot"


_GRUB = {"debian": "update-grub", "arch": "grub-mkconfig -o /boot/grub/grub.cfg"}


def _grub(health: Health) -> str:
    """The tool that is here; where none was found, the family's."""
    command = health.boot_command or _GRUB.get(health.family) or (
        "grub2-mkconfig -o /boot/grub2/grub.cfg" if health.family else _GRUB["arch"]
    )
    return f"sudo {command}"


def module_option(module: str, option: str) -> tuple[str, ...]:
    """A module's option for now and for later starts (modprobe.d(5))."""
    key, _, value = option.partition("=")
    return (
        f"echo options {module} {option} | sudo tee -a /etc/modprobe.d/qlaunch-{module}.conf",
        f"echo {value} | sudo tee /sys/module/{module}/parameters/{key}",
    )
