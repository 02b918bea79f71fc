"""From what is typed as PROFILE to a file: a path, or a name looked up in three directories."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from qlaunch.errors import Problem, ProfileError
from qlaunch.profile.files import shown
from qlaunch.profile.paths import home_directory

SYSTEM_DIRECTORY = Path("/etc/qlaunch")
_MOST_NAMES = 1000
_MOST_TEXT = 1 << 16  # bytes that are looked at for a word of ours
_HEADER = r"(?m)^[ \t]*\[\[?[ \t]*[\"']?([\w-]+)"
_KEY = r"(?m)^[ \t]*([\w-]+)[\w \t.\"'-]*="
_FIRST = 'the least that a profile says is [[disk]] and below it file = "NAME.img"'


def profile_directories(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Where names are looked up, in order: ./, ~/.config/qlaunch/, /etc/qlaunch/.

    Under sudo or pkexec `~` is the asking user's.
    """
    env = os.environ if environ is None else environ
    config = env.get("XDG_CONFIG_HOME", "")
    if not config.startswith("/"):  # the XDG specification says to ignore a relative one
        config = f"{home_directory()}/.config"
    return Path(), Path(config) / "qlaunch", SYSTEM_DIRECTORY


def profile_names(directories: tuple[Path, ...] | None = None) -> list[str]:
    """The names that `find_profile` would find, each once, in order of lookup."""
    where = profile_directories() if directories is None else directories
    return list(dict.fromkeys(name for directory in where for name in _names(directory)))


def find_profile(text: str, directories: tuple[Path, ...] | None = None) -> Path:
    """The file for a PROFILE argument. Raises ProfileError that says where it looked.

    What has a slash or ends in .toml is a path; anything else is a name. A file of exactly that
    name in the current directory is taken when no profile of the name is there.
    """
    where = profile_directories() if directories is None else directories
    if "/" in text or text.endswith(".toml"):
        path = Path(text)
        if _exists(path):
            return path
        raise _not_found(text, "there is no such file", "", list(_names(path.parent)), path.stem)
    for directory in where:
        path = directory / f"{text}.toml"
        if text and _exists(path):
            return path
    if text and Path(text).is_file():
        return Path(text)
    looked = ", ".join(f"{directory}/" for directory in where)
    raise _not_found(text, "there is no profile of this name", looked, profile_names(where), text)


def _exists(path: Path) -> bool:
    """Whether there is something to read; what it is, the reader says better."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the name
        return False


def _names(directory: Path) -> Iterator[str]:
    try:
        found = sorted(p for p in directory.iterdir() if p.suffix == ".toml")
    except OSError:
        return
    yield from (path.stem for path in found[:_MOST_NAMES] if not _foreign(path))


def _foreign(path: Path) -> bool:
    """Whether this is some other program's TOML (pyproject.toml): it says something, and nothing
    that a profile can say. What cannot be read or is broken may be a profile."""
    from qlaunch.profile.profile import Profile

    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            text = file.read(_MOST_TEXT).decode("utf-8", "replace")
    except OSError:
        return False
    first = re.search(_HEADER, text)
    words = {
        *re.findall(_HEADER, text), *re.findall(_KEY, text[: first.start()] if first else text)
    }
    return bool(words) and words.isdisjoint(Profile.__struct_fields__)


def _not_found(
    text: str, message: str, looked: str, names: list[str], wanted: str
) -> ProfileError:
    from qlaunch.profile.spelling import nearest

    near = nearest(wanted, names)
    hint = f"did you mean {shown(near)}?" if near else _FIRST
    if names and not near:
        hint = f"there is {', '.join(map(shown, names[:5]))}{', …' * (len(names) > 5)}"
    if looked:
        message = f"{message} in {looked}"
    return ProfileError(Problem(message, where=shown(text) or '""', hint=hint))
