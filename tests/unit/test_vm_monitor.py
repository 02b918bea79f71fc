"""The monitor against servers that misbehave: nothing but HostError, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.vm.loop import asyncio, first
from qlaunch.vm.monitor import KEPT_EVENTS, Event, Events, Monitor, QmpError
from tests.fake.loop import run

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Talk = Callable[[Reader, Writer], Awaitable[None]]


def with_server(tmp_path: Path, talk: Talk, client: Callable[[str], Awaitable[None]]) -> None:
    """Run `client` against a server whose every connection is served by `talk`."""
    path = str(tmp_path / "qmp")

    async def main() -> None:
        server = await asyncio.start_unix_server(served(talk), path)
        try:
            await client(path)
        finally:
            server.close()
            await server.wait_closed()

    run(main())


def served(talk: Talk) -> Talk:
    """`talk`, and the connection closed after it."""

    async def serve(reader: Reader, writer: Writer) -> None:
        with contextlib.suppress(ConnectionError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    return serve


async def command(reader: Reader) -> dict[str, str]:
    """The next command; they come without an end of line. Empty at EOF."""
    text = b""
    while True:
        try:
            text += await reader.readuntil(b"}")
            found: dict[str, str] = json.loads(text)
            return found
        except asyncio.IncompleteReadError:
            return {}
        except ValueError:
            continue  # the end of an inner object


async def session(reader: Reader, writer: Writer) -> None:
    """Greeting and negotiation, as QEMU does them."""
    writer.write(GREETING)
    asked = await command(reader)
    writer.write(json.dumps({"return": {}, "id": asked.get("id")}).encode() + b"\n")


def replies(*lines: bytes) -> Talk:
    """A server that answers the first command with `lines` (%i is its id), then waits for EOF."""

    async def talk(reader: Reader, writer: Writer) -> None:
        await session(reader, writer)
        asked = await command(reader)
        for line in lines:
            writer.write(line.replace(b"%i", asked.get("id", "").encode()))
        if lines:
            await reader.read()

    return talk


def bad_connection(said: bytes) -> Talk:
    async def talk(reader: Reader, writer: Writer) -> None:
        writer.write(said)
        if said:
            await command(reader)

    return talk


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"", "QEMU closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what came is not QMP"),
        (b"\x00\xff\xfe\n", "what came is not QMP"),
        (b'{"QMP": 3}\n', "what came is not QMP"),
        (b"[]\n", "what came is not QMP"),
        (GREETING + b"garbage\n", "what came is not QMP"),
        (GREETING + b'{"error": {"class": "x", "desc": "y"}}\n', "what came is not QMP"),
    ],
)
def test_what_is_not_qmp(tmp_path: Path, said: bytes, found: str) -> None:
    async def client(path: str) -> None:
        with pytest.raises(HostError, match="QMP could not be started") as caught:
            await Monitor.connect(path, timeout=30)
        assert caught.value.problems[0].found.startswith(found)

    with_server(tmp_path, bad_connection(said), client)


@pytest.mark.parametrize(
    ("lines", "message", "found"),
    [
        ((), "the connection ended before", "QEMU closed the connection"),
        ((b"garbage\n",), "the connection ended before", "what came is not QMP"),
        ((b'{"error": {"class": "E", "desc": "d"}}\n',), "the connection ended", "what came"),
        ((b'{"neither": 1, "id": "%i"}\n',), "query-status failed", "what came is not QMP"),
        ((b"x" * (40 << 20),), "the connection ended before", "what came is not QMP"),
    ],
    ids=["eof", "garbage", "error without id", "no return", "endless line"],
)
def test_bad_answers(
    tmp_path: Path, lines: tuple[bytes, ...], message: str, found: str
) -> None:
    async def client(path: str) -> None:
        async with await Monitor.connect(path) as monitor:
            with pytest.raises(HostError, match=message) as caught:
                await monitor.execute("query-status")
            assert caught.value.problems[0].found.startswith(found)

    with_server(tmp_path, replies(*lines), client)


def test_loss_while_nobody_asks_is_quiet_and_told_later(tmp_path: Path) -> None:
    over = asyncio.Event()

    async def greeted(reader: Reader, writer: Writer) -> None:
        await session(reader, writer)
        await over.wait()

    async def client(path: str) -> None:
        monitor = await Monitor.connect(path)
        assert not monitor.closed
        over.set()
        with monitor.listen() as events:
            await monitor.wait_closed()
            assert await events.get() is None
        assert await monitor.events.get() is None
        with monitor.listen() as late:
            assert await late.get() is None
        with pytest.raises(HostError, match="was not sent") as caught:
            await monitor.execute("cont")
        assert caught.value.problems[0].found == "QEMU closed the connection"
        await monitor.close()

    with_server(tmp_path, greeted, client)


def test_the_end_right_after_the_start(tmp_path: Path) -> None:
    async def client(path: str) -> None:
        with pytest.raises(HostError, match="QEMU closed the connection"):
            async with await Monitor.connect(path) as monitor:
                await monitor.execute("query-status")

    with_server(tmp_path, session, client)


def test_refusal_has_qemus_words(tmp_path: Path) -> None:
    line = b'{"error": {"class": "GenericError", "desc": "no such thing"}, "id": "%i"}\n'

    async def client(path: str) -> None:
        async with await Monitor.connect(path) as monitor:
            with pytest.raises(QmpError) as caught:
                await monitor.execute("cont")
            assert caught.value.error_class == "GenericError"
            assert caught.value.desc == "no such thing"
            assert "QEMU refused cont" in str(caught.value)
            assert not monitor.closed

    with_server(tmp_path, replies(line), client)


def test_huge_reply(tmp_path: Path) -> None:
    big = b'{"return": "' + b"x" * (12 << 20) + b'", "id": "%i"}\n'

    async def client(path: str) -> None:
        async with await Monitor.connect(path) as monitor:
            assert len(await monitor.execute("query-qmp-schema")) == 12 << 20

    with_server(tmp_path, replies(big), client)


def test_late_answer_does_not_disturb_the_next(tmp_path: Path) -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await session(reader, writer)
        one, two = await command(reader), await command(reader)
        for asked in (one, two):
            answer = {"return": asked["execute"], "id": asked["id"]}
            writer.write(json.dumps(answer).encode() + b"\n")
        await reader.read()

    async def client(path: str) -> None:
        async with await Monitor.connect(path) as monitor:
            with pytest.raises(HostError, match=r"did not answer first within 0\.01 s"):
                await monitor.execute("first", timeout=0.01)
            assert await monitor.execute("second") == "second"

    with_server(tmp_path, talk, client)


def test_cancellation_is_not_lost_to_an_answer_that_comes_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monitor = Monitor()
        answered = asyncio.Event()

        async def execute(*_: object) -> object:
            await answered.wait()
            return {}

        monkeypatch.setattr(monitor._client, "execute", execute)
        task = asyncio.ensure_future(monitor.execute("quit"))
        for _ in range(5):
            await asyncio.sleep(0)
        answered.set()
        await asyncio.sleep(0)  # the inner task is done, the outer has not been woken
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()

    run(main())


def test_events_reach_all_readers(tmp_path: Path) -> None:
    event = b'{"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 500000}}\n'

    async def client(path: str) -> None:
        async with await Monitor.connect(path) as monitor:
            with monitor.listen() as also:
                await monitor.execute("stop")
                wanted = Event("STOP", {}, 5.5)
                assert await monitor.events.get() == wanted
                assert await also.get() == wanted
                assert await first(0, monitor.events.get()) is None

    with_server(tmp_path, replies(event, b'{"return": {}, "id": "%i"}\n'), client)


def test_unread_events_are_bounded() -> None:
    async def main() -> None:
        events = Events()
        for number in range(KEPT_EVENTS + 10):
            events.put(Event(str(number), {}, 0.0))
        events.end()
        names = [event.name async for event in events]
        assert (len(names), names[0]) == (KEPT_EVENTS, "10")

    run(main())


def test_nobody_greets(tmp_path: Path) -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await reader.read()

    async def client(path: str) -> None:
        with pytest.raises(HostError, match=r"did not answer on QMP within 0\.05 s"):
            await Monitor.connect(path, timeout=0.05)
        with pytest.raises(HostError, match="QEMU ended before it answered on QMP"):
            await Monitor.connect(path, alive=lambda: False)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            with pytest.raises(HostError, match="did not answer"):
                await Monitor.connect(sock, timeout=0.05)
            assert sock.fileno() == -1

    with_server(tmp_path, talk, client)


def test_a_path_that_appears_late(tmp_path: Path) -> None:
    path = str(tmp_path / "late")

    async def main() -> None:
        waiting = asyncio.ensure_future(Monitor.connect(path, timeout=30))
        assert await first(0.05, asyncio.wait((waiting,))) is None
        server = await asyncio.start_unix_server(served(replies()), path)
        await (await waiting).close()
        server.close()
        with pytest.raises(HostError, match="QMP could not be reached"):
            await Monitor.connect(str(tmp_path / ("n" * 300)), timeout=30)
        with pytest.raises(HostError, match="did not answer on QMP"):
            await Monitor.connect(str(tmp_path / "never"), timeout=0.05)

    run(main())


@pytest.mark.parametrize("greets", [True, False])
def test_cancelling_leaves_nothing(tmp_path: Path, greets: bool) -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        if greets:
            await session(reader, writer)
        await reader.read()

    async def client(path: str) -> None:
        async def use() -> None:
            async with await Monitor.connect(path) as monitor:
                await monitor.wait_closed()

        task = asyncio.ensure_future(use())
        await first(0.02, asyncio.wait((task,)))
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()

    with_server(tmp_path, talk, client)
