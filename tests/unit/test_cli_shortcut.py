"""Verbs that a desktop has started: what they say is shown by whatever is there, and never lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qlaunch.cli import windows
from qlaunch.cli.windows import show
from qlaunch.desktop.words import Piece, Pieces

RECORD = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["SHOWN"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
sys.exit({{code}})
"""
VERB = """#!/bin/sh
printf '%s\\n' "$*" > "$ASKED"
cat "$SAYS" >&2
exit {code}
"""


class Desk:
    """A home and tools that write down what they were to show."""

    def __init__(self, home: Path) -> None:
        self.home, self.bin, self.shown_file = home, home / "bin", home / "shown"
        self.bin.mkdir()
        self.env = {
            "PATH": str(self.bin), "HOME": str(home), "SHOWN": str(self.shown_file),
            "ASKED": str(home / "asked"), "SAYS": str(home / "says"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def tool(self, name: str, code: int = 0) -> None:
        (self.bin / name).write_text(RECORD.format(code=code))
        (self.bin / name).chmod(0o755)

    def shown(self) -> list[list[str]]:
        if not self.shown_file.exists():
            return []
        return [json.loads(line) for line in self.shown_file.read_text().splitlines()]

    def start(self, says: str, code: int, *words: str) -> int:
        """`desktop` with a program that says this and ends so."""
        for name in ("cat",):
            if not (self.bin / name).exists():
                (self.bin / name).symlink_to(f"/bin/{name}")
        (self.home / "says").write_text(says)
        program = self.bin / "qlaunch-fake"
        program.write_text(VERB.format(code=code))
        program.chmod(0o755)
        text = (
            "import sys; from qlaunch.cli import desktop, main; "
            f"desktop.program = lambda: ({str(program)!r},); "
            f"sys.exit(main.main(['desktop', *{list(words)!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", text], env=self.env, capture_output=True,
                              text=True, check=False, timeout=60)
        assert done.stderr == says
        return done.returncode

    def asked(self) -> str:
        return (self.home / "asked").read_text().strip()

    def log(self) -> str:
        return (self.home / ".local/state/qlaunch/.desktop.log").read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


SAID = """\
warning: a.toml:3: something <odd>
  found:   this & that
hint: look
error: a.toml:4: first fault
  allowed: one,
           two
error: second fault
hint: qlaunch plan
"""


def test_an_error_is_a_window_and_a_warning_a_notification(desk: Desk) -> None:
    desk.tool("zenity")
    desk.tool("notify-send")
    assert desk.start(SAID, 2, "start", "/x/my vm.toml", "--set", "a=1") == 2
    assert desk.asked() == "run /x/my vm.toml --set a=1"
    notice, window = desk.shown()
    assert notice[0] == "notify-send"
    assert notice[-3:] == ["--", "my vm (qlaunch)",
                           "a.toml:3: something &lt;odd&gt;\nfound:   this &amp; that\nhint: look"]
    assert window[:3] == ["zenity", "--error", "--no-markup"]
    assert window[-1] == ("--text=a.toml:4: first fault\nallowed: one,\ntwo\n\n"
                          "second fault\nhint: qlaunch plan")
    for line in SAID.splitlines():
        assert line in desk.log()


@pytest.mark.parametrize("tool", ["zenity", "kdialog", "notify-send", "xmessage"])
@pytest.mark.parametrize("kind", ["error", "warning"])
def test_whichever_is_there(desk: Desk, tool: str, kind: str) -> None:
    desk.tool(tool)
    assert desk.start(f"{kind}: it is so\n", int(kind == "error"), "view", "vm") == (
        kind == "error")
    (words,) = desk.shown()
    assert words[0] == tool
    assert "it is so" in words[-1]
    assert "no window" not in desk.log()


def test_a_tool_that_fails_is_not_the_last_word(desk: Desk) -> None:
    desk.tool("zenity", 1)
    desk.tool("kdialog", 255)
    desk.tool("xmessage")
    desk.start("error: it is so\n", 1, "stop", "vm")
    assert [words[0] for words in desk.shown()] == ["zenity", "kdialog", "xmessage"]


def test_without_any_tool_the_log_has_it(desk: Desk) -> None:
    assert desk.start("error: it is so\n", 3, "recover", "vm") == 3
    assert "error: it is so\n" in desk.log()
    assert "no window for this: error: not everything was given back" in desk.log()


def test_an_end_without_a_word_is_told(desk: Desk) -> None:
    desk.tool("zenity")
    desk.start("Traceback\nOops\n", 1, "start", "vm")
    desk.start("", 1, "start", "vm")
    first, second = desk.shown()
    assert first[-1] == "--text=Traceback\nOops"
    assert second[-1] == "--text=it ended with exit code 1"


NEEDS = "vm needs root to bind 01:00.0 (qlaunch plan)\n"


def test_root_that_was_not_given(desk: Desk) -> None:
    """pkexec's own words are about programs and terminals."""
    desk.tool("zenity")
    desk.tool("notify-send")
    desk.start(f"{NEEDS}Error creating agent\nNot authorized\n", 127, "start", "/x/my vm.toml",
               "--install")
    desk.start("vm was started through root\nError: dismissed\n", 126, "stop", "vm")
    desk.start("not found\n", 127, "stop", "vm")  # not pkexec's
    assert [words[-1] for words in desk.shown() if words[-1] != NEEDS.strip()] == [
        "--text=root was not given\nfound: Error creating agent; Not authorized\n"
        "hint: a polkit agent has to run on this desktop (polkit-gnome, lxpolkit …); at a terminal:"
        " qlaunch run '/x/my vm.toml' --install",
        "vm was started through root",
        "nothing was done: the question for a password was closed", "--text=not found",
    ]


def test_what_is_news_when_all_is_well(desk: Desk) -> None:
    desk.tool("notify-send")
    desk.start("vm: the guest runs\nvm: ended, all given back\n", 0, "start", "vm")
    assert desk.shown() == []
    desk.start("vm: the guest runs\n", 0, "start", "vm", "--set", "display.type=none")
    desk.start("vm: asked to stop, waiting up to 9 s\nvm: ended, all given back\n", 0, "stop", "vm")
    desk.start("vm needs root to bind 01:00.0 (qlaunch plan)\n", 0, "start", "vm")
    assert [words[-1] for words in desk.shown()] == [
        "vm: the guest runs", "vm: asked to stop, waiting up to 9 s",
        "vm: ended, all given back",
        "vm needs root to bind 01:00.0 (qlaunch plan)",
    ]


def test_a_window_that_stays_open_is_not_waited_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk.bin / "zenity").write_text('#!/bin/sh\necho $$ > "$SHOWN"\nexec /bin/sleep 60\n')
    (desk.bin / "zenity").chmod(0o755)
    for name, value in desk.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(windows, "FAILS_WITHIN", 0.5)
    assert show("error", "vm", "it is so", "qlaunch-other")
    pid = int(desk.shown_file.read_text())
    os.kill(pid, 15)  # it was still open
    os.waitpid(pid, 0)


def test_pieces() -> None:
    pieces = Pieces()
    found = [piece for line in SAID.splitlines() for piece in pieces.add(line)]
    assert [piece.kind for piece in (*found, *pieces.end())] == ["warning", "error", "error"]
    assert pieces.add("  indented") == [Piece("line", "  indented")]
    assert pieces.end() == []
