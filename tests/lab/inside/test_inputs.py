"""The host's own keyboard and tablet handed over (evdev): QEMU opens and grabs their nodes as its
own account, what is typed on the host reaches the guest, and the nodes are root's again afterwards.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from pathlib import Path

import pytest

from .machine import Run, ask, qemu_of, uid_of, until
from .monitor import Monitor

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("numa"), pytest.mark.usefixtures("nothing_left"),
]

EVIOCGRAB = 0x40044590  # linux/input.h

PROFILE = """\
name = "labkeys"

[machine]
memory = "64M"
fw_cfg = {{ "opt/org.qlaunch/name" = "labkeys", "opt/org.qlaunch/seconds" = "600" }}

[[disk]]
file = "{disk}"
read_only = true
boot = 0

[[input]]
evdev = "{tablet}"

[[input]]
evdev = "{keyboard}"
grab_keys = "scrolllock"

[[serial]]
type = "file"
file = "{serial}"
"""


def node_of(name: str) -> Path:
    """The event node of the input device whose name has this in it."""
    for device in Path("/sys/class/input").glob("event*"):
        if name in (device / "device/name").read_text():
            return Path("/dev/input") / device.name
    raise LookupError(name)


def owner(node: Path) -> tuple[int, int, int]:
    found = node.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def grabbed(node: Path) -> bool:
    """Whether somebody has it for itself alone."""
    with node.open("rb") as stream:
        try:
            fcntl.ioctl(stream, EVIOCGRAB, 1)
        except OSError:
            return True
        fcntl.ioctl(stream, EVIOCGRAB, 0)
        return False


def opened(pid: int) -> set[str]:
    links = [fd for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return {str(fd.readlink()) for fd in links}


def has(*idents: str) -> list[dict[str, object]]:
    """What QEMU says of its evdev objects."""
    names = ("evdev", "grab_all", "repeat", "grab-toggle")
    commands: list[dict[str, object]] = [
        {"execute": "qom-get", "arguments": {"path": f"/objects/{ident}", "property": name}}
        for ident in idents for name in names
    ]
    answers = iter(ask("labkeys", *commands))
    return [{name: next(answers) for name in names} for _ in idents]


def test_the_hosts_keyboard_is_the_guests(
    tmp_path: Path, boot_disk: Path, monitor: Monitor
) -> None:
    keyboard, tablet = node_of("AT Translated"), node_of("Virtio Tablet")
    first = {node: node.stat() for node in (keyboard, tablet)}
    keyboard.chmod(0o640)  # not what QEMU's account gets, nor what the kernel gives
    os.chown(tablet, 0, 5)
    before = owner(keyboard), owner(tablet)
    path, serial = tmp_path / "labkeys.toml", Path("/tmp/labkeys.serial")
    path.write_text(
        PROFILE.format(disk=boot_disk, keyboard=keyboard, tablet=tablet, serial=serial)
    )
    run = Run([sys.executable, "-m", "qlaunch", "run", str(path)], "labkeys")
    try:
        until(
            lambda: run.process.poll() is not None
            or (serial.exists() and "qlaunch: done" in serial.read_text(errors="replace")),
            lambda: run.said, 180,
        )
        assert run.process.poll() is None, run.said
        assert {str(keyboard), str(tablet)} <= opened(qemu_of("labkeys"))
        uid = uid_of("labkeys")
        assert [(who, mode) for who, _, mode in (owner(keyboard), owner(tablet))] == [
            (uid, 0o600), (uid, 0o600),
        ]
        assert grabbed(keyboard)
        assert grabbed(tablet)
        assert has("evdev0", "evdev1") == [
            {"evdev": str(tablet), "grab_all": False, "repeat": False, "grab-toggle": "ctrl-ctrl"},
            {"evdev": str(keyboard), "grab_all": True, "repeat": True, "grab-toggle": "scrolllock"},
        ]
        key(monitor, "scroll_lock")  # all of them are the host's
        until(lambda: not grabbed(keyboard) and not grabbed(tablet), "the nodes are let go")
        # From here on no grabbed(): for its moment it takes what QEMU is to get.
        key(monitor, "scroll_lock")  # and the guest's again
        key(monitor, "ret")  # our boot sector powers off
        assert run.wait() == 0, run.said
        assert "the guest powered off" in run.said
    finally:
        run.end()
        serial.unlink(missing_ok=True)
    assert (owner(keyboard), owner(tablet)) == before
    for node, found in first.items():
        os.chown(node, found.st_uid, found.st_gid)
        node.chmod(stat.S_IMODE(found.st_mode))


def key(monitor: Monitor, name: str) -> None:
    """On the host's own keyboard."""
    monitor.execute("send-key", keys=[{"type": "qcode", "data": name}])
