"""Notifications over a real session bus, where nothing else is there to show them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qlaunch.cli.windows import show, tools
from qlaunch.desktop.notices import to_portal, to_server
from qlaunch.desktop.words import Kind

PYTHON = "/usr/bin/python3"  # GLib's bindings are the system's
SERVER = Path(__file__).parents[1] / "fake/notifications.py"
TEXT = "it's \\n \"so\" <b> & [x] {y} $z é\n-- second\nhint: qlaunch plan 'a b'"
MARKED = TEXT.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def has_bindings() -> bool:
    words = [PYTHON, "-c", "from gi.repository import Gio"]
    if not Path(PYTHON).exists():
        return False
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    not (shutil.which("dbus-daemon") and shutil.which("gdbus") and has_bindings()),
    reason="needs dbus-daemon, libglib2.0-bin and python3-gi",
)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    """The address of a session bus of this test's."""
    address = f"unix:path={tmp_path}/bus"
    daemon = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}",
         "--print-address"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline().startswith(address)
    yield address
    daemon.terminate()
    daemon.communicate()


@contextmanager
def heard(bus: str, *which: str) -> Iterator[list[list[object]]]:
    """What is told while the block runs, once it has ended."""
    said: list[list[object]] = []
    server = subprocess.Popen(
        [PYTHON, str(SERVER), *which], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": bus},
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    try:
        yield said
    finally:
        server.terminate()
        said += [json.loads(line) for line in server.communicate()[0].splitlines()]


def test_each_command_says_the_same(bus: str) -> None:
    commands = [*to_server("error", "-my vm", MARKED, "icon"),
                *to_portal("warning", "-1", TEXT, "7")]
    commands = [words for words in commands if shutil.which(words[0])]
    with heard(bus, "server", "portal") as said:
        for words in commands:
            subprocess.run(words, check=True, capture_output=True, timeout=60,
                           env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": bus})
    half = len(commands) // 2
    assert said == [
        *[["org.freedesktop.Notifications", "qlaunch", 0, "icon", "-my vm", MARKED, [],
           {"urgency": 2}, -1]] * half,
        *[["org.freedesktop.portal.Notification", "7",
           {"title": "-1", "body": TEXT, "priority": "normal"}]] * half,
    ]


def test_a_portal_is_enough(
    bus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked first, is not there, and nothing is lost, nor shown twice."""
    (tmp_path / "bin").mkdir()
    for name in ("busctl", "gdbus"):
        if found := shutil.which(name):
            (tmp_path / "bin" / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus)
    with heard(bus, "portal") as said:
        assert show("error", "vm", TEXT, "icon")
    ((interface, _, fields),) = said
    assert (interface, fields) == ("org.freedesktop.portal.Notification",
                                   {"title": "vm", "body": TEXT, "priority": "urgent"})
    with heard(bus, "server", "portal") as said:
        assert show("note", "vm", TEXT, "icon")
    ((interface, *_),) = said
    assert interface == "org.freedesktop.Notifications"
    assert not show("error", "vm", TEXT, "icon")  # nobody is there


def test_what_proves_least_is_asked_last() -> None:
    kinds: dict[Kind, str] = {"error": "zenity", "note": "notify-send"}
    for kind, first in kinds.items():
        words = list(tools(kind, "vm", TEXT, "icon"))
        assert words[0][0] == first
        assert [one for one in words if "AddNotification" in " ".join(one)] == words[-2:]
