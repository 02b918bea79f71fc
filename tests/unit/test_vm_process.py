"""Holding a process by pidfd, how it ended, and the last words in its log."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.vm.loop import asyncio, exited, first
from qlaunch.vm.process import Exit, QemuProcess, last_words, log_offset
from tests.fake.loop import run


def open_fds() -> set[str]:
    return {fd.name for fd in Path("/proc/self/fd").iterdir()}


def _child(*argv: str) -> QemuProcess:
    return QemuProcess.of_child(os.posix_spawnp(argv[0], argv, os.environ))


@pytest.mark.parametrize(("code", "text"), [("0", "status 0"), ("3", "status 3")])
def test_status(code: str, text: str) -> None:
    with _child("sh", "-c", f"exit {code}") as process:
        assert process.wait(30) == Exit(code=int(code))
        assert process.exit_text() == text


def test_signal_and_running() -> None:
    with _child("sleep", "1000") as process:
        assert process.poll() is None
        assert process.exit_text() == "running"
        assert process.state() in ("R", "S", "D")
        assert process.send(signal.SIGKILL)
        assert process.wait(30) == Exit(signal=9)
        assert process.exit_text() == "signal SIGKILL"
        assert not process.send(signal.SIGTERM)
        assert process.state() == ""
    assert process.exit_text() == "signal SIGKILL"


def test_adopted_process_of_another_has_an_unknown_end() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        start = QemuProcess(pid, -1, 0)
        stat = Path(f"/proc/{start.pid}/stat").read_text()
        ticks = int(stat.rpartition(")")[2].split()[19])
        with QemuProcess.adopt(pid, ticks) as process:
            assert process.poll() is None
            process.send(signal.SIGKILL)
            assert process.wait(30) == Exit()
            assert process.exit_text() == "unknown status"
        parent.communicate()


def test_adopting_refuses_a_recycled_or_dead_pid() -> None:
    before = open_fds()
    with _child("sleep", "1000") as process:
        with pytest.raises(HostError, match="belongs to another process"):
            QemuProcess.adopt(process.pid, process.starttime - 1)
        QemuProcess.adopt(process.pid, process.starttime).close()
        process.send(signal.SIGKILL)
        process.wait(30)
        with pytest.raises(HostError, match="has ended"):
            QemuProcess.adopt(process.pid, process.starttime)
    assert open_fds() == before


def test_several_wait_for_one_end() -> None:
    async def main() -> list[Exit]:
        with _child("cat", "/dev/zero") as process:
            waits = [asyncio.ensure_future(exited(process)) for _ in range(3)]
            assert await first(0.0, exited(process)) is None
            process.send(signal.SIGKILL)
            return list(await asyncio.gather(*waits))

    devnull = os.open(os.devnull, os.O_WRONLY)
    out = os.dup(1)
    os.dup2(devnull, 1)
    try:
        assert run(main()) == [Exit(signal=9)] * 3
    finally:
        os.dup2(out, 1)
        os.close(out)
        os.close(devnull)


def test_first_gives_the_winner_and_its_fault() -> None:
    async def fails() -> None:
        raise ValueError("mine")

    async def main() -> None:
        never = asyncio.Event()
        assert await first(None, never.wait(), asyncio.sleep(0)) == 1
        with pytest.raises(ValueError, match="mine"):
            await first(None, never.wait(), fails())

    run(main())


QEMU = "qemu-system-x86_64: "


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        (f"{QEMU}-device foo: 'foo' is not a valid device model name\n", "-device foo: "),
        (f"/opt/{QEMU}no\n", "no"),
        (f"{QEMU}warning: TCG doesn't support x\n{QEMU}failed\n{QEMU}warning: y\n", "failed"),
        (f"{QEMU}warning: only this\n", "warning: only this"),
        ("**\n\n  \nERROR:cpus.c:1: assertion failed\n", "ERROR:cpus.c:1: assertion failed"),
        ("a\nb\na\nc\n", "b\na\nc"),
        ("1\n2\n3\n4\n5\n6\n", "3\n4\n5\n6"),
        ("\x1b[2Jevil\x07\n", "[2Jevil"),
        ("\xff\xfe" * 4, "ÿþÿþÿþÿþ"),
    ],
)
def test_last_words(tmp_path: Path, log: str, words: str) -> None:
    path = tmp_path / "log"
    path.write_text(f"an earlier start's fault\n{log}")
    offset = len("an earlier start's fault\n")
    assert last_words(str(path), offset).startswith(words)
    assert "earlier" not in last_words(str(path), offset)


def test_last_words_of_a_huge_binary_or_absent_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\x80\x81" * (1 << 20) + b"\nthe end\n")
    assert last_words(str(path)).endswith("the end")
    assert len(last_words(str(path))) < 1000
    assert last_words(str(tmp_path / "none")) == ""
    with path.open("rb") as log:
        assert last_words(str(path), log_offset(log.fileno())) == ""
