"""What a verb says on stderr, in the pieces that a desktop shows: problems whole, progress line by
line. Pure.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["error", "warning", "note", "line"]
_KINDS: tuple[Kind, ...] = ("error", "warning", "note")


class Piece(NamedTuple):
    """A problem without its first word, or a line of progress."""

    kind: Kind
    text: str


class Pieces:
    """Lines come in, whole pieces come out: a problem is over when the next piece begins."""

    def __init__(self) -> None:
        self._kind: Kind = "line"
        self._lines: list[str] = []

    def add(self, line: str) -> list[Piece]:
        """The pieces that are whole now."""
        if self._kind != "line" and line.startswith(("  ", "hint: ")):
            self._lines.append(line.strip())
            return self.end() if line.startswith("hint: ") else []
        done = self.end()
        for kind in _KINDS:
            if line.startswith(f"{kind}: "):
                self._kind, self._lines = kind, [line.removeprefix(f"{kind}: ")]
                return done
        return [*done, Piece("line", line)] if line.strip() else done

    def end(self) -> list[Piece]:
        """What was still open."""
        done = [Piece(self._kind, "\n".join(self._lines))] if self._lines else []
        self._kind, self._lines = "line", []
        return done
