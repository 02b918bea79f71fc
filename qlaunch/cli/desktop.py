"""A shortcut per profile in the desktop's menus: install it, remove it, list
them.

The entry's lines say start, view, stop and recover: the verbs of these names,
with their errors and warnings in windows and notifications.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from qlaunch.cli.known import machine_name
from qlaunch.cli.text import columns, nearest, say, write, write_json
from qlaunch.desktop.entry import (
    ERAS,
    MARK,
    NAME_MARK,
    Shortcut,
    entry_text,
    file_name,
    icon_name,
    read_entry,
)
from qlaunch.errors import EXIT_OK, HostError, Problem, UsageError

EXAMPLE = """\
example:
  qlaunch desktop install win7.toml
  qlaunch desktop list
  qlaunch desktop remove win7
  sudo qlaunch desktop install /etc/qlaunch/win7.toml --system
  qlaunch desktop start win7.toml     as the entry does: words are windows
"""
STARTED = ("start", "view", "stop", "recover")
KEPT = ("install", "remove", "list")
SYSTEM = Path("/usr/share")
ICONS = Path(__file__).parents[1] / "data/icons"
LARGEST = 1 << 16  # bytes of an entry
NOBODY = 65534  # the overflow uid


class Found(NamedTuple):
    """An entry of ours."""

    file: Path
    name: str
    profile: str
    icon: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which profile or machine."""
    parser.add_argument("action", metavar="ACTION",
                        help=f"{', '.join(KEPT)}; or {', '.join(STARTED)}, as an entry says them")
    parser.add_argument("what", metavar="PROFILE|NAME", nargs="?",
                        help="the profile to install or start; else the machine's name")
    parser.add_argument("--system", action="store_true",
                        help=f"for all users, in {SYSTEM}: needs root")
    parser.add_argument("--json", action="store_true", help="list them for machines")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[],
                        dest="overrides", help="start: override one key")
    parser.add_argument("--install", action="store_true", help="start: as run --install does")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    where = f"qlaunch desktop {args.action}"
    if args.action not in (*KEPT, *STARTED):
        near = nearest(args.action, (*KEPT, *STARTED))
        raise UsageError(Problem(
            "there is no such action", "qlaunch desktop", found=args.action,
            allowed=", ".join((*KEPT, *STARTED)),
            hint=f"did you mean {near}?" if near else "qlaunch desktop --help",
        ))
    if (args.what is None) != (args.action == "list"):
        what = "PROFILE" if args.action in ("install", "start") else "NAME"
        raise UsageError(Problem(
            "this takes nothing to name" if args.what else f"name a {what}", where,
            found=args.what or "", hint=f"{where}{f' {what}' * (args.action != 'list')}",
        ))
    if args.action in STARTED:
        from qlaunch.cli.shortcut import started

        options = [word for each in args.overrides for word in ("--set", each)]
        return started(program(), args.action, args.what,
                       [*options, *["--install"] * args.install])
    data = data_home(system=args.system)
    if args.action == "list":
        return _list(data, json=args.json)
    return _remove(data, args.what) if args.action == "remove" else _install(data, args.what)


def data_home(*, system: bool) -> Path:
    """Where entries and icons go. Raises UsageError for root behind sudo, whose menus are no
    one's."""
    if system:
        return SYSTEM
    if os.geteuid() == 0 and (os.environ.get("SUDO_UID") or os.environ.get("PKEXEC_UID")):
        raise UsageError(Problem("root has no menus of yours", "qlaunch desktop",
                                 hint="without sudo; or for all users, with --system"))
    named = os.environ.get("XDG_DATA_HOME", "")
    return Path(named) if named.startswith("/") else Path.home() / ".local/share"


def program() -> tuple[str, ...]:
    """The words that start this very qlaunch from anywhere."""
    import shutil
    import sys

    called = sys.argv[0] if Path(sys.argv[0]).name == "qlaunch" else ""
    beside = str(Path(sys.executable).parent / "qlaunch")
    for name in (called, beside, "qlaunch"):
        found = shutil.which(name) if name else None
        if found:
            return (os.path.abspath(found),)  # noqa: PTH100 - a link may be what is kept up to date
    return (sys.executable, "-m", "qlaunch")


def _install(data: Path, text: str) -> int:
    from qlaunch.profile.find import find_profile
    from qlaunch.profile.read import read_profile

    path = os.path.abspath(find_profile(text))  # noqa: PTH100 - links stay links
    profile = read_profile(path).profile
    shortcut = Shortcut(
        profile.name, profile.guest, path, program(), Path(profile.qemu.binary).name,
        bool(profile.pci or profile.vgpu),
    )
    file = data / "applications" / file_name(profile.name)
    _refuse(file, profile.name, path)
    try:
        made = entry_text(shortcut)
    except ValueError as error:
        raise HostError(Problem("a desktop entry cannot say this path", ascii(path),
                                found="it is no UTF-8" if isinstance(error, UnicodeError)
                                else str(error), hint="rename the file")) from None
    icon = icon_name(profile.guest)
    icons = data / "icons/hicolor/scalable/apps"
    try:
        _put(icons / f"{icon}.svg", (ICONS / f"{_era(icon)}.svg").read_bytes())
        os.utime(data / "icons/hicolor")  # an icon-theme.cache that is older is read anew
        _put(file, made.encode())
    except OSError as error:
        raise _not_written(error, data) from None
    say(f"{profile.name}: {file}")
    if data == SYSTEM:
        _tell_for_all(path)
    return EXIT_OK


def _tell_for_all(path: str) -> None:
    """A user's profile in everybody's menu: root acts on it for that user alone."""
    from qlaunch.facts.files import can_access
    from qlaunch.profile.trust import check_trust

    problems = check_trust(path, os.stat(path), None).problems  # noqa: PTH116
    found = problems[0].found if problems else "nobody else may read it"
    if problems or not can_access(path, NOBODY, NOBODY, (), "r"):
        say(str(Problem("others have this shortcut, and cannot start it", path, found=found,
                        hint="keep the profile in /etc/qlaunch, root's, and readable by all",
                        severity="warning")))


def _era(icon: str) -> str:
    return next(era for era in ERAS if icon_name(era) == icon)


def _refuse(file: Path, name: str, path: str) -> None:
    """What is there already may be ours of this profile, or of one that is gone."""
    if not os.path.lexists(file):
        return
    found = _read(file)
    if found is None:
        raise HostError(Problem("there is a file that is not qlaunch's", str(file),
                                hint="move it away"))
    if found.profile != path and os.path.lexists(found.profile):
        raise HostError(Problem(f"another profile has the shortcut {name}", str(file),
                                found=found.profile, hint=f"qlaunch desktop remove '{name}'"))


def _put(path: Path, data: bytes) -> None:
    """Whole or not at all; not written when it is so already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink() and path.is_file() and path.read_bytes() == data:
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.chmod(0o644)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _not_written(error: OSError, data: Path) -> HostError:
    place = error.filename or str(data)
    hint = f"namei -l {quote(str(place))} shows what is in the way"
    if data == SYSTEM and os.geteuid():
        hint = "--system is for root: sudo qlaunch desktop …"
    return HostError(Problem("the shortcut cannot be written", place,
                             found=error.strerror or str(error), hint=hint))


def _remove(data: Path, text: str) -> int:
    name = machine_name(text)
    every = entries(data)
    mine = [found for found in every if found.name == name]
    if not mine and data != SYSTEM and any(found.name == name for found in entries(SYSTEM)):
        raise HostError(Problem(f"the shortcut for {name} is for all users", str(SYSTEM),
                                hint=f"sudo qlaunch desktop remove '{name}' --system"))
    if not mine:
        near = nearest(name, [found.name for found in every])
        raise HostError(Problem(f"there is no shortcut for {name}", str(data / "applications"),
                                hint=f"did you mean {near}?" if near else "qlaunch desktop list"))
    left = {found.icon for found in every if found.name != name}
    try:
        for found in mine:
            found.file.unlink(missing_ok=True)
            if found.icon not in left and found.icon in map(icon_name, ERAS):
                icon = data / "icons/hicolor/scalable/apps" / f"{found.icon}.svg"
                icon.unlink(missing_ok=True)
            say(f"{name}: {found.file} is removed")
    except OSError as error:
        raise _not_written(error, data) from None
    return EXIT_OK


def _list(data: Path, *, json: bool) -> int:
    """Those of the menus that this user sees: their own, and those for all."""
    own = [] if data == SYSTEM else [(found, "you") for found in entries(data)]
    every = [*own, *((found, "all") for found in entries(SYSTEM))]
    if json:
        write_json([
            {"name": f.name, "profile": f.profile, "file": str(f.file), "system": whose == "all",
             "profile_found": os.path.lexists(f.profile)} for f, whose in every
        ])
        return EXIT_OK
    rows = [
        (f.name, "ok" if os.path.lexists(f.profile) else "gone", whose, f.profile)
        for f, whose in every
    ]
    write(columns(rows, ("NAME", "FILE", "FOR", "PROFILE")) if rows else "no shortcuts\n")
    return EXIT_OK


def entries(data: Path) -> list[Found]:
    """Ours, by name."""
    found = map(_read, sorted((data / "applications").glob("qlaunch-*.desktop")))
    return sorted((each for each in found if each), key=lambda each: each.name)


def _read(file: Path) -> Found | None:
    """None for what is not ours, or not to be read."""
    try:
        if not file.is_file():
            return None
        with file.open(encoding="utf-8", newline="\n") as text:
            keys = read_entry(text.read(LARGEST))
    except (OSError, UnicodeError):
        return None
    if not (keys.get(MARK) and keys.get(NAME_MARK)):
        return None
    return Found(file, keys[NAME_MARK], keys[MARK], keys.get("Icon", ""))
