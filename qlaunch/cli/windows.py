"""Words in a window or a notification, by whichever tool is there and works: for verbs that a
desktop has started, whose stderr nobody sees. The portal is asked last, as its yes proves little.
"""

from __future__ import annotations

import html
import os
import shutil
import time
from collections.abc import Iterator

from qlaunch.children import start_child
from qlaunch.desktop.notices import to_portal, to_server
from qlaunch.desktop.words import Kind
from qlaunch.errors import HostError

FAILS_WITHIN = 3.0  # seconds: a tool that ends badly in this time has shown nothing
ANSWERS_WITHIN = 5.0  # what does not return by itself: a notification that nobody takes
WIDTH = "480"
WINDOWS = ("zenity", "kdialog", "xmessage")


def show(kind: Kind, title: str, text: str, icon: str) -> bool:
    """Whether any tool has shown it. An error is a window, all else a notification; where none
    can be had, a note, which comes at every start, is left to the log."""
    return any(
        _shown(words, stays=words[0] in WINDOWS)
        for words in tools(kind, title, text, icon)
        if shutil.which(words[0])
    )


def tools(kind: Kind, title: str, text: str, icon: str) -> Iterator[list[str]]:
    """Commands that show it, the best first."""
    urgency = {"error": "critical", "warning": "normal"}.get(kind, "low")
    # The body may hold markup, for servers that know it.
    markup = html.escape(text, quote=False)
    notices = [["notify-send", "--app-name=qlaunch", f"--icon={icon}", f"--urgency={urgency}",
                "--", title, markup], *to_server(kind, title, markup, icon)]
    zenity_kind = kind if kind in ("error", "warning") else "info"
    windows = [
        ["zenity", f"--{zenity_kind}", "--no-markup", f"--width={WIDTH}", f"--title={title}",
         f"--text={text}"],
        ["kdialog", "--title", title, "--error" if kind == "error" else "--msgbox", text],
    ]
    if "KDE" in os.environ.get("XDG_CURRENT_DESKTOP", "").split(":"):
        windows.reverse()
    windows.append(["xmessage", "-center", "-title", title, f"{title}\n\n{text}"])
    if kind == "error":
        yield from [*windows[:2], *notices, windows[2]]
    else:
        yield from [*notices, *windows] if kind != "note" else notices
    yield from to_portal(kind, title, text, f"qlaunch-{os.getpid()}-{time.monotonic_ns()}")


def _shown(words: list[str], *, stays: bool) -> bool:
    """A window stays open when this returns, and when we have ended."""
    try:
        pid = start_child(words, own_group=True)
    except HostError:
        return False
    deadline = time.monotonic() + (FAILS_WITHIN if stays else ANSWERS_WITHIN)
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.02)
    return stays
