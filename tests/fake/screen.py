"""A screen: Xvfb that lets in who has its cookie, and photographs of it.

The framebuffer is a file in the format of xwd (X11/XWDFile.h), which no program has to read.
"""

from __future__ import annotations

import os
import secrets
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

WILD = 0xFFFF  # FamilyWild: a cookie for every display


class Picture(NamedTuple):
    """Rows of pixels, four bytes each: blue, green, red, nothing."""

    width: int
    rows: list[bytes]


class Screen(NamedTuple):
    """DISPLAY, XAUTHORITY, and where the framebuffer is."""

    display: str
    cookie: Path
    framebuffer: Path

    @property
    def env(self) -> dict[str, str]:
        return {"DISPLAY": self.display, "XAUTHORITY": str(self.cookie)}

    def photo(self) -> Picture:
        """What is on it now."""
        raw = self.framebuffer.read_bytes()
        words = struct.unpack(">25I", raw[:100])
        size, width, height, bits, line, colours = (
            words[0], words[4], words[5], words[11], words[12], words[19])
        assert (bits, words[7]) == (32, 0)  # least significant byte first
        start = size + 12 * colours
        rows = [raw[start + n * line : start + n * line + 4 * width] for n in range(height)]
        return Picture(width, [_plain(row) for row in rows])

    def shows(self, picture: Picture) -> bool:
        """Whether nearly all of it (a cursor blinks, a pointer is in the way) is somewhere here."""
        photo = self.photo()
        at = max(range(len(picture.rows)), key=lambda n: len(set(_pixels(picture.rows[n]))))
        for top, row in enumerate(photo.rows):
            left = row.find(picture.rows[at])
            if left >= 0 and left % 4 == 0 and top >= at:
                mine = photo.rows[top - at : top - at + len(picture.rows)]
                pairs = [
                    one == other
                    for given, whole in zip(picture.rows, mine, strict=False)
                    for one, other in zip(
                        _pixels(given), _pixels(whole[left : left + 4 * picture.width]),
                        strict=False)
                ]
                return len(mine) == len(picture.rows) and sum(pairs) > 0.98 * len(pairs)
        return False


def read_ppm(raw: bytes) -> Picture:
    """A P6 of one byte a colour, as QEMU writes them."""
    kind, width, height, most = raw.split(maxsplit=4)[:4]
    assert (kind, most) == (b"P6", b"255")
    data, wide = raw[-3 * int(width) * int(height) :], int(width)
    rows = []
    for at in range(0, len(data), 3 * wide):
        row = bytearray(4 * wide)
        for colour in range(3):
            row[2 - colour :: 4] = data[at + colour : at + 3 * wide : 3]
        rows.append(bytes(row))
    return Picture(wide, rows)


def _plain(row: bytes) -> bytes:
    plain = bytearray(row)
    plain[3::4] = bytes(len(row) // 4)
    return bytes(plain)


def _pixels(row: bytes) -> memoryview:
    return memoryview(row).cast("I")


@contextmanager
def screen(place: Path, owner: int = -1) -> Iterator[Screen]:
    """In `place`, with a cookie that only `owner` may read."""
    cookie = place / "cookie"
    kind, secret = b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16)
    cookie.write_bytes(struct.pack(f">HHHH{len(kind)}sH16s", WILD, 0, 0, len(kind), kind, 16,
                                   secret))
    cookie.chmod(0o600)
    os.chown(cookie, owner, -1)
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-auth", cookie, "-fbdir", place,
         "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=(writer,), stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as pipe:
            number = pipe.readline().strip()
        assert number
        yield Screen(f":{number}", cookie, place / "Xvfb_screen0")
    finally:
        server.terminate()
        server.wait(60)
