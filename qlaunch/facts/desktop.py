"""What the user that QEMU runs as can draw with and be heard through.

GPUs are found by their render nodes (/sys/class/drm/renderD*). Sound server, session bus and
Wayland are sockets in the user's runtime directory: the only trace of a session that root sees
without asking anybody (XDG base directories; pipewire(1), pulseaudio's native protocol).
"""

from __future__ import annotations

import grp
import os
import re
from pathlib import Path

from qlaunch.facts.desktop_model import Desktop, RenderNode
from qlaunch.facts.files import can_access
from qlaunch.facts.model import Invoker
from qlaunch.facts.tree import base_of, link_name, link_target, list_names, read_attribute
from qlaunch.values import PciAddress, parse_pci_address

_SOCKETS = {"pipewire": "pipewire-0", "pulse": "pulse/native", "bus": "bus"}
_ADDRESS = re.compile(r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$")
_RW = 0o060


def read_desktop(account: Invoker | None, root: Path = Path("/")) -> Desktop:
    """Render nodes by name, the sockets that are there, and kvmfr's regions. Raises nothing."""
    base = base_of(root)
    names = [n for n in list_names(f"{base}/sys/class/drm") if n.startswith("renderD")]
    names.sort(key=lambda n: (len(n), n))
    sizes = read_attribute(f"{base}/sys/module/kvmfr/parameters/static_size_mb")
    return Desktop(
        render=tuple(_node(root, name, account) for name in names),
        sockets=_sockets(base, account.runtime_dir) if account and account.runtime_dir else {},
        kvmfr=None if sizes is None else tuple(
            int(size) << 20 for size in sizes.split(",") if size.strip().isdigit()
        ),
    )


def _node(root: Path, name: str, account: Invoker | None) -> RenderNode:
    base = base_of(root)
    device = f"{base}/sys/class/drm/{name}/device"
    path = f"{base}/dev/dri/{name}"
    try:
        status = Path(path).stat()
        group = _group(status.st_gid) if status.st_mode & _RW == _RW else ""
    except OSError:
        group = ""
    usable = Path(path).exists() and (
        account is None
        or can_access(path, account.uid, account.gid, account.groups, "rw", top=str(root))
    )
    return RenderNode(
        path=f"/dev/dri/{name}", pci=_pci(link_target(device)),
        driver=link_name(f"{device}/driver") or "", usable=usable, group=group,
    )


def _pci(target: str | None) -> PciAddress | None:
    """The nearest PCI function above; None for a GPU on another bus, or a virtual one."""
    parts = reversed((target or "").split("/"))
    return next((parse_pci_address(p) for p in parts if _ADDRESS.match(p)), None)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _sockets(base: str, runtime_dir: str) -> dict[str, str]:
    names = [n for n in list_names(f"{base}{runtime_dir}") if re.fullmatch(r"wayland-[0-9]+", n)]
    wanted = {**_SOCKETS, "wayland": names[0]} if names else _SOCKETS
    return {
        name: f"{runtime_dir}/{path}" for name, path in wanted.items()
        if os.path.lexists(f"{base}{runtime_dir}/{path}")
    }
