"""Which boot loader a host has, and that `doctor` names what `host setup` would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.advise.fixes import add_parameter, drop_parameter
from qlaunch.facts.bootloader import read_boot, which_boot
from qlaunch.facts.health import read_health
from qlaunch.facts.health_model import Family, Health
from qlaunch.setup.boot import find_boot
from qlaunch.setup.model import Wishes
from qlaunch.setup.parameters import boot_commands
from qlaunch.setup.read import read_setup
from tests.fake.distros import DISTROS, LOADERS, MORE, make_root
from tests.fake.trees import Tree

LOADER_INFO = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
BOOTS = {
    "debian": "grub", "ubuntu": "grub", "fedora": "grubby", "arch": "systemd-boot",
    "pop": "kernelstub", "arch-grub": "grub", "kernel-install": "systemd-boot",
    "unified": "systemd-boot", "suse": "grub", "rhel": "grub", "silverblue": "rpm-ostree",
    "arch-grubby": "grub",
}


@pytest.mark.parametrize("name", [*DISTROS, *MORE, *LOADERS])
def test_doctor_and_setup_are_of_one_mind(name: str, tmp_path: Path) -> None:
    make_root(name, tmp_path)
    health = read_health("6.1", None, tmp_path)
    facts = read_setup(tmp_path, Wishes(), None)
    assert health.boot == find_boot(facts)[0] == BOOTS[name]
    if health.boot == "grub":
        (command,) = boot_commands("grub", facts)
        assert add_parameter(health, "x=1")[1:] == (f"sudo {' '.join(command)}", "reboot")
        assert drop_parameter(health, "x=1")[1:] == (f"sudo {' '.join(command)}", "reboot")


@pytest.mark.parametrize(
    ("name", "add", "drop"),
    [
        ("suse", "sudo grub2-mkconfig -o /boot/grub2/grub.cfg",
         "sudo grub2-mkconfig -o /boot/grub2/grub.cfg"),
        ("rhel", "sudo grub2-mkconfig -o /boot/grub2/grub.cfg",
         "sudo grub2-mkconfig -o /boot/grub2/grub.cfg"),
        ("arch-grub", "sudo grub-mkconfig -o /boot/grub/grub.cfg",
         "sudo grub-mkconfig -o /boot/grub/grub.cfg"),
        ("silverblue", "sudo rpm-ostree kargs --append-if-missing=intel_iommu=on",
         "sudo rpm-ostree kargs --delete-if-present=intel_iommu=on"),
        ("fedora", "sudo grubby --update-kernel=ALL --args=intel_iommu=on",
         "sudo grubby --update-kernel=ALL --remove-args=intel_iommu=on"),
    ],
)
def test_what_is_to_be_typed(name: str, add: str, drop: str, tmp_path: Path) -> None:
    make_root(name, tmp_path)
    health = read_health("6.1", None, tmp_path)
    assert add_parameter(health, "intel_iommu=on")[-2:] == (add, "reboot")
    assert drop_parameter(health, "intel_iommu=on")[-2:] == (drop, "reboot")


@pytest.mark.parametrize(
    ("family", "command"),
    [("debian", "update-grub"), ("suse", "grub2-mkconfig -o /boot/grub2/grub.cfg"),
     ("fedora", "grub2-mkconfig -o /boot/grub2/grub.cfg"),
     ("arch", "grub-mkconfig -o /boot/grub/grub.cfg"),
     ("", "grub-mkconfig -o /boot/grub/grub.cfg")],
)  # fmt: skip
def test_without_a_tool_it_is_the_familys(family: Family, command: str) -> None:
    """Of facts that were recorded elsewhere, or tools that are kept off these directories."""
    assert add_parameter(Health(family=family, boot="grub"), "x")[1] == f"sudo {command}"


@pytest.mark.parametrize(
    ("loader", "boot"),
    [("GRUB 2.12", ("grub", "")), ("systemd-boot 255", ("systemd-boot", "")), ("", ("", "both"))],
)
def test_of_two_the_firmware_knows(
    loader: str, boot: tuple[str, str], tmp_path: Path
) -> None:
    tree = make_root("arch", tmp_path)
    tree.write("etc/default/grub", 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"')
    if loader:
        tree.write(LOADER_INFO, b"\6\0\0\0" + loader.encode("utf-16-le") + b"\0\0")
    assert which_boot(read_boot(tmp_path)) == boot
    assert read_health("6.1", None, tmp_path).boot == boot[0]


def test_nothing_is_known_of_an_empty_tree(tmp_path: Path) -> None:
    Tree(tmp_path)
    assert which_boot(read_boot(tmp_path)) == ("", "none")
