"""Verbs in pipes, with closed streams and full disks, in odd locales and surroundings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qlaunch.cli.main import _open_streams

TOP = Path(__file__).parents[2]
FACTS = str(TOP / "tests/data/facts/fx8120.json")
WIN7 = str(TOP / "profiles/win7.toml")
ENV = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(TOP)}


def spawn(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qlaunch", *words], env=ENV | env, capture_output=True, text=True,
        check=False, stdin=subprocess.DEVNULL, timeout=120,
    )


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """With `q` for qlaunch."""
    q = f'q() {{ "{sys.executable}" -m qlaunch "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", q + command], env=ENV | env, capture_output=True, text=True, check=False,
        timeout=120,
    )



@pytest.mark.parametrize("words", ["--help", "schema", f"plan '{WIN7}' --facts '{FACTS}'", "ps"])
def test_a_reader_that_goes_away(words: str) -> None:
    found = shell(f"q {words} | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}")
    assert found.stderr.replace("warning", "").find("Traceback") < 0
    assert "Error" not in found.stderr
    assert found.stdout.strip() in ("0", "1")


def test_a_reader_that_was_never_there() -> None:
    """The pipe is closed before the first byte is written: the loudest case."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as broken:
        for words in (["schema"], ["--help"]):
            done = subprocess.run(
                [sys.executable, "-m", "qlaunch", *words], env=ENV, stdout=broken,
                stderr=subprocess.PIPE, text=True, check=False,
            )
            assert (done.returncode, done.stderr) == (1, ""), words
        told = subprocess.run(
            [sys.executable, "-m", "qlaunch", "nonsense"], env=ENV, stderr=broken, check=False
        )
        assert told.returncode == 2


@pytest.mark.parametrize("words", ["schema", "ps", "--help"])
def test_a_full_disk_behind_stdout(words: str) -> None:
    found = shell(f"q {words} >/dev/full")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (
        "error: stdout: the output cannot be written: No space left on device\n"
        "hint: df -h shows full disks\n"
    )


def test_streams_that_are_closed() -> None:
    assert shell("q schema >&-").returncode == 0
    assert shell("q nonsense 2>&-").returncode == 2
    assert shell("q nonsense 2>/dev/full").returncode == 2
    found = shell("q ps <&- >&- 2>&-; echo $?")
    assert found.stdout == "0\n"


def test_closed_streams_get_numbers_of_their_own() -> None:
    """What is opened next must not become stdout: a lock or a journal would be written to."""
    program = (
        "import os; from qlaunch.cli.main import _open_streams; _open_streams();"
        "fd = os.open('/', os.O_RDONLY); os._exit(fd if fd > 2 else 99)"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{program}" <&- >&- 2>&-'], env=ENV, check=False
    )
    assert done.returncode == 3
    _open_streams()  # with all open, nothing happens


@pytest.mark.parametrize(
    "env", [{"LANG": "C"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
            {"LANG": "xx_YY.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)  # fmt: skip
def test_any_locale(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "größe.toml").write_text('name = "x"\n[[disk]]\nfile = "ünï.img"\n')
    for words in (["plan", WIN7, "--facts", FACTS], ["argv", f"{tmp_path}/größe.toml"],
                  ["status", "größe"], ["devices", "--facts", FACTS]):  # fmt: skip
        found = spawn(*words, **env)
        assert "Traceback" not in found.stderr
        assert "internal fault" not in found.stderr


def test_without_home_and_path(tmp_path: Path) -> None:
    for env in ({"HOME": ""}, {"HOME": "relative"}, {"PATH": ""}, {"XDG_RUNTIME_DIR": "rel"}):
        for words in (["ps"], ["check", WIN7, "--facts", FACTS], ["status", "x"], ["run", "x"]):
            found = spawn(*words, **env)
            assert found.returncode in (0, 1, 2)
            assert "Traceback" not in found.stderr
            assert "internal fault" not in found.stderr


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    found = shell(
        f"mkdir '{gone}'; cd '{gone}'; rmdir '{gone}'; q check x; q plan '{WIN7}' --facts '{FACTS}'"
    )
    assert "internal fault" not in found.stderr
    assert "Traceback" not in found.stderr
    assert "command line:" in found.stdout


def test_ctrl_c(tmp_path: Path) -> None:
    fifo = tmp_path / "facts"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, "-m", "qlaunch", "devices", "--facts", str(fifo)], env=ENV, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    with process, fifo.open("wb"):  # it reads now
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
