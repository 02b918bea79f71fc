"""What the other machine's shell does, in the shells that there are: no network, no qlaunch."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qlaunch.errors import UsageError
from qlaunch.remote.script import guard_command, verb_command
from qlaunch.remote.ssh import Connection

SHELLS = {"dash": ["dash"], "bash": ["bash"], "busybox": ["busybox", "sh"]}
UID = 54321


class Guard:
    """A guard under one shell, with a qlaunch that writes down what it is asked."""

    def __init__(self, directory: Path, shell: list[str], *, hang_up: bool, uid: int = 0) -> None:
        self.directory = directory
        self.asked = directory / "asked"
        self.q = directory / "q launch"
        self.q.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "qlaunch 1" || echo "$@" >>"{self.asked}"\n')
        self.q.chmod(0o755)
        (directory / "tmp").mkdir(exist_ok=True)
        (directory / "tmp").chmod(0o777)
        directory.chmod(0o777)
        command = guard_command("mark", str(self.q), "vm", "", hang_up=hang_up,
                                files=[("a b.sent", 5), ("c.sent", 0)])
        assert command.startswith("exec sh -c ")
        words = [*shell, *shlex.split(command)[2:]]
        if uid:
            words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *words]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(directory / "tmp"), "HOME": str(directory)},
        )

    def ready(self, content: str = "hello") -> Path:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(content)
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("mark ready "):
                return Path(line.removeprefix("mark ready ").rstrip("\n"))
        raise AssertionError("not ready")

    def end(self, word: str = "") -> None:
        self.process.communicate(f"{word}\n" if word else "", timeout=20)
        assert list((self.directory / "tmp").iterdir()) == []


@pytest.fixture(params=[name for name, words in SHELLS.items() if shutil.which(words[0])])
def shell(request: pytest.FixtureRequest) -> list[str]:
    return SHELLS[request.param]


def begun(process: subprocess.Popen[bytes]) -> None:
    """Popen returns when the old program is gone, and the new one's words may not be there yet."""
    deadline = time.monotonic() + 60
    while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def sleeper() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def sleeper(**environ: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"], env={**os.environ, **environ}))
        begun(started[-1])
        return started[-1]

    yield sleeper
    for process in started:
        process.kill()
        process.wait()


def test_files_arrive_and_go(shell: list[str], tmp_path: Path) -> None:
    guard = Guard(tmp_path, shell, hang_up=True)
    there = guard.ready()
    assert (there / "a b.sent").read_text() == "hello"
    assert (there / "c.sent").read_text() == ""
    assert there.stat().st_mode & 0o777 == 0o700
    guard.end("over")


def test_half_a_file_is_none(shell: list[str], tmp_path: Path) -> None:
    guard = Guard(tmp_path, shell, hang_up=True)
    out, _ = guard.process.communicate("hel", timeout=20)
    assert "mark temporary" in out
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(("hang_up", "word", "ends"), [
    (True, "", True), (False, "", False), (True, "over", False), (False, "TERM", True),
])
def test_who_is_hung_up_on(
    shell: list[str], tmp_path: Path, sleeper: Callable[..., subprocess.Popen[bytes]],
    hang_up: bool, word: str, ends: bool,
) -> None:
    guard = Guard(tmp_path, shell, hang_up=hang_up)
    there = guard.ready()
    verb = sleeper(QLAUNCH_ON=str(there))
    (there / "pid").write_text(f"{verb.pid}\n")
    guard.end(word)
    if ends:
        assert verb.wait(10) == -(signal.SIGTERM if word else signal.SIGHUP)
    assert (verb.poll() is not None) is ends


def test_a_pid_that_is_somebody_elses_by_now(
    shell: list[str], tmp_path: Path, sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    guard = Guard(tmp_path, shell, hang_up=True)
    stranger = sleeper()
    (guard.ready() / "pid").write_text(f"{stranger.pid}\n")
    guard.end()
    assert stranger.poll() is None
    assert not guard.asked.exists()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="becomes a user")
def test_what_root_does_for_a_user_is_ended_by_name(
    shell: list[str], sleeper: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Through sudo it cannot be signalled; its command line is there for all to read."""
    directory = Path(f"/tmp/qlaunch-guard-{os.getpid()}-{time.monotonic_ns()}")
    directory.mkdir()
    try:
        guard = Guard(directory, shell, hang_up=True, uid=UID)
        there = guard.ready()
        verb = subprocess.Popen(["sh", "-c", "sleep 60; true", str(there / "a b.sent")])
        begun(verb)
        (there / "pid").write_text(f"{verb.pid}\n")
        guard.end()
        assert verb.poll() is None
        assert guard.asked.read_text() == "stop vm\n"
        verb.kill()
        verb.wait()
    finally:
        shutil.rmtree(directory)


def test_words_arrive_as_they_are(shell: list[str], tmp_path: Path) -> None:
    words = ["run", "a b", "it's", '"$HOME"', "`id`", "\\", "*", "", "é\n2", "--set", "x=';'"]
    command = verb_command("printf", str(tmp_path), "/", ["%s|", *words])
    done = subprocess.run([*shell, *shlex.split(command)[2:]], capture_output=True, text=True,
                          check=True)
    assert done.stdout == "".join(f"{word}|" for word in words)
    assert (tmp_path / "pid").read_text().strip().isdigit()


@pytest.mark.parametrize("host", ["", "-oProxyCommand=id", "a b", "a\nb"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UsageError):
        Connection(host)
