"""A desktop entry under a real X server and window manager: menus have it, its line starts a
machine with a window, which is photographed, and Stop ends it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fake.entries import arguments
from tests.fake.screen import Screen, read_ppm, screen
from tests.qemu.test_verbs import TOP

PYTHON = "/usr/bin/python3"  # GLib's bindings are the system's
MENU = str(TOP / "tests/fake/menu.py")


def has_bindings() -> bool:
    if not Path(PYTHON).exists():
        return False
    words = [PYTHON, "-c", "from gi.repository import Gio"]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(
        not (all(map(shutil.which, ("Xvfb", "xwininfo", "icewm"))) and has_bindings()),
        reason="needs xvfb, x11-utils, icewm and python3-gi",
    ),
]
PROFILE = """\
name = "{name}"
[machine]
memory = "64M"
accel = "tcg"
fw_cfg = {{ "opt/org.qlaunch/name" = "shown", "opt/org.qlaunch/seconds" = "0" }}
[[disk]]
file = "disk.img"
boot = 0
[display]
type = "auto"
vga = "std"
[stop]
timeout = "1s"
"""
ACTIONS = ["start", "headless", "install", "view", "stop", "recover"]


class Desk:
    """A home, an X server with a window manager, and the tools of a desktop."""

    def __init__(self, home: Path, shown: Screen) -> None:
        self.home, self.screen, self.bin = home, shown, home / "bin"
        self.bin.mkdir()
        # The checkout may be run by another qlaunch than the one on PATH.
        self.tool("qlaunch", f'exec {sys.executable} -m qlaunch "$@"')
        self.tool("notify-send", f'printf "%s\\n" "$@" >> {home}/told')
        for name in ("zenity", "kdialog"):
            self.tool(name, f'printf "%s\\n" "$@" >> {home}/told')
        (home / "told").touch()
        kept = {k: v for k, v in os.environ.items() if k not in ("WAYLAND_DISPLAY", "SUDO_UID")}
        self.env = {
            **kept, **shown.env, "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(TOP), "HOME": str(home), "XDG_DATA_HOME": str(home / "data"),
        }

    def tool(self, name: str, line: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{line}\n")
        (self.bin / name).chmod(0o755)

    def run(self, *words: str | Path) -> str:
        """To its end, which is a good one. What it has written."""
        done = subprocess.run(words, env=self.env, cwd="/", capture_output=True, text=True,
                              check=False, timeout=120)
        assert done.returncode == 0, done
        return done.stdout

    def choose(self, *words: str) -> None:
        """In the menu: what is started has our streams, and outlives this."""
        subprocess.run([PYTHON, MENU, "launch", *words], env=self.env, cwd="/", check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=120)

    def windows(self) -> str:
        return self.run("xwininfo", "-root", "-tree")

    def told(self) -> str:
        return (self.home / "told").read_text()

    @property
    def entry(self) -> Path:
        (found,) = (self.home / "data/applications").iterdir()
        return found


@pytest.fixture
def desk() -> Iterator[Desk]:
    # Below /tmp, where QEMU's user can reach the cookie: root's machines are nobody's.
    with tempfile.TemporaryDirectory(prefix="qlaunch-desk-") as name, screen(Path(name)) as shown:
        Path(name).chmod(0o755)
        shown.cookie.chmod(0o644)
        made = Desk(Path(name), shown)
        manager = subprocess.Popen(["icewm", "--no-configure"], env=made.env,
                                   stderr=subprocess.DEVNULL)
        try:
            yield made
        finally:
            manager.terminate()
            manager.wait(60)


def until(what: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_the_entry_starts_and_stops_a_machine_with_a_window(desk: Desk) -> None:
    name = f"shown {os.getpid()}"
    place = desk.home / 'my 50% "ü" $x'
    place.mkdir()
    (place / "disk.img").write_bytes(
        (TOP / "qlaunch/data/bootsector.bin").read_bytes().ljust(1 << 20, b"\0"))
    (place / "shown.toml").write_text(PROFILE.format(name=name))
    desk.run(desk.bin / "qlaunch", "desktop", "install", place / "shown.toml")
    text, ident = desk.entry.read_text(), f"qlaunch-{name}.desktop"

    # Menus: GLib's, and one that is a file of its own.
    assert json.loads(desk.run(PYTHON, MENU, "list")) == [[ident, name, ACTIONS]]
    if shutil.which("icewm-menu-fdo"):
        menu = desk.run("icewm-menu-fdo")
        assert f'prog "{name}" ' in menu[menu.index('menu "Emulator"') :], menu

    try:
        desk.choose(ident)
        until(lambda: f"QEMU ({name}" in desk.windows() or "error" in desk.told())
        title = next(li for li in text.splitlines() if li.startswith("StartupWMClass="))
        assert f'"{title.partition("=")[2]}"' in desk.windows()

        def guest_is_seen() -> bool:
            desk.run(desk.bin / "qlaunch", "screenshot", name, desk.home / "guest.ppm")
            guest = read_ppm((desk.home / "guest.ppm").read_bytes())
            lit = sum(any(row) for row in guest.rows)
            return lit > 3 * 12 and desk.screen.shows(guest)  # lines of its text

        until(guest_is_seen)
        managed = desk.run("xprop", "-name", next(
            li for li in desk.windows().splitlines() if f"QEMU ({name}" in li).split('"')[1],
            "WM_STATE")
        assert "window state: Normal" in managed
        desk.choose(ident, "stop")
        until(lambda: f"{name}: ended" in desk.told())
        until(lambda: f"QEMU ({name}" not in desk.windows())
    finally:
        subprocess.run([desk.bin / "qlaunch", "stop", name, "--force"], env=desk.env, check=False,
                       capture_output=True, timeout=60)
        shutil.rmtree(f"/var/lib/qlaunch/{name}", ignore_errors=True)  # root's are there
    log = (desk.home / ".local/state/qlaunch/.desktop.log").read_text()
    assert f"{name}: ended" in log
    assert "error" not in log
    start = next(li for li in text.splitlines() if li.startswith("Exec="))
    assert arguments(start.removeprefix("Exec="))[-1] == str(place / "shown.toml")
