"""What can begin before a verb's modules are imported.

A machine on a bridge needs pyroute2, whose import is the longest part of its start. A helper begins
it when the profile's text mentions a link to be made or joined; whether it is needed is known
later, and a helper that is not is gone with the launcher.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from qlaunch.host.netchild import NetChild

WORDS = (b"bridge", b"macvtap", b"nat =", b"nat=", b".nat]", b"nat.")
LARGEST = 1 << 20  # bytes of a profile
helper: NetChild | None = None


def begin(words: Sequence[str]) -> None:
    """Start the helper when one of the words names a file that mentions a link."""
    global helper  # noqa: PLW0603 - one a process, begun before there is anybody to hand it to
    if os.geteuid() == 0 and any(_mentions_link(word) for word in words):
        helper = NetChild()
        helper.start()


def _mentions_link(word: str) -> bool:
    if word.startswith("-") or "=" in word:
        return False
    try:
        fd = os.open(word, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        text = os.read(fd, LARGEST)
        return any(word in text for word in WORDS)
    except OSError:
        return False
    finally:
        os.close(fd)
