"""Whatever a machine may need of QEMU, what to install is known."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

import qlaunch.plan
from qlaunch.plan import audio, controllers, drives, inputs, network, ports, shares, shmem
from qlaunch.plan.display import VGA
from qlaunch.plan.packages import CORE, PACKAGES, install_hint
from qlaunch.profile.audio import Audio
from qlaunch.profile.table import Table
from qlaunch.profile.tables import key_type
from qlaunch.profile.tpm import Tpm
from tests.fake.plans import QEMU, host, planned


def words_of(table: type[Table], key: str) -> tuple[str, ...]:
    """The words of a key that may be absent."""
    words: tuple[str, ...] = key_type(table, key).__origin__.__args__[0].__args__
    return words


CONTROLLERS = {"qemu-xhci", "ich9-usb-ehci1", "piix3-usb-uhci", "ich9-usb-uhci1"}
# What the code says where it says no name -> the names.
SAID = {
    "DEVICE": {shmem.DEVICE},
    "VGA[display.vga]": set(VGA.values()),
    "CARD[audio.model]": set(audio.CARD.values()),
    "codec_of(audio)": {f"hda-{word}" for word in words_of(Audio, "codec")},
    "DEVICES[share.type]": set(shares.DEVICES.values()),
    "nic.model": set(network.MODELS.values()),
    "controller.device": set(controllers.DEVICES.values()),
    "tpm_device(tpm.version, tpm.model)": {f"tpm-{word}" for word in words_of(Tpm, "model")},
    "{'intel': 'intel-iommu', 'amd': 'amd-iommu', 'virtio': 'virtio-iommu-pci'}[kind]": {
        "intel-iommu", "amd-iommu", "virtio-iommu-pci"},
    "'vfio-pci-nohotplug' if screen.ramfb else 'vfio-pci'": {
        "vfio-pci-nohotplug", "vfio-pci"},
    "drives.py device": {*drives._DEVICES.values(), "scsi-cd", "ide-cd"},
    "inputs.py device": set(inputs.DEVICES.values()),
    "ports.py device": set(ports.DEVICES.values()),
    "usb.py device": CONTROLLERS,
}


def needed() -> dict[str, set[str]]:
    """Where `need()` is called -> the device types that it may be called with."""
    found: dict[str, set[str]] = {}
    for path in Path(next(iter(qlaunch.plan.__path__))).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                    and node.func.attr == "need"):
                continue
            first = node.args[0]
            if isinstance(first, ast.Constant):
                types = {str(first.value)}
            else:
                said = ast.unparse(first)
                types = SAID[f"{path.name} {said}" if said == "device" else said]
            found[f"{path.name}:{node.lineno}"] = types
    return found


def test_every_device_that_may_be_needed_has_its_package() -> None:
    calls = needed()
    assert len(calls) > 25
    assert {place: lacking for place, types in calls.items()
            if (lacking := types - PACKAGES.keys())} == {}
    devices = {part for part in PACKAGES if " " not in part and "." not in part}
    assert devices == set().union(*calls.values())  # and nothing is there for nobody
    assert all(p.fedora and p.arch for p in PACKAGES.values())


@pytest.mark.parametrize(
    ("text", "device", "words"),
    [
        ('[[usb]]\ndevice = "046d:c52b"\n', "usb-host",
         ("qemu-device-usb-host (Fedora)", "qemu-hw-usb-host (Arch)")),
        ("[[usb]]\nredirect = true\n[display]\ntype = \"spice\"\n", "usb-redir",
         ("qemu-system-common (Debian)", "qemu-device-usb-redirect (Fedora)")),
        ("[tpm]\n", "tpm-crb", ("qemu-system-x86 (Debian)", "[qemu] binary")),
        ('[[input]]\ntype = "multitouch"\n', "virtio-multitouch-pci",
         ("it came with QEMU 8.1", "qemu-system-x86-core (Fedora)")),
    ],
)
def test_a_device_that_is_not_there(text: str, device: str, words: tuple[str, ...]) -> None:
    old = msgspec.structs.replace(
        QEMU, version=(7, 2, 0), devices=tuple(d for d in QEMU.devices if d != device))
    plan = planned(text, host(qemu=old))
    (problem,) = [p for p in plan.problems if p.message == f"this QEMU has no device {device}"]
    for word in words:
        assert word in problem.hint


def test_spice_is_two_modules() -> None:
    hint = install_hint("display spice")
    assert "qemu-ui-spice-core and qemu-char-spice (Fedora)" in hint
    assert "qemu-ui-spice-core and qemu-chardev-spice (Arch)" in hint
    assert CORE.debian not in hint
