"""Who starts a desktop entry: values of `Exec` → the words, by the letter of the specification."""

from __future__ import annotations

RESERVED = set(" \t\n\"'\\><~|&;$*?#()`")


def string_value(text: str) -> str:
    """A value of type string, by the specification's table of escapes, character by character."""
    meanings = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
    out, characters = "", iter(text)
    for char in characters:
        out += meanings[next(characters)] if char == "\\" else char
    return out


def arguments(value: str) -> list[str]:
    """What is started by a value of `Exec`: strings, then quotes, then field codes."""
    line, words, place = string_value(value), [], 0
    while place < len(line):
        if line[place] == " ":
            place += 1
            continue
        word = ""
        if line[place] == '"':
            place += 1
            while line[place] != '"':
                if line[place] == "\\":
                    place += 1
                    assert line[place] in '"`$\\', line
                else:
                    assert line[place] not in "`$", line
                word += line[place]
                place += 1
            place += 1
            assert line[place : place + 1] in ("", " "), line
        else:
            while place < len(line) and line[place] != " ":
                assert line[place] not in RESERVED, line
                word += line[place]
                place += 1
        assert word.replace("%%", "").count("%") == 0, word
        words.append(word.replace("%%", "%"))
    return words
