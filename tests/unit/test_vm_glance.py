"""What several QEMUs do, told without waiting for one that somebody else talks to."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from qlaunch.vm.glance import PATIENCE, close_all, glance

HELLO = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
PAUSED = b'{"return": {}}\r\n{"return": {"status": "paused", "running": false}}\r\n'
EVENT = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}\r\n'
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    found = [socket.socketpair() for _ in range(6)]
    for ours, _ in found:
        ours.setblocking(False)
    yield found
    close_all([end for pair in found for end in pair])


def test_all_are_asked_and_nobody_is_waited_for(pairs: list[Pair]) -> None:
    said = [HELLO + PAUSED, HELLO + EVENT + PAUSED.replace(b"paused", b"running"),
            b"", b"SSH-2.0-x\n", b'[1]\n', HELLO + b'{"error": {"class": "GenericError"}}\n']
    for (_, theirs), words in zip(pairs, said, strict=True):
        theirs.send(words)
    pairs[5][1].shutdown(socket.SHUT_WR)
    start = time.monotonic()
    assert glance([ours for ours, _ in pairs]) == ["paused", "running", "", "", "", ""]
    assert time.monotonic() - start >= PATIENCE  # the silent third
    assert pairs[0][1].recv(200).count(b"\n") == 2
    pairs[2][1].setblocking(False)
    with pytest.raises(BlockingIOError):  # nothing is asked before the greeting
        pairs[2][1].recv(1)


def test_an_answer_in_pieces() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a read, a piece
    with ours, theirs:
        for start in range(0, len(HELLO + PAUSED), 20):
            theirs.send((HELLO + PAUSED)[start:start + 20])
        assert glance([ours], 60) == ["paused"]  # at once: the deadline is not waited for


def test_none() -> None:
    assert glance([], 60) == []


def test_no_line_without_an_end_is_kept(pairs: list[Pair]) -> None:
    ours, theirs = pairs[0]
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    theirs.send(b"x" * (1 << 16))
    assert glance([ours], 60) == [""]
