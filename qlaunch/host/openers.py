"""Which processes have VFIO open, asked when a device is not free and nobody knows why.

A device that was opened and passed on keeps its group in use although the group's own node is
closed: `fuser` on the node then shows nobody. The device's fd is an anonymous file
(drivers/vfio/vfio_main.c: "[vfio-device]"), of which /proc tells no address.
"""

from __future__ import annotations

import os
from pathlib import Path

from qlaunch.host.handler import Host

ANONYMOUS = "anon_inode:[vfio-device]"


def vfio_openers(host: Host, group: int) -> list[str]:
    """`PID (command) by FILE` of each process that has the group or any VFIO device open.

    Empty when there is none or when we may not look; ourselves left out.
    """
    found = []
    for process in _processes(host.path("proc")):
        files = _open_files(process / "fd") & {f"/dev/vfio/{group}", ANONYMOUS}
        if files and process.name != str(os.getpid()):
            name = sorted(files)[0].removeprefix("anon_inode:")
            found.append(f"pid {process.name} ({_command(process)}) by {name}")
    return found


def _processes(proc: Path) -> list[Path]:
    try:
        return sorted((p for p in proc.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    except OSError:
        return []


def _open_files(directory: Path) -> set[str]:
    found = set()
    try:
        for entry in directory.iterdir():
            found.add(os.readlink(entry))  # noqa: PTH115 - a link to no path
    except OSError:
        pass  # it has ended, or is not ours to look into
    return found


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
