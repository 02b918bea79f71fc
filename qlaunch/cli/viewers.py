"""Which program shows a machine, and with which words. Pure: what is installed is passed in.

Sources: remote-viewer(1), vncviewer(1) of TigerVNC, spicy(1), Looking Glass's manual ("Command
line options"). remote-viewer does not unquote a path in a spice+unix URI, so a path that cannot
stand there as it is is reached through the working directory (env -C of coreutils).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from qlaunch.errors import HostError, Problem, UsageError
from qlaunch.vm.viewing import Viewing

PLAIN = re.compile(r"[A-Za-z0-9._/-]{1,107}")  # sun_path has 108 bytes
WINDOWS = ("gtk", "sdl", "cocoa", "curses")


class Viewer(NamedTuple):
    """A program, what it shows, and the packages that bring it."""

    program: str
    protocol: str
    packages: str


REMOTE = "virt-viewer (Debian, Fedora, Arch)"
SPICY = "spice-client-gtk (Debian), spice-gtk-tools (Fedora), spice-gtk (Arch)"
TIGER = "tigervnc-viewer (Debian), tigervnc (Fedora, Arch)"
VIEWERS = (
    Viewer("looking-glass-client", "memory", "looking-glass-client of https://looking-glass.io"),
    Viewer("remote-viewer", "spice", REMOTE),
    Viewer("spicy", "spice", SPICY),
    Viewer("xtigervncviewer", "vnc", TIGER),
    Viewer("vncviewer", "vnc", TIGER),
    Viewer("remote-viewer", "vnc-tcp", REMOTE),
    Viewer("gvncviewer", "vnc-tcp", "gvncviewer (Debian)"),
)


class Choice(NamedTuple):
    """What to run; `missing` is the hint when it is not installed, `note` what is lost by it."""

    words: list[str]
    missing: str = ""
    note: str = ""


def choose(
    viewing: Viewing, name: str, have: Callable[[str], bool], wanted: str | None = None
) -> Choice:
    """The best that is installed, else the best. Raises HostError when nothing could show it."""
    fitting = [v for v in VIEWERS if _fits(v.protocol, viewing)]
    if not fitting:
        raise HostError(_nothing(viewing, name))
    if wanted is not None:
        fitting = [v for v in fitting if v.program == wanted.rpartition("/")[2]]
        if not fitting:
            known = dict.fromkeys(v.program for v in VIEWERS if _fits(v.protocol, viewing))
            raise UsageError(Problem("this viewer does not fit the machine", where="qlaunch view",
                                     found=wanted, allowed=", ".join(known),
                                     hint=f"qlaunch view '{name}' takes the one that fits"))
    installed = [v for v in fitting if have(wanted or v.program)]
    viewer = (installed or fitting)[0]
    words = command(viewer, viewing, wanted or viewer.program)
    if not installed:
        packages = dict.fromkeys(v.packages for v in fitting)
        return Choice(words, missing="install " + "; or ".join(packages))
    first = fitting[0]
    if first.protocol == "memory" and viewer.protocol != "memory":
        return Choice(words, note=f"{first.program} is not installed ({first.packages}); this "
                      "shows the emulated card only")
    return Choice(words)


def _fits(protocol: str, viewing: Viewing) -> bool:
    if protocol == "memory":
        return bool(viewing.memory)
    if protocol == "spice":
        return bool(viewing.spice)
    tcp = not viewing.vnc.startswith("/")
    return bool(viewing.vnc) and (protocol == "vnc" or tcp)


def command(viewer: Viewer, viewing: Viewing, program: str) -> list[str]:
    """The argv."""
    if viewer.protocol == "memory":
        words = [program, "-f", viewing.memory]
        return [*words, "-c", viewing.spice, "-p", "0"] if viewing.spice.startswith("/") else words
    if viewer.protocol == "spice":
        return _spice(viewer, viewing.spice, program)
    return _vnc(viewer, viewing.vnc, program)


def _spice(viewer: Viewer, where: str, program: str) -> list[str]:
    option = "--uri=" if viewer.program == "spicy" else ""
    if not where.startswith("/"):
        return [program, f"{option}spice://{where}"]
    if PLAIN.fullmatch(where):
        return [program, f"{option}spice+unix://{where}"]
    directory, _, file = where.rpartition("/")
    return ["env", "-C", directory, program, f"{option}spice+unix:///proc/self/cwd/{file}"]


def _vnc(viewer: Viewer, where: str, program: str) -> list[str]:
    if where.startswith("/"):
        return [program, where]
    host, _, port = where.rpartition(":")
    if viewer.program == "remote-viewer":
        return [program, f"vnc://{where}"]
    if viewer.program == "gvncviewer":
        return [program, f"{host}:{int(port) - 5900}"]
    return [program, f"{host}::{port}"]


def _nothing(viewing: Viewing, name: str) -> Problem:
    if viewing.window in WINDOWS:
        return Problem(f"{name} has a window of its own on the desktop it was started from",
                       found=f"display {viewing.window}",
                       hint='display.type = "spice" is for viewers that come and go')
    if viewing.window == "dbus":
        return Problem(f"{name} is shown on D-Bus, which no viewer known here can show",
                       hint="a program that uses libmks or qemu-display; or display.type = "
                       '"spice"')
    return Problem(
        f"{name} has nothing to look at", found=f"display {viewing.window}",
        hint=f"display.type = \"spice\" in its profile; qlaunch console '{name}' is its serial "
        "port; a passed-through card shows on its own connectors",
    )
