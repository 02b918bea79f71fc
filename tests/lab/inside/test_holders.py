"""Who uses a device, as a real kernel tells it: a disk with a file system or swap, a network card
with a route, sound and HID nodes that a process has open. All verbs that would take such a device
name who has it and what to do; and by --force goes only what a process holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .host import AUDIO, GRAPHICS, NETWORK, NVME, USB
from .machine import qlaunch, until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("nothing_left")]

UNIT = Path("/sys/fs/cgroup/labsound.service")  # what systemd would make, without systemd
HERE, BEYOND = "10.97.0.1", "10.97.0.2"
ALL = (NVME, NETWORK, GRAPHICS, AUDIO, USB)
DRIVERS = ["nvme", "e1000e", "bochs-drm", "snd_hda_intel", "xhci_hcd"]
PROFILE = """\
name = "held7"

[machine]
memory = "128M"

[[disk]]
file = "{disk}"
boot = 0
"""


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def disk() -> str:
    """The NVMe's only namespace; udev may not have looked at it yet."""
    until(lambda: list(Path("/dev").glob("nvme*n1")), "the NVMe's disk")
    return str(next(Path("/dev").glob("nvme*n1")))


@pytest.fixture
def link() -> str:
    return next((NETWORK.path / "net").iterdir()).name


@contextmanager
def swapping(disk: str) -> Iterator[None]:
    command("mkswap", disk)
    command("swapon", disk)
    try:
        yield
    finally:
        command("swapoff", disk)


@contextmanager
def mounted(disk: str, point: Path) -> Iterator[None]:
    point.mkdir()
    command("busybox", "mke2fs", disk)
    command("mount", "-t", "ext2", disk, str(point))
    try:
        yield
    finally:
        command("umount", str(point))


@contextmanager
def addressed(link: str) -> Iterator[None]:
    command("ip", "address", "add", f"{HERE}/24", "dev", link)
    command("ip", "link", "set", link, "up")
    try:
        yield
    finally:
        command("ip", "link", "set", link, "down")
        command("ip", "address", "flush", "dev", link)


@contextmanager
def in_a_container(link: str) -> Iterator[None]:
    """In a network namespace of its own."""
    command("ip", "netns", "add", "lab")
    try:
        command("ip", "link", "set", link, "netns", "lab")
        yield
    finally:
        command("ip", "netns", "exec", "lab", "ip", "link", "set", link, "netns", "1")
        command("ip", "netns", "delete", "lab")


@contextmanager
def kept_open(*nodes: Path, unit: Path | None = None) -> Iterator[int]:
    """By a process of its own, of that systemd unit: its pid."""
    flags = os.O_RDWR if len(nodes) == 1 else os.O_WRONLY
    fds = [os.open(node, flags | os.O_NONBLOCK) for node in nodes]
    process = subprocess.Popen(["sleep", "600"], pass_fds=fds)
    for fd in fds:
        os.close(fd)
    try:
        if unit is not None:
            unit.mkdir()
            (unit / "cgroup.procs").write_text(str(process.pid))
        yield process.pid
    finally:
        process.kill()
        process.wait()
        if unit is not None:
            unit.rmdir()


def sound_nodes() -> list[Path]:
    cards = AUDIO.path.glob("sound/card*")
    number = next(cards).name.removeprefix("card")
    return [Path(f"/dev/snd/controlC{number}"), Path(f"/dev/snd/pcmC{number}D0p")]


def hid_node() -> Path:
    """The raw node of what is plugged into the USB controller."""
    found = next(USB.path.glob("usb*/*/*/*/hidraw/hidraw*"))
    return Path("/dev", found.name)


def spoken(text: str) -> str:
    """As one line: `devices` wraps its lines."""
    return " ".join(text.split())


def profile(directory: Path, boot_disk: Path) -> str:
    path = directory / "held7.toml"
    devices = "".join(f'\n[[pci]]\ndevice = "{d.address}"\n' for d in ALL)
    path.write_text(PROFILE.format(disk=boot_disk) + devices)
    return str(path)


def forced(*words: str) -> list[str]:
    return ["bind", "--force", *(device.address for device in ALL), *words]


def test_every_verb_names_who_holds_what_and_what_to_do(
    tmp_path: Path, boot_disk: Path, disk: str, link: str
) -> None:
    control, pcm = sound_nodes()
    hid = hid_node()
    path = profile(tmp_path, boot_disk)
    with ExitStack() as held:
        held.enter_context(swapping(disk))
        held.enter_context(addressed(link))
        command("ip", "route", "add", "default", "via", BEYOND, "dev", link)
        player = held.enter_context(kept_open(control, pcm, unit=UNIT))
        reader = held.enter_context(kept_open(hid))
        texts = [
            f"{NVME.address} carries the host's swap {disk}", f"swapoff {disk}",
            f"{NETWORK.address} carries {link}, the default route", "ip route",
            f"{AUDIO.address} is in use: sleep (pid {player}) of {UNIT.name} uses "
            f"{control}, {pcm}", f"systemctl stop {UNIT.name}",
            f"{USB.address} is in use: sleep (pid {reader}) uses {hid}",
            f"close sleep, or: kill {reader}",
        ]
        listed = qlaunch("devices", *(device.address for device in ALL))
        assert listed.stdout.count("cannot be handed over") == 4
        assert [text for text in texts if text not in spoken(listed.stdout)] == [], listed.stdout
        for words in (["check", path], ["run", path]):
            refused = qlaunch(*words)
            assert refused.returncode == 1, refused.stderr
            assert [t for t in texts if t not in spoken(refused.stderr)] == [], refused.stderr
        refused = qlaunch(*forced())
        assert refused.returncode == 1, refused.stdout
        said = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
        assert len(said) == 2, refused.stderr  # what processes hold is a warning now
        assert [t for t in texts if t not in spoken(refused.stderr)] == [], refused.stderr
        assert [device.driver for device in ALL] == DRIVERS


def test_force_takes_what_a_process_holds_and_nothing_that_the_host_stands_on(
    tmp_path: Path, disk: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = tmp_path / "data"
    with mounted(disk, point), addressed(link):
        with monkeypatch.context() as ours:
            ours.setenv("SSH_CONNECTION", f"{BEYOND} 50000 {HERE} 22")
            refused = qlaunch(*forced())
        assert refused.returncode == 1, refused.stdout
        said = spoken(refused.stderr)
        assert f"carries the host's file system {point} ({disk})" in said
        assert f"umount {point}" in said
        assert f"carries {link}, the SSH connection from {BEYOND}" in said
    # A mount over / in a mount namespace of its own: what a program that runs from it would see.
    script = f"mount -t ext2 {disk} / && exec {sys.executable} -m qlaunch {' '.join(forced())}"
    refused = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False, cwd="/"
    )
    assert refused.returncode == 1, refused.stderr
    assert f"carries the host's file system / ({disk})" in spoken(refused.stderr)
    assert "the host runs from it" in spoken(refused.stderr)
    assert [device.driver for device in ALL] == DRIVERS

    with kept_open(hid_node()) as reader:
        taken = qlaunch("bind", "--force", USB.address)
        assert taken.returncode == 0, taken.stderr
        assert f"warning: {USB.address} is in use: sleep (pid {reader})" in spoken(taken.stderr)
        assert USB.driver == "vfio-pci"
    back = qlaunch("unbind", USB.address)
    assert back.returncode == 0, back.stderr
    assert USB.driver == "xhci_hcd"
    until(lambda: list(USB.path.glob("usb*/*/*/*/hidraw/hidraw*")), "what is plugged in is back")


@pytest.mark.nightly
def test_a_network_card_whose_link_a_container_has(link: str) -> None:
    """The kernel shows the directory that the link is in, and in it nothing."""
    text = f"{NETWORK.address} carries a link that is in another network namespace"
    with in_a_container(link):
        assert list((NETWORK.path / "net").iterdir()) == []
        listed = qlaunch("devices", NETWORK.address)
        assert f"error: {text}" in spoken(listed.stdout)
        refused = qlaunch("bind", NETWORK.address)
        assert refused.returncode == 1, refused.stdout
        assert f"error: {text}" in spoken(refused.stderr)
        assert NETWORK.driver == "e1000e"
    assert text not in spoken(qlaunch("devices", NETWORK.address).stdout)
    taken = qlaunch("bind", NETWORK.address)
    assert taken.returncode == 0, taken.stderr
    try:
        assert not (NETWORK.path / "net").exists(), "without a link there is no directory"
    finally:
        assert qlaunch("unbind", NETWORK.address).returncode == 0
    until((NETWORK.path / "net").is_dir, "the link is back")
