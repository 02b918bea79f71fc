"""Whose machine it is: who asked, with what power, and whom QEMU runs as.

`uid`, `gid`, `name`, `home`, `groups` and `runtime_dir` are those of the account QEMU runs as:
the user that the profile names; else, when we are root, the one who asked through sudo or pkexec,
so that their files, screen and sound work; else, when root itself asked, one of the machine's own
(`nobody` where no machine is meant); and without root our own. `asked` is the uid behind sudo or
pkexec, whoever QEMU runs as. SUDO_UID and PKEXEC_UID are believed as root only: anyone can set
them. Set-user-ID root, it is the real uid, and they are not believed at all.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from qlaunch.errors import HostError, Problem
from qlaunch.facts.model import Invoker
from qlaunch.facts.screen import screen_fault

_NOBODY = 65534  # the overflow uid; the name is `nobody` everywhere, its group is not


def read_invoker(
    user: str = "",
    *,
    machine: str = "",
    trusted: bool = True,
    environ: Mapping[str, str] | None = None,
    euid: int | None = None,
) -> Invoker:
    """`user` is [qemu] user, a name or a uid; `machine` the machine's name. Raises HostError when
    the user is nobody's, and when the profile of somebody who asked for root names anybody but
    them (it is not `trusted`): what it says is run, and opened, as that user.

    `environ` and `euid` stand for the process's own (tests).
    """
    env = os.environ if environ is None else environ
    own = os.geteuid() if euid is None else euid
    real = os.getuid() if euid is None else own
    asked = (_asked(env) if real == 0 else real) if own == 0 else None
    if user:
        entry = _named(user)
        if not trusted and own == 0 and entry.pw_uid != asked:
            raise HostError(Problem(
                "only a profile of root's own may choose whom QEMU runs as", "qemu.user",
                found=user, hint="leave the key out: QEMU runs as the user who asked",
            ))
    elif own != 0:
        entry = _known(own)
    elif asked is not None:
        entry = _known(asked)
    else:
        entry = _machines(machine) if machine else _nobody()
    uid = entry.pw_uid
    by_sudo = uid == asked and not user and real == own
    gid = _number(env.get("SUDO_GID")) if by_sudo else None
    primary = entry.pw_gid if gid is None else gid
    found = Invoker(
        root=own == 0,
        uid=uid,
        gid=primary,
        name=entry.pw_name,
        home=_home(entry, own, env),
        groups=_groups(entry, primary, own),
        runtime_dir=_runtime_dir(uid, own, asked, env),
        asked=asked,
    )
    fault = screen_fault(env, found)
    return replace(found, display=not fault, no_display=fault)


def _asked(env: Mapping[str, str]) -> int | None:
    """pkexec empties the environment, so its word beside sudo's is the outer one: the person."""
    for key in ("PKEXEC_UID", "SUDO_UID"):
        uid = _number(env.get(key))
        if uid:  # 0: root asked root
            try:
                return pwd.getpwuid(uid).pw_uid
            except KeyError:
                continue
    return None


def _number(text: str | None) -> int | None:
    """Digits only: int() would take " 1_000", and setuid anything below 2**32."""
    if text and text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text) if int(text) < 2**32 - 1 else None
    return None


def _named(user: str) -> pwd.struct_passwd:
    try:
        number = _number(user)
        return pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except KeyError:
        from difflib import get_close_matches

        near = get_close_matches(user, [entry.pw_name for entry in pwd.getpwall()], n=1)
        hint = f"did you mean {near[0]}?" if near else "name an account of this host"
        raise HostError(Problem(f"there is no user {user}", "qemu.user", hint=hint)) from None


def _known(uid: int) -> pwd.struct_passwd:
    """A uid without an account (a container's) runs all the same, with no name and no home."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        gid = os.getegid() if uid == os.geteuid() else uid
        return pwd.struct_passwd((str(uid), "x", uid, gid, "", "/", "/bin/sh"))


def _machines(name: str) -> pwd.struct_passwd:
    from qlaunch.facts.own_uid import own_uid

    uid = own_uid(name)
    if uid is None:
        return _nobody()
    return pwd.struct_passwd((f"uid {uid}", "x", uid, uid, "", "/nonexistent", "/bin/sh"))


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        return pwd.struct_passwd(("nobody", "x", _NOBODY, _NOBODY, "", "/", "/bin/sh"))


def _groups(entry: pwd.struct_passwd, gid: int, own: int) -> tuple[int, ...]:
    """Supplementary groups and the primary one: of ourselves as they are, of others as listed."""
    if entry.pw_name.startswith("uid "):
        return (gid,)
    if entry.pw_uid == own and own == os.geteuid():
        return tuple(sorted({gid, *os.getgroups()}))
    try:
        return tuple(sorted({gid, *os.getgrouplist(entry.pw_name, gid)}))
    except OSError:
        members = (group.gr_gid for group in grp.getgrall() if entry.pw_name in group.gr_mem)
        return tuple(sorted({gid, *members}))


def _home(entry: pwd.struct_passwd, own: int, env: Mapping[str, str]) -> str:
    """HOME is an ordinary user's to set; root's environment says nothing of another's."""
    named = env.get("HOME", "")
    return named if own and entry.pw_uid == own and named.startswith("/") else entry.pw_dir


def _runtime_dir(uid: int, own: int, asked: int | None, env: Mapping[str, str]) -> str:
    """XDG_RUNTIME_DIR is ours, or that of who asked, whose it is then; another account's is where
    pam_systemd puts it, if logged in."""
    named = env.get("XDG_RUNTIME_DIR", "")
    if named.startswith("/") and (uid == own or (uid == asked and _belongs(named, uid))):
        return named
    path = f"/run/user/{uid}"
    return path if Path(path).is_dir() else ""


def _belongs(path: str, uid: int) -> bool:
    try:
        return Path(path).stat().st_uid == uid
    except OSError:
        return False
