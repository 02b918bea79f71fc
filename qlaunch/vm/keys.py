"""Keys that a machine is sent: names as people write them → QEMU's (qapi/ui.json QKeyCode).

A text is typed as on an American keyboard, whatever layout the guest thinks it has: QEMU sends
the places of keys, not letters.
"""

from __future__ import annotations

import string
from typing import Any

from qlaunch.errors import Problem, UsageError
from qlaunch.vm.loop import asyncio
from qlaunch.vm.monitor import Monitor

ALIASES = {
    "del": "delete", "enter": "ret", "return": "ret", "escape": "esc", "win": "meta_l",
    "windows": "meta_l", "super": "meta_l", "meta": "meta_l", "control": "ctrl", "strg": "ctrl",
    "altgr": "alt_r", "space": "spc", "pageup": "pgup", "pagedown": "pgdn", "ins": "insert",
    "break": "pause", "prtsc": "print", "capslock": "caps_lock", "numlock": "num_lock",
    "scrolllock": "scroll_lock",
}
HOLD = 60  # ms that a key is down
GAP = 0.03  # seconds between two: a BIOS that polls must see both
_PLAIN = {
    " ": "spc", "\n": "ret", "\t": "tab", "-": "minus", "=": "equal", "[": "bracket_left",
    "]": "bracket_right", "\\": "backslash", ";": "semicolon", "'": "apostrophe",
    "`": "grave_accent", ",": "comma", ".": "dot", "/": "slash",
}
_SHIFTED = dict(zip('!@#$%^&*()_+{}|:"~<>?', "1234567890-=[]\\;'`,./", strict=True))


def combination(text: str) -> tuple[str, ...]:
    """`ctrl-alt-del` → ("ctrl", "alt", "delete"). Raises UsageError for an empty part."""
    parts = text.lower().split("-")
    if not all(parts):
        raise UsageError(Problem("this is no key", found=text or '""',
                                 hint="keys that are down together: ctrl-alt-delete"))
    return tuple(ALIASES.get(part, part) for part in parts)


def typed(text: str) -> list[tuple[str, ...]]:
    """The keys of a text, one after the other. Raises UsageError for a letter that has none."""
    return [_letter(letter) for letter in text]


def _letter(letter: str) -> tuple[str, ...]:
    if letter in string.ascii_lowercase or letter in string.digits:
        return (letter,)
    if letter in string.ascii_uppercase:
        return ("shift", letter.lower())
    if letter in _PLAIN:
        return (_PLAIN[letter],)
    if letter in _SHIFTED:
        return ("shift", *_letter(_SHIFTED[letter]))
    raise UsageError(Problem("an American keyboard has no key for this", found=repr(letter),
                             allowed="ASCII",
                             hint="a name for its key, such as alt-e: qlaunch sendkey --help"))


async def known_keys(monitor: Monitor) -> list[str]:
    """This QEMU's names; they are an enumeration without a name in its schema."""
    schema = await monitor.execute("query-qmp-schema")
    for one in schema:
        if one["meta-type"] == "enum" and {"meta_l", "kp_enter"} <= set(one["values"]):
            return [str(value) for value in one["values"]]
    return []


async def send(monitor: Monitor, combinations: list[tuple[str, ...]], hold: int = HOLD) -> None:
    """Press each combination, and let go of it before the next. Raises HostError."""
    for index, keys in enumerate(combinations):
        if index:
            await asyncio.sleep(hold / 1000 + GAP)
        arguments: dict[str, Any] = {
            "keys": [{"type": "qcode", "data": key} for key in keys], "hold-time": hold,
        }
        await monitor.execute("send-key", arguments)
    # QEMU lets go by a timer, and drops what is still down when the next connection sends keys.
    await asyncio.sleep(hold / 1000)
