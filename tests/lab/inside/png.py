"""A PPM picture as PNG, for a QEMU whose screendump writes only PPM.

That is one before 7.1, or one built without libpng.
"""

from __future__ import annotations

import re
import struct
import zlib

HEADER = re.compile(rb"P6\s+(?:#[^\n]*\s+)*(\d+)\s+(\d+)\s+255\s")


def png_from_ppm(ppm: bytes) -> bytes:
    """Truecolour, 8 bits a channel, no filter."""
    header = HEADER.match(ppm)
    if header is None:
        raise ValueError("not a binary PPM with 255 shades")
    width, height = int(header[1]), int(header[2])
    row = width * 3
    start = header.end()
    rows = b"".join(b"\0" + ppm[at : at + row] for at in range(start, start + row * height, row))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(rows)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
