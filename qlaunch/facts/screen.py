"""Whether the user that QEMU runs as can open a window on the desktop this was started from.

Wayland is a socket: WAYLAND_DISPLAY is its path, or its name in XDG_RUNTIME_DIR
(wl_display_connect(3)); GTK 3 wants that directory in both cases. X asks for the cookie in
XAUTHORITY, else in ~/.Xauthority (Xsecurity(7)); a server that knows its user by the uid asks for
none, so a cookie that is missing is no fault.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from qlaunch.facts.model import Invoker


def screen_fault(env: Mapping[str, str], user: Invoker) -> str:
    """Why `user` cannot, "" when they can: what is set and cannot be used."""
    faults = [_wayland(env, user), _cookie(env, user)]
    if "" in faults:
        return ""
    return "; ".join(fault for fault in faults if fault) or _UNSET


_UNSET = "neither DISPLAY nor WAYLAND_DISPLAY is set"


def _wayland(env: Mapping[str, str], user: Invoker) -> str | None:
    """None: it is not set."""
    name = env.get("WAYLAND_DISPLAY", "")
    if not name:
        return None
    if not user.runtime_dir:
        return f"WAYLAND_DISPLAY is {name}, and {user.name} has no XDG_RUNTIME_DIR"
    name = os.path.join(user.runtime_dir, name)  # noqa: PTH118 - a whole path stays
    if not os.path.lexists(name):
        return f"there is no {name}"
    return "" if _may(name, user, "rw") else f"{user.name} may not use {name}"


def _cookie(env: Mapping[str, str], user: Invoker) -> str | None:
    if not env.get("DISPLAY"):
        return None
    path = env.get("XAUTHORITY") or f"{user.home}/.Xauthority"
    if not os.path.lexists(path) and not env.get("XAUTHORITY") and user.asked is None:
        path = f"{env.get('HOME', '')}/.Xauthority"  # root's own, who asks for itself
    if not os.path.lexists(path) or _may(path, user, "r"):
        return ""
    return f"{user.name} may not read {path}"


def _may(path: str, user: Invoker, want: str) -> bool:
    from qlaunch.facts.files import can_access

    return can_access(path, user.uid, user.gid, user.groups, want)
