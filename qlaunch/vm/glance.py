"""What several QEMUs do at this moment, in a tenth of a second: for a list, which waits for nobody.

Without qemu.qmp and asyncio, whose import takes longer than all of the answers. A monitor serves
one program at a time; one that somebody else has sends no greeting, and is not waited for.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Sequence

PATIENCE = 0.1  # seconds, for all of them together
_ASK = b'{"execute": "qmp_capabilities"}\n{"execute": "query-status"}\n'
_LONGEST = 1 << 16  # bytes until the answer; events may come before it


def glance(monitors: Sequence[socket.socket], patience: float = PATIENCE) -> list[str]:
    """QEMU's RunState (qapi/run-state.json) by connected monitor; "" when it did not tell.

    The sockets stay the caller's, who closes them.
    """
    deadline = time.monotonic() + patience
    told, heard = [""] * len(monitors), [b""] * len(monitors)
    poll = select.poll()
    places = {one.fileno(): place for place, one in enumerate(monitors)}
    for number in places:
        poll.register(number, select.POLLIN)
    while places and (left := deadline - time.monotonic()) > 0:
        for number, _ in poll.poll(1000 * left):
            place = places[number]
            told[place], heard[place], more = _hear(monitors[place], heard[place])
            if not more:
                poll.unregister(number)
                del places[number]
    return told


def _hear(monitor: socket.socket, before: bytes) -> tuple[str, bytes, bool]:
    """The state if it came, what is left of what came, and whether to go on."""
    try:
        fresh = monitor.recv(_LONGEST)
        *lines, rest = (before + fresh).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "QMP" in said:
                monitor.send(_ASK)
            elif isinstance(answer := said.get("return"), dict) and "status" in answer:
                return str(answer["status"]), b"", False
    except (OSError, ValueError, AttributeError, TypeError):  # it went away, or is no QMP
        return "", b"", False
    return "", rest, bool(fresh) and len(rest) < _LONGEST


def close_all(monitors: Sequence[socket.socket]) -> None:
    """Leave them to others."""
    for monitor in monitors:
        with contextlib.suppress(OSError):
            monitor.close()
