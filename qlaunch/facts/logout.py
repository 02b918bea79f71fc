"""What becomes of a detached machine when its user logs out, where systemd-logind looks after
logins.

Two things can happen (logind.conf(5), loginctl(1)): KillUserProcesses=yes ends whatever is in the
session's scope, and without lingering the user's runtime directory is removed with the last
session, and the machine's sockets and journal with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from qlaunch.facts.tree import base_of, list_names, read_whole

_PLACES = ("etc", "run", "usr/local/lib", "usr/lib")
_SETTING = re.compile(r"^[ \t]*([A-Za-z]+)[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)
# Distributions differ in what logind does unasked; the file they ship says it in a comment.
_SHIPPED = re.compile(r"^#[ \t]*KillUserProcesses[ \t]*=[ \t]*(\w+)", re.MULTILINE)
_SCOPE = re.compile(r"/user-([0-9]+)\.slice/(session-[^/]+\.scope)")
_TRUE = ("1", "yes", "y", "true", "t", "on")


class Logout(NamedTuple):
    """`scope` is the session that we are in, "" outside of one; `kills`: it is emptied at logout;
    `loses`: the runtime directory goes with the last session."""

    scope: str = ""
    kills: bool = False
    loses: bool = False


def read_logout(user: str, uid: int, runtime_dir: str, root: Path = Path("/")) -> Logout:
    """For a machine of this user's, whose files are in `runtime_dir` ("" for root's, which stay).
    Raises nothing."""
    base = base_of(root)
    if not Path(f"{base}/run/systemd/seats").is_dir():  # logind's own: it does not run here
        return Logout()
    match = _SCOPE.search(_text(f"{base}/proc/self/cgroup"))
    scope = match[2] if match else ""
    lingers = user in list_names(f"{base}/var/lib/systemd/linger")
    return Logout(
        scope=scope,
        kills=match is not None and _kills(_settings(base), _owner(match[1], user, uid)),
        loses=runtime_dir == f"/run/user/{uid}" and not lingers,
    )


def read_manager(user: str, runtime_dir: str, root: Path = Path("/")) -> str:
    """Which systemd would keep a service of this user's ("" for root) over all logouts: "system",
    "user" (of one who lingers), or "". Raises nothing.

    Where systemd is PID 1 there is /run/systemd/system (sd_booted(3)); `private` is what
    systemd-run and systemctl speak to without a bus (src/core/dbus.c, bus_init_private).
    """
    base = base_of(root)
    if not Path(f"{base}/run/systemd/system").is_dir():
        return ""
    if not user:
        return "system" if Path(f"{base}/run/systemd/private").exists() else ""
    lingers = user in list_names(f"{base}/var/lib/systemd/linger")
    there = runtime_dir and Path(f"{base}{runtime_dir}/systemd/private").exists()
    return "user" if lingers and there else ""


def _owner(scope_uid: str, user: str, uid: int) -> str:
    """The session's user: root by sudo is still in the session of who asked."""
    if int(scope_uid) == uid:
        return user
    import pwd

    try:
        return pwd.getpwuid(int(scope_uid)).pw_name
    except KeyError:
        return scope_uid


def _kills(settings: dict[str, str], owner: str) -> bool:
    if settings.get("KillUserProcesses", "no").lower() not in _TRUE:
        return False
    only = settings.get("KillOnlyUsers", "").split()
    return owner in only if only else owner not in settings.get("KillExcludeUsers", "root").split()


def _settings(base: str) -> dict[str, str]:
    """The first logind.conf there is, and over it all drop-ins by name, /etc's before others'."""
    texts = (_text(f"{base}/{place}/systemd/logind.conf") for place in _PLACES)
    text = next(filter(None, texts), "")
    shipped = _SHIPPED.search(text)
    settings = {"KillUserProcesses": shipped[1]} if shipped else {}
    settings.update(_SETTING.findall(text))
    drop_ins: dict[str, str] = {}
    for place in _PLACES:
        directory = f"{base}/{place}/systemd/logind.conf.d"
        for name in list_names(directory):
            if name.endswith(".conf"):
                drop_ins.setdefault(name, f"{directory}/{name}")
    for name in sorted(drop_ins):
        settings.update(_SETTING.findall(_text(drop_ins[name])))
    return settings


def _text(path: str) -> str:
    return (read_whole(path) or b"").decode(errors="replace")
