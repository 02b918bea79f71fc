#!/usr/bin/env python3
"""The pictures of README.md, from real runs: what a terminal of 80 columns shows, as SVG.

    contrib/pictures/make.py            both
    contrib/pictures/make.py devices    one of them

`devices.svg` is what `qlaunch devices` says of a recorded host (tests/data/facts/fx8120.json), so
that it comes out the same everywhere. `top.svg` is `qlaunch top` in tmux, over two QEMUs that run
meanwhile: the demo, and a guest that reads its disk again and again. `card.png` is no work of this
script: the test lab keeps it in build/lab/card/screens.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape

TOP = Path(__file__).resolve().parents[2]
HERE = TOP / "contrib/pictures"
FACTS = "tests/data/facts/fx8120.json"
DEVICES = ("02:00.0", "03:00.0", "04:00.0")
WIDTH, HEIGHT = 80, 17  # of the terminal, in cells
CELL, LINE, EDGE = 8.4, 18, 14  # pixels
BACK, FRONT, PROMPT = "#15171c", "#d4d7dd", "#8fb573"
BOLD = re.compile(r"\x1b\[1m")
ESCAPE = re.compile(r"\x1b\[[0-9;]*m|[\x0e\x0f]")
# Sector 2 again and again: mov ax,201  mov cx,2  mov dx,80  mov bx,8000  int 13h  jmp start
READER = bytes.fromhex("b80102 b90200 ba8000 bb0080 cd13 ebf0")
PROFILE = """\
name = "reader"
[machine]
memory = "128M"
[cpu]
cores = 2
[cpu.pin]
vcpus = [[0], [1]]
[[disk]]
file = "reader.img"
bus = "virtio"
iothread = true
read_only = true
boot = 0
[stop]
timeout = "1s"
"""


def qlaunch(*words: str) -> str:
    """Its stdout, at 80 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "qlaunch", *words], cwd=TOP, stdout=subprocess.PIPE, text=True,
        check=True, env={**os.environ, "COLUMNS": str(WIDTH), "PYTHONPATH": str(TOP)},
    )
    return done.stdout


def devices() -> str:
    """What the picture of it shows."""
    said = qlaunch("devices", "--facts", FACTS, *DEVICES)
    return svg([f"$ qlaunch devices {' '.join(DEVICES)}", *said.splitlines()])


def top() -> str:
    """`top` over two machines that run."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as directory:
        profile = Path(directory, "reader.toml")
        profile.write_text(PROFILE, encoding="utf-8")
        image = READER.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20)
        Path(directory, "reader.img").write_bytes(image)
        Path(directory).chmod(0o755)
        long = 'machine.fw_cfg={"opt/org.qlaunch/name"="demo","opt/org.qlaunch/seconds"="3600"}'
        started: list[str] = []
        try:
            for name, words in (
                ("demo", ("profiles/demo.toml", "--set", long)), ("reader", (str(profile),)),
            ):
                qlaunch("run", *words, "--detach")
                started.append(name)
            return svg(["$ qlaunch top", *in_terminal("top", r"\nreader .*[0-9]K")])
        finally:
            for name in started:
                qlaunch("stop", name, "--now")


def in_terminal(verb: str, wanted: str) -> list[str]:
    """The terminal's lines with their escapes, once they show what is wanted."""
    tmux = ["tmux", "-L", f"qlaunch-{os.getpid()}", "-f", "/dev/null"]
    command = f"'{sys.executable}' -m qlaunch {verb}"
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", str(WIDTH), "-y", str(HEIGHT), command], cwd=TOP,
        check=True,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(1)
            shown = subprocess.run([*tmux, "capture-pane", "-p", "-e"], stdout=subprocess.PIPE,
                                   text=True, check=True).stdout
            if re.search(wanted, ESCAPE.sub("", shown)):
                return shown.splitlines()
        raise SystemExit(f"{verb} never showed {wanted}")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def svg(lines: list[str]) -> str:
    """The lines in a box; a line that starts with $ is what was typed, bold is kept."""
    width, height = WIDTH * CELL + 2 * EDGE, len(lines) * LINE + 2 * EDGE
    rows = []
    for number, line in enumerate(lines):
        text = ESCAPE.sub("", line).rstrip()
        if not text:
            continue
        weight = ' font-weight="bold"' if BOLD.search(line) else ""
        fill = f' fill="{PROMPT}"' if line.startswith("$ ") else ""
        rows.append(
            f'<text x="{EDGE}" y="{EDGE + number * LINE + 13}" '
            f'textLength="{len(text) * CELL:.1f}"{weight}{fill}>{escape(text)}</text>'
        )
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">',
        f'<rect width="100%" height="100%" rx="6" fill="{BACK}"/>',
        f'<g font-family="monospace" font-size="14" fill="{FRONT}" xml:space="preserve">',
        *rows, "</g>", "</svg>", "",
    ))


PICTURES = {"devices": devices, "top": top}


def main(words: list[str]) -> None:
    """Write those that are named, or all."""
    for name in words or PICTURES:
        (HERE / f"{name}.svg").write_text(PICTURES[name](), encoding="utf-8")
        print(HERE / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
