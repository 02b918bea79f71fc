"""Which viewer shows which machine, and what is typed for it; ports and keys of the console."""

from __future__ import annotations

import socket

import pytest

from qlaunch.cli.view import can_show
from qlaunch.cli.viewers import VIEWERS, Choice, choose
from qlaunch.errors import HostError, UsageError
from qlaunch.vm.attach import escape_key, port_of
from qlaunch.vm.keys import combination, typed
from qlaunch.vm.viewing import Viewing

SPICE = "/run/user/1000/qlaunch/vm/spice.sock"
VNC = "/run/user/1000/qlaunch/vm/vnc.sock"


def shown(window: str = "none", spice: str = "", vnc: str = "", memory: str = "") -> Viewing:
    return Viewing(window, spice, vnc, memory)


def words(viewing: Viewing, *installed: str, wanted: str | None = None) -> list[str]:
    choice = choose(viewing, "vm", lambda name: name in installed, wanted)
    assert not choice.missing
    return choice.words


@pytest.mark.parametrize(
    ("viewing", "installed", "command"),
    [
        (shown(spice=SPICE), "remote-viewer", f"remote-viewer spice+unix://{SPICE}"),
        (shown(spice=SPICE), "spicy", f"spicy --uri=spice+unix://{SPICE}"),
        (shown(spice="/run/my vm/spice.sock"), "remote-viewer",
         "env|-C|/run/my vm|remote-viewer|spice+unix:///proc/self/cwd/spice.sock"),
        (shown(spice=f"/{'d' * 107}/spice.sock"), "remote-viewer",
         f"env -C /{'d' * 107} remote-viewer spice+unix:///proc/self/cwd/spice.sock"),
        (shown(vnc=VNC), "xtigervncviewer", f"xtigervncviewer {VNC}"),
        (shown(vnc=VNC), "vncviewer", f"vncviewer {VNC}"),
        (shown(vnc="127.0.0.1:5901"), "vncviewer", "vncviewer 127.0.0.1::5901"),
        (shown(vnc="127.0.0.1:5901"), "remote-viewer", "remote-viewer vnc://127.0.0.1:5901"),
        (shown(vnc="127.0.0.1:5901"), "gvncviewer", "gvncviewer 127.0.0.1:1"),
        (shown(vnc="[::1]:5901"), "remote-viewer", "remote-viewer vnc://[::1]:5901"),
        (shown(spice=SPICE, memory="/dev/kvmfr0"), "looking-glass-client",
         f"looking-glass-client -f /dev/kvmfr0 -c {SPICE} -p 0"),
    ],
)
def test_commands(viewing: Viewing, installed: str, command: str) -> None:
    assert words(viewing, installed) == command.split("|" if "|" in command else " ")


def test_the_best_that_is_installed() -> None:
    every = [viewer.program for viewer in VIEWERS]
    glass = shown(spice=SPICE, memory="/dev/shm/looking-glass")
    assert words(glass, *every)[0] == "looking-glass-client"
    assert words(shown(spice=SPICE), *every)[0] == "remote-viewer"
    assert words(shown(vnc=VNC), *every)[0] == "xtigervncviewer"
    assert words(glass, *every, wanted="spicy")[0] == "spicy"
    assert words(shown(spice=SPICE), "/opt/spicy", wanted="/opt/spicy")[0] == "/opt/spicy"
    note = choose(glass, "vm", lambda name: name == "remote-viewer").note
    assert "looking-glass-client is not installed" in note


def test_none_is_installed() -> None:
    choice = choose(shown(spice=SPICE), "vm", lambda name: False)
    assert choice.words[0] == "remote-viewer"
    assert "virt-viewer (Debian, Fedora, Arch)" in choice.missing
    assert "spice-client-gtk (Debian)" in choice.missing
    # remote-viewer cannot open VNC's unix socket
    assert "virt-viewer" not in choose(shown(vnc=VNC), "vm", lambda name: False).missing


@pytest.mark.parametrize(
    ("window", "says"),
    [("gtk", "has a window of its own"), ("dbus", "D-Bus"), ("none", "nothing to look at"),
     ("egl-headless", "nothing to look at")],
)
def test_nothing_to_show(window: str, says: str) -> None:
    with pytest.raises(HostError, match=says):
        choose(shown(window), "vm", lambda name: True)


def test_a_viewer_that_does_not_fit() -> None:
    with pytest.raises(UsageError, match="remote-viewer, spicy"):
        choose(shown(spice=SPICE), "vm", lambda name: True, "vncviewer")


@pytest.mark.parametrize(
    ("filename", "kind", "where", "taken"),
    [
        ("disconnected:unix:/run/a b/s.sock,server=on", "unix", "/run/a b/s.sock", False),
        ("unix:/run/s.sock,server=on", "unix", "/run/s.sock", True),
        ("disconnected:tcp:127.0.0.1:4444,server=on", "tcp", "127.0.0.1:4444", False),
        ("tcp:127.0.0.1:4444,server=on <-> 127.0.0.1:5555", "tcp", "127.0.0.1:4444", True),
        ("pty:/dev/pts/3", "pty", "/dev/pts/3", False),
        ("file", "file", "", True),
    ],
)
def test_ports(filename: str, kind: str, where: str, taken: bool) -> None:
    port = port_of({"label": "serial0", "filename": filename})
    assert (port.kind, port.where, port.taken) == (kind, where, taken)


def test_escape_keys() -> None:
    assert [escape_key(k) for k in ("^]", "ctrl-]", "^A", "ctrl-a", "~")] == [29, 29, 1, 1, 126]
    for wrong in ("", "^", "^ab", "foo", "^é", "^1"):
        with pytest.raises(ValueError, match="a key like"):
            escape_key(wrong)


def test_keys() -> None:
    assert combination("Ctrl-Alt-Del") == ("ctrl", "alt", "delete")
    assert combination("enter") == ("ret",)
    assert typed("aB_") == [("a",), ("shift", "b"), ("shift", "minus")]
    for wrong in ("", "a-", "-"):
        with pytest.raises(UsageError, match="no key"):
            combination(wrong)
    with pytest.raises(UsageError, match="American"):
        typed("é")


def test_without_a_screen_the_way_to_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)

    def hint(through: str = "") -> str:
        with pytest.raises(HostError) as caught:
            can_show(Choice(["remote-viewer"]), "my vm", through)
        return caught.value.problems[0].hint

    here = "; here: qlaunch screenshot 'my vm' FILE.png"
    assert hint() == f"on the desktop: qlaunch view 'my vm'{here}"
    assert hint("on rack7 ").startswith("on the desktop: qlaunch on rack7 view 'my vm'; here: ")
    monkeypatch.setenv("SSH_CONNECTION", "::1 1 ::1 22")
    assert hint() == f"where you sit: qlaunch on {socket.gethostname()} view 'my vm'{here}"
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    can_show(Choice(["remote-viewer"]), "my vm")
