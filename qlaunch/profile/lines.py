"""Where each key of a TOML text stands: key path → line number.

Used only once something has to be said about a profile, so the reader itself never scans lines.
The text has already been accepted by the TOML parser; on anything else the scanner still ends
and gives what it understood. A key inside an inline table or array has its own line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate

from qlaunch.profile.keys import BASIC_STRING, LITERAL_STRING, KeyPath, match_key

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(BASIC_STRING),
    re.compile(LITERAL_STRING),
)
_SCALAR = re.compile(r"[^,\]}#\n]*")
_REST = re.compile(r"[^\n]*\n?")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Every key path of the text, and every list element, with its 1-based line."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.lengths: dict[KeyPath, int] = {}  # of arrays of tables
        self.starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return self.lines
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            # the rest of the line is a comment, or the time of a date written with a space
            self._skip(_REST)

    def _header(self) -> KeyPath:
        array = self.text.startswith("[[", self.at)
        line = self._line()
        self.at += 2 if array else 1
        keys = self._keys()
        path: KeyPath = ()
        for number, key in enumerate(keys, start=1):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if array and number == len(keys):
                self.lengths[path] = self.lengths.get(path, 0) + 1
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def _pair(self, table: KeyPath) -> None:
        """`a.b = value`, in a table's body or an inline table."""
        line = self._line()
        path = table
        for key in self._keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        if self.text.startswith("=", self.at):
            self.at += 1
            self._value(path)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            found = match_key(self.text, self.at)
            if found is None:
                return keys
            key, self.at = found
            keys.append(key)
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        first = self.text[self.at : self.at + 1]
        if first == "[":
            self._items(path, "]")
        elif first == "{":
            self._items(path, "}")
        elif first and first in "\"'":
            self._string()
        else:
            self._skip(_SCALAR)

    def _items(self, path: KeyPath, end: str) -> None:
        """The inside of an array or an inline table, to the bracket that closes it."""
        self.at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            here = self.at
            if here >= len(self.text) or self.text.startswith(end, here):
                self.at += 1
                return
            if end == "]":
                self.lines.setdefault((*path, index), self._line())
                self._value((*path, index))
                index += 1
            else:
                self._pair(path)
            self._skip(_BLANK)
            if self.text.startswith(",", self.at) or self.at == here:
                self.at += 1

    def _string(self) -> None:
        for pattern in _STRINGS:
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                return
        self.at = len(self.text)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()

    def _line(self) -> int:
        return bisect_right(self.starts, self.at)
