"""Which processes have device nodes open, and how to make them let go.

Reads /proc/PID/fd of every process that we may look into: all of them as root, our own otherwise,
so that without root an empty answer is not a proof. A node that was mapped and then closed is not
seen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qlaunch.facts.model import Holder
from qlaunch.facts.tree import base_of, link_target, list_names, read_attribute, read_lines

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_COMM_LENGTH = 15  # TASK_COMM_LEN less its NUL
_DESKTOPS = frozenset((
    "Xorg", "Xwayland", "gnome-shell", "kwin_wayland", "kwin_x11", "mutter", "sway", "Hyprland",
    "weston", "labwc", "wayfire", "cosmic-comp", "niri", "gamescope",
))  # fmt: skip
_MANAGERS = ("gdm", "gdm3", "sddm", "lightdm", "lxdm", "display-manager", "greetd", "ly")


class _Unit(NamedTuple):
    """Where systemd has put a process."""

    name: str = ""
    user: bool = False  # below a user's own manager: `systemctl --user`


def read_process_holders(root: Path, nodes: Mapping[str, str]) -> dict[str, tuple[Holder, ...]]:
    """`nodes` maps a path (`/dev/dri/card0`) to the key its holders are collected under.

    One holder a process and key, naming all the nodes it has open; ourselves left out.
    """
    base = base_of(root)
    own = "" if base else str(os.getpid())
    found: dict[str, list[Holder]] = {}
    pids = (name for name in list_names(f"{base}/proc") if name.isdigit() and name != own)
    for pid in sorted(pids, key=int) if nodes else ():
        by_key: dict[str, list[str]] = {}
        for path in sorted(_open_paths(f"{base}/proc/{pid}/fd") & nodes.keys()):
            by_key.setdefault(nodes[path], []).append(path)
        for key, paths in by_key.items():
            found.setdefault(key, []).append(_holder(f"{base}/proc/{pid}", int(pid), paths))
    return {key: tuple(holders) for key, holders in found.items()}


def _open_paths(path: str) -> set[str]:
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError:
        return set()
    try:
        targets = (link_target(name, fd) for name in list_names(fd))
        return {target for target in targets if target and target.startswith("/dev/")}
    finally:
        os.close(fd)


def _holder(path: str, pid: int, nodes: list[str]) -> Holder:
    command = read_command(path)
    machine = read_machine(path) if command.startswith("qemu") else ""
    unit = _unit(path)
    return Holder(
        kind="vfio" if nodes[0].startswith("/dev/vfio/") else "process",
        what=", ".join(nodes),
        pid=pid,
        command=command,
        unit=unit.name,
        remedy=_remedy(command, pid, unit, machine),
    )


def read_command(path: str) -> str:
    """Of /proc/PID: `comm`, or the program's name when the kernel had to cut it."""
    comm = read_attribute(f"{path}/comm") or "?"
    if len(comm) == _COMM_LENGTH:
        program = (read_attribute(f"{path}/cmdline") or "").partition("\0")[0].rpartition("/")[2]
        if program.startswith(comm):
            return program
    return comm


def _unit(path: str) -> _Unit:
    """The last *.service or *.scope of its cgroup (v2, or v1's systemd hierarchy)."""
    for line in read_lines(f"{path}/cgroup"):
        number, controller, place = [*line.split(":", 2), "", ""][:3]
        parts = [p for p in place.split("/") if p.endswith((".service", ".scope"))]
        if parts and (number == "0" or controller == "name=systemd"):
            return _Unit(parts[-1], any(p.startswith("user@") for p in parts[:-1]))
    return _Unit()


def read_machine(path: str) -> str:
    """A QEMU's own name for its machine, from its `-name`."""
    words = (read_attribute(f"{path}/cmdline") or "").split("\0")
    if "-name" not in words[:-1]:
        return ""
    name = words[words.index("-name") + 1].partition(",")[0]
    return name.removeprefix("guest=")


def _remedy(command: str, pid: int, unit: _Unit, machine: str = "") -> str:
    stem, _, kind = unit.name.rpartition(".")
    session = stem.removeprefix("session-") if stem.startswith("session-") else ""
    if command.startswith("qemu"):
        return f"shut down the machine {machine or 'that has it'} (pid {pid})"
    if stem in _MANAGERS:
        return f"systemctl stop {unit.name}, which ends the desktop"
    if command in _DESKTOPS:
        return f"log out, or: loginctl terminate-session {session}" if session else (
            f"log out of the desktop that {command} draws"
        )
    if kind == "service" and not stem.startswith("user@"):
        return f"systemctl {'--user ' if unit.user else ''}stop {unit.name}"
    if kind == "scope" and not session and not unit.user:
        return f"systemctl stop {unit.name}"  # containers and other managers' machines
    return f"close {command}, or: kill {pid}"
