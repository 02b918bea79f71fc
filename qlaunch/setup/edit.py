"""Putting our text into a file, and taking exactly that out again.

Somebody may have edited the file in between: then our lines are found by what they say, a line of
ours that was changed loses our words only, and everything else stays as it is. A file that was
not edited becomes what it was, to the byte.
"""

from __future__ import annotations

import re
from difflib import unified_diff

from qlaunch.setup.model import MARK, Change, Part


def put(text: str | None, part: Part) -> str:
    """The file with our part in it; `text` is the file without it, None when there is none."""
    if part.kind == "own":
        return part.text + (text or "")
    if part.kind == "line":
        return f"{text or ''}{_newline(part)}{MARK}\n{part.text}\n"
    before = part.made if text is None else text
    body = (before or "").rstrip()
    tail = (before or "")[len(body) :]
    return f"{body} {part.text}{tail}" if body else f"{part.text}{tail}"


def take(text: str | None, part: Part) -> str | None:
    """The file without our part; None: it is to go, or was gone already."""
    if text is None:
        return None
    if part.kind == "own":
        return None if text == part.text else _without_lines(text, part.text)
    if part.kind == "line":
        rest = _without_marked(text, part)
        return None if part.made is not None and not rest.strip() else rest
    if part.made is not None and text == put(None, part):
        return None
    return without_words(text, part.text)


def holds(text: str | None, part: Part) -> bool:
    """Whether all of our part is in the file still, whatever else is."""
    if text is None:
        return False
    if part.kind == "own":
        lines = iter(text.split("\n"))
        return all(line in lines for line in part.text.split("\n") if line)
    if part.kind == "line":
        return f"{MARK}\n{part.text}\n" in text
    return set(part.text.split()) <= set(text.split())


def _newline(part: Part) -> str:
    return "\n" if part.newline else ""


def _without_lines(text: str, ours: str) -> str | None:
    lines = text.split("\n")
    for line in ours.split("\n"):
        if line and line in lines:
            lines.remove(line)
    rest = "\n".join(lines)
    return rest if rest.strip() else None


def _without_marked(text: str, part: Part) -> str:
    ours = f"{_newline(part)}{MARK}\n{part.text}\n"
    at = text.rfind(ours)
    if at >= 0 and (at == 0 or part.newline or text[at - 1] == "\n"):
        after = text[at + len(ours) :]
        # A line that was added below ours may not grow onto the one above.
        return text[:at] + (_newline(part) if after else "") + after
    lines = text.split("\n")
    if MARK not in lines:
        return text
    at = lines.index(MARK)
    del lines[at]
    if at < len(lines):
        if lines[at] == part.text:
            del lines[at]
        else:
            lines[at] = without_words(lines[at], part.words)
    return "\n".join(lines)


def without_words(text: str, words: str) -> str:
    """The text without these words: the run of them, else each where it is last."""
    run = _last(text, words)
    if run is not None:
        return run
    for word in words.split():
        text = _last(text, word) or text
    return text


def _last(text: str, words: str) -> str | None:
    """Without the last occurrence of the run and the space before it; None: it is not there.

    Quote and bracket are for words in a shell assignment.
    """
    if not words:
        return None
    found = list(re.finditer(rf"(?:^|[ \t]+|(?<=[\n\"(])){re.escape(words)}(?=[\s\")]|$)", text))
    if not found:
        return None
    before, after = text[: found[-1].start()], text[found[-1].end() :]
    first = not before or before[-1] in "\n\"("
    return before + (after[1:] if first and after[:1] in " \t" and after[1:2].strip() else after)


def diff_text(change: Change) -> str:
    """A unified diff as diff(1) and patch(1) know it; a file without its last newline says so."""
    lines = unified_diff(
        _lines(change.before), _lines(change.after),
        "/dev/null" if change.before is None else f"a{change.path}",
        "/dev/null" if change.after is None else f"b{change.path}",
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _lines(text: str | None) -> list[str]:
    """Split at newlines only: the lines of a file in another encoding are its own affair."""
    pieces = (text or "").split("\n")
    return [f"{p}\n" for p in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


