"""What the golden files say of devices that a test machine has not is what real QEMUs understand.

QEMU reads all properties of a device before it looks for it, so that each line, with a name of
nothing in place of the device's, ends it with the word that this is not there, and no other.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from qlaunch.profile.inputs import GrabKeys

pytestmark = pytest.mark.qemu
GOLDEN = Path(__file__).parents[1] / "golden"
# Option and driver of a golden line → what QEMU says when it does not find the device.
LINES = {
    ("-device", "vfio-pci"): "no such host device",
    ("-device", "vfio-pci-nohotplug"): "no such host device",
    ("-device", "usb-host"): "(failed to|Could not) open '?/nowhere",
    ("-device", "vhost-vsock-pci"): "unable to set non-blocking mode: Bad file descriptor",
    ("-object", "input-linux"): "Could not open '/nowhere'",
    ("-chardev", "parallel"): "Could not open '/nowhere'",
    ("-audiodev", "pa"): "Failed to initialize PA context",
}
# No device of this host is to be meant by chance; places are of devices that are not there.
NOTHING = {
    r"\bhost=[0-9a-f:.]+": "host=ffff:ff:1f.7", r",(bus|addr)=[^,]+": "", r"\bid=[^,]+": "id=it",
    r"\b(sysfsdev|hostdevice|evdev|path)=[^,]+": r"\1=/nowhere",
    r"\bserver=[^,]+": "server=unix:/nowhere", r"\bvhostfd=[0-9]+": "vhostfd=999",
}


def golden_lines() -> list[tuple[str, str, str]]:
    """(option, driver, the rest) of each line that says something else than the others."""
    found = set()
    for file in GOLDEN.rglob("*.txt"):
        for line in file.read_text(encoding="utf-8").splitlines():
            flag, _, argument = line.partition("  # ")[0].partition(" ")
            driver, _, rest = argument.partition(",")
            if (flag, driver) in LINES:
                found.add((flag, driver, nothing(rest)))
    return sorted(found)


def nothing(words: str) -> str:
    """The properties of a device that is nowhere."""
    for pattern, text in NOTHING.items():
        words = re.sub(pattern, text, words)
    return words


def said(qemu: str, flag: str, driver: str, words: str) -> str:
    """What it says, and ends."""
    bus = ["-device", "qemu-xhci,p2=15,p3=15"] if driver == "usb-host" else []
    done = subprocess.run(
        [qemu, "-machine", "q35,accel=tcg", "-nodefaults", "-no-user-config", "-S",
         "-display", "none", *bus, flag, f"{driver},{words}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode != 0, words
    return done.stderr


def test_words_for_devices_that_are_not_here_are_known(both_qemus: str) -> None:
    lines = golden_lines()
    assert {(flag, driver) for flag, driver, _ in lines} == set(LINES)
    for flag, driver, words in lines:
        told = said(both_qemus, flag, driver, words)
        assert re.search(LINES[flag, driver], told), (words, told)


@pytest.mark.parametrize(("flag", "driver"), LINES)
def test_a_word_that_qemu_does_not_know_is_told_first(
    flag: str, driver: str, both_qemus: str
) -> None:
    words = next(rest for *start, rest in golden_lines() if start == [flag, driver])
    told = said(both_qemus, flag, driver, f"{words},qlaunch=1")
    assert "qlaunch" in told
    assert not re.search(LINES[flag, driver], told), told


@pytest.mark.parametrize("keys", get_args(GrabKeys))
def test_grab_keys_are_known(keys: str, both_qemus: str) -> None:
    words = f"id=it,evdev=/nowhere,grab-toggle={keys}"
    assert "Could not open '/nowhere'" in said(both_qemus, "-object", "input-linux", words)
