"""`top` in a terminal: paints what topview.py drew, and reads keys. The one file with curses."""

from __future__ import annotations

import contextlib
import curses
import time
from typing import TYPE_CHECKING

from qlaunch.cli.topview import SORTS, draw, visible
from qlaunch.cli.usage import Watcher

if TYPE_CHECKING:
    from qlaunch.cli.topview import Screen

LOOK = 0.125  # seconds between two looks at the threads
_MOVES = {curses.KEY_UP: -1, curses.KEY_DOWN: 1, ord("k"): -1, ord("j"): 1,
          curses.KEY_PPAGE: -10, curses.KEY_NPAGE: 10}


def show(window: curses.window, watcher: Watcher, interval: float, sort: str) -> None:
    """Until q is pressed. Called by curses.wrapper, which puts the terminal back."""
    if not curses.tigetstr("cup"):
        raise curses.error("its cursor cannot be moved")
    with contextlib.suppress(curses.error):
        curses.curs_set(0)
    window.timeout(round(LOOK * 1000))
    offset, due = 0, time.monotonic() + min(interval, 0.5)  # the first figures soon
    snapshot = watcher.take()
    while True:
        height, width = window.getmaxyx()
        screen = draw(snapshot, sort, width)
        offset = max(0, min(offset, len(screen.fixed) + len(screen.rest) - height + 1))
        _paint(window, screen, offset, sort)
        while (key := window.getch()) == curses.ERR and time.monotonic() < due:
            watcher.look()
        if key in (ord("q"), ord("Q")):
            return
        if key == ord("s"):
            sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
        offset += _MOVES.get(key, 0)
        if time.monotonic() >= due:
            snapshot = watcher.take()
            due = time.monotonic() + interval


def _paint(window: curses.window, screen: Screen, offset: int, sort: str) -> None:
    height, width = window.getmaxyx()
    window.erase()
    for row, (line, head) in enumerate(visible(screen, height, width, offset, sort)):
        with contextlib.suppress(curses.error):  # the last cell of all cannot be written
            window.addnstr(row, 0, line, width, curses.A_BOLD if head else curses.A_NORMAL)
    window.refresh()
