"""Key paths: how a place inside a profile is named.

A path is a tuple of keys and list indexes; its text form (`disk[1].bus`) is what messages show,
what `--set` takes and what the plan gives as the reason of an option.
"""

from __future__ import annotations

import re
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

# Text until it is used, which is when something has to be said.
_BARE = r"[A-Za-z0-9_-]+"
_INDEX = r"\[([0-9]{1,4})\]"
BASIC_STRING = r'"((?:[^"\\\n]|\\.)*)"'
LITERAL_STRING = r"'([^'\n]*)'"
_ESCAPE = r"(?s)\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)"
_LETTERS = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def key_text(path: KeyPath) -> str:
    """`("disk", 1, "bus")` → `disk[1].bus`; a key that is not bare is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + spell_key(part)
    return text


def spell_key(key: str) -> str:
    """A key as TOML would write it, shortened to 60 characters."""
    if re.fullmatch(_BARE, key):
        return key if len(key) <= 60 else key[:59] + "…"
    return quote(key)


def quote(text: str, limit: int = 60) -> str:
    """A basic string with its escapes, the whole shortened to `limit` characters."""
    cut = "".join(_escaped(c) for c in text[:limit])
    if len(text) > limit or len(cut) > limit - 2:
        return f'"{cut[: limit - 3]}…"'
    return f'"{cut}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    for letter, meant in _LETTERS.items():
        if char == meant and letter != "e":  # a TOML before 1.1 has no \e
            return "\\" + letter
    if char.isprintable():
        return char
    return f"\\u{ord(char):04X}" if ord(char) < 0x10000 else f"\\U{ord(char):08X}"


def unescape(text: str) -> str:
    """The inside of a basic string, escapes resolved (invalid ones are kept as written)."""
    return re.sub(_ESCAPE, _meant, text)


def _meant(match: re.Match[str]) -> str:
    body = match[1]
    if body[0] in "xuU" and len(body) > 1:
        number = int(body[1:], 16)
        return chr(number) if number <= 0x10FFFF else match[0]
    return _LETTERS.get(body, body)


def match_key(text: str, at: int) -> tuple[str, int] | None:
    """One key, bare or quoted, at an offset → (key, offset behind it)."""
    if match := re.compile(_BARE).match(text, at):
        return match[0], match.end()
    if match := re.compile(BASIC_STRING).match(text, at):
        return unescape(match[1]), match.end()
    if match := re.compile(LITERAL_STRING).match(text, at):
        return match[1], match.end()
    return None


def parse_key(text: str) -> KeyPath:
    """`disk[1].bus` → `("disk", 1, "bus")`. Raises ValueError that says where it stopped."""
    path: list[str | int] = []
    at = 0
    while True:
        found = match_key(text, at)
        if found is None:
            raise ValueError(f"a key is wanted at column {at + 1}")
        key, at = found
        path.append(key)
        while match := re.compile(_INDEX).match(text, at):
            path.append(int(match[1]))
            at = match.end()
        if at == len(text):
            return tuple(path)
        if text[at] != ".":
            raise ValueError(f'"." or "[number]" is wanted at column {at + 1}')
        at += 1
