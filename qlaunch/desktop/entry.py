"""The text of a `.desktop` entry, and back: the freedesktop Desktop Entry Specification 1.5.

A value is escaped twice in `Exec`: arguments are quoted for whoever starts them, and the line is
then a string of the file like any other. Pure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

GROUP = "Desktop Entry"
MARK = "X-Qlaunch-Profile"
NAME_MARK = "X-Qlaunch-Name"
ERAS = {
    "windows7": "Windows 7", "windows10": "Windows 10", "windows11": "Windows 11",
    "linux": "Linux", "other": "",
}
# The reserved characters of the specification; anything else outside of letters is quoted too.
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+|%%")
_STRING = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_UNSTRING = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


class Shortcut(NamedTuple):
    """What one entry is made of; `program` is what starts qlaunch, `profile` a whole path."""

    name: str
    era: str
    profile: str
    program: tuple[str, ...]
    qemu: str  # the QEMU program's own name: GTK makes the class of its windows of it
    devices: bool  # whether any is passed


def quote_argument(word: str) -> str:
    """One argument of `Exec`, before the escaping of strings."""
    if word and all(_PLAIN.fullmatch(part) for part in re.split("(%%)", word) if part):
        return word.replace("%", "%%")
    escaped = re.sub(r'([\\"`$])', r"\\\1", word)
    return '"' + escaped.replace("%", "%%") + '"'


def exec_line(words: tuple[str, ...]) -> str:
    """The value of `Exec`, as it stands in the file."""
    return escape_string(" ".join(quote_argument(word) for word in words))


def escape_string(text: str) -> str:
    """A value of type string. Raises ValueError for what a file in UTF-8 cannot hold."""
    text.encode()  # a name that is no UTF-8
    if any(ord(char) < 32 and char not in _STRING for char in text) or "\x7f" in text:
        raise ValueError("a control character")
    escaped = "".join(_STRING.get(char, char) for char in text)
    # Spaces at both ends are nobody's.
    escaped = re.sub(r"^ +", lambda found: "\\s" * len(found[0]), escaped)
    return re.sub(r" +$", lambda found: "\\s" * len(found[0]), escaped)


def unescape_string(text: str) -> str:
    """A value as it stands in the file → what it means."""
    return re.sub(r"\\([sntr\\])", lambda found: _UNSTRING[found[1]], text)


def entry_text(shortcut: Shortcut) -> str:
    """The whole file. Raises ValueError as `escape_string` does."""
    guest = ERAS.get(shortcut.era, "")
    words = {
        "Type": "Application",
        "Version": "1.1",
        "Name": shortcut.name,
        "Comment": f"{guest} in a virtual machine" if guest else "A virtual machine",
        "Icon": icon_name(shortcut.era),
        "Categories": "System;Emulator;",
        "Keywords": "qlaunch;qemu;virtual;",
        "Terminal": "false",
        "StartupNotify": "true",
        "StartupWMClass": shortcut.qemu[:1].upper() + shortcut.qemu[1:],
        "Actions": "".join(f"{key};" for key in _actions(shortcut)),
        MARK: shortcut.profile,
        NAME_MARK: shortcut.name,
    }
    own = (*shortcut.program, "desktop")
    lines = [f"[{GROUP}]", *(f"{key}={escape_string(text)}" for key, text in words.items())]
    lines.append(f"Exec={exec_line((*own, 'start', shortcut.profile))}")
    for key, (title, arguments) in _actions(shortcut).items():
        lines += [
            "", f"[Desktop Action {key}]", f"Name={escape_string(title)}",
            f"Exec={exec_line((*own, *arguments))}",
        ]
    return "\n".join(lines) + "\n"


def _actions(shortcut: Shortcut) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Action → its title, and the words after `qlaunch desktop`."""
    name, profile = shortcut.name, shortcut.profile
    back = "Give card back" if shortcut.devices else "Clean up"
    return {
        "start": ("Start", ("start", profile)),
        "headless": ("Start headless", ("start", profile, "--set", "display.type=none")),
        "install": ("Install mode", ("start", profile, "--install")),
        "view": ("View", ("view", name)),
        "stop": ("Stop", ("stop", name)),
        "recover": (back, ("recover", name)),
    }


def icon_name(era: str) -> str:
    """The icon's name in its theme."""
    return f"qlaunch-{era if era in ERAS else 'other'}"


def file_name(name: str) -> str:
    """The entry's file."""
    return f"qlaunch-{name}.desktop"


def read_entry(text: str) -> dict[str, str]:
    """Keys of the main group with their meanings; comments and other groups are left out."""
    found: dict[str, str] = {}
    group = ""
    for line in text.split("\n"):
        if line.startswith("["):
            group = line.strip()
        elif group == f"[{GROUP}]" and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key.strip(), unescape_string(value.strip(" ")))
    return found
