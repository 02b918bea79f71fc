"""A verb that a desktop entry has started: run as a child, what it says shown in windows.

The child is the verb as it is typed, so that root is asked for as ever (pkexec, there being no
terminal), and this process stays the user's, whose windows they are. All is also in
`~/.local/state/qlaunch/.desktop.log` and on our stderr, which is the session's journal.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import join
from types import FrameType

from qlaunch.children import ENDING, start_child
from qlaunch.cli.text import say
from qlaunch.cli.windows import show
from qlaunch.desktop.words import Piece, Pieces
from qlaunch.errors import EXIT_NOT_RESTORED
from qlaunch.run.story import Story, open_log

VERBS = {"start": "run", "view": "view", "stop": "stop", "recover": "recover"}
LOG = ".local/state/qlaunch/.desktop.log"
LAST = 6  # lines that tell of an end without an error
ASKS = (" needs root to ", " was started through root")  # what stands before a question
NOT_ASKED, DISMISSED = 127, 126  # pkexec(1): qlaunch has no such exit codes


def started(program: Sequence[str], action: str, what: str, options: Sequence[str]) -> int:
    """Run it to its end. Returns its exit code."""
    title = Path(what).stem if action == "start" else what
    words = [*program, VERBS[action], what, *options]
    story = Story()
    with contextlib.suppress(OSError):
        log = Path.home() / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        story.to_file(open_log(str(log)))
    try:
        story.note(" ".join(words))
        return _Watch(story, f"{title} (qlaunch)", action, ["qlaunch", *words[len(program) :]]
                      ).run(words)
    finally:
        story.close()


class _Watch:
    """One child and what of its words has been shown."""

    def __init__(self, story: Story, title: str, action: str, typed: list[str]) -> None:
        """`typed`: what somebody at a terminal would say."""
        self.story, self.title, self.action, self.typed = story, title, action, typed
        self.headless = "display.type=none" in typed
        self.errors: list[str] = []
        self.lines: list[str] = []

    def run(self, words: list[str]) -> int:
        """Its exit code; 128 and the signal's number when one has ended it."""
        reader, writer = os.pipe()
        try:
            pid = start_child(words, fds={1: 1, 2: writer})
        finally:
            os.close(writer)
        with _handed_on(pid), os.fdopen(reader, "rb") as pipe:
            pieces = Pieces()
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip("\n")
                self.story.say(line)
                self.take(pieces.add(line))
            self.take(pieces.end())
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.ended(code)
        return 128 - code if code < 0 else code

    def take(self, pieces: list[Piece]) -> None:
        """Warnings are shown as they come; errors are one window, at the end."""
        for piece in pieces:
            if piece.kind == "error":
                self.errors.append(piece.text)
            elif piece.kind in ("warning", "note"):
                self.show(piece)
            else:
                self.lines.append(piece.text)
                if _asks(piece.text) or ": asked to stop, " in piece.text:
                    self.show(Piece("note", piece.text))  # not worth a window: what follows is
                elif self.headless and piece.text.endswith(": the guest runs"):
                    self.show(piece)

    def ended(self, code: int) -> None:
        """Say how, where that is news."""
        asked = [at for at, line in enumerate(self.lines) if _asks(line)]
        if asked and code == DISMISSED:
            self.show(Piece("line", "nothing was done: the question for a password was closed"))
        elif asked and code == NOT_ASKED:
            said = "; ".join(self.lines[asked[-1] + 1 :][-LAST:])
            self.show(Piece("error", f"root was not given\nfound: {said}\nhint: a polkit agent has "
                            "to run on this desktop (polkit-gnome, lxpolkit …); at a terminal: "
                            f"{join(self.typed)}"))
        elif self.errors or code:
            last = "\n".join(self.lines[-LAST:]) or f"it ended with exit code {code}"
            restored = "not everything was given back\n\n" if code == EXIT_NOT_RESTORED else ""
            self.show(Piece("error", restored + ("\n\n".join(self.errors) or last)))
        elif self.action in ("stop", "recover") and self.lines:
            self.show(Piece("line", self.lines[-1]))

    def show(self, piece: Piece) -> None:
        """In a window or a notification; else it is told that only the log has it."""
        if not show(piece.kind, self.title, piece.text, "qlaunch-other"):
            self.story.note(f"no window for this: {piece.kind}: {piece.text}")


def _asks(line: str) -> bool:
    return any(words in line for words in ASKS)


@contextlib.contextmanager
def _handed_on(pid: int) -> Iterator[None]:
    """A signal to us is the child's; root's child is not ours to signal, and hears the session."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            say("it runs as root: stop it by its Stop action")

    before = {number: signal.signal(number, hand_on) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
