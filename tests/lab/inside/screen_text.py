"""Reading text off a picture of a Linux console: the kernel's own font, cell by cell."""

from __future__ import annotations

import re
from pathlib import Path

WIDTH, HEIGHT = 8, 16


def read_font(source: Path) -> dict[bytes, str]:
    """Cells to characters, from the kernel's lib/fonts/font_8x16.c."""
    body = re.sub(r"/\*.*?\*/", "", source.read_text(), flags=re.DOTALL)
    body = body.partition("FONTDATAMAX, 0 }")[2]
    numbers = [int(word, 16) for word in re.findall(r"0x([0-9a-f]{2})\b", body)]
    rows = bytes(numbers[: 256 * HEIGHT])
    cells = {chr(n): rows[n * HEIGHT : (n + 1) * HEIGHT] for n in range(32, 127)}
    return {cell: character for character, cell in cells.items()}


def read_ppm(raw: bytes) -> tuple[int, int, bytes]:
    """Width, height and three bytes a pixel."""
    found = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", raw)
    assert found is not None
    return int(found[1]), int(found[2]), raw[found.end() :]


def screen_lines(ppm: bytes, font: dict[bytes, str]) -> list[str]:
    """The console's lines; what is no character of the font is a question mark."""
    width, height, pixels = read_ppm(ppm)
    lit = bytes(shade > 0x50 for shade in pixels[1::3])  # green: a grey console's brightness
    lines = []
    for top in range(0, height - HEIGHT + 1, HEIGHT):
        line = ""
        for left in range(0, width - WIDTH + 1, WIDTH):
            cell = bytes(
                sum(lit[y * width + left + x] << (7 - x) for x in range(WIDTH))
                for y in range(top, top + HEIGHT)
            )
            line += font.get(cell, "?")
        lines.append(line.rstrip())
    return lines
