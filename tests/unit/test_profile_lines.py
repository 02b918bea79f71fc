"""Every key that the TOML parser finds has a line, and the key is on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from qlaunch.profile.keys import KeyPath
from qlaunch.profile.lines import key_lines

ODD = """\
# a = 1
a = 1 # b = 2
"q.uo\\u0074ed" = "x"
'lit "eral' . sub = 2
multi = \"\"\"
c = 3
[no]
\\\"\"\" \"\" \"\"\"\"\"
d = '''
[[no]] '' '''''
list = [
  1, # two = 2
  "]",
  [ { e = 1, f.g = [2,
    3] } ],
  1979-05-27 07:32:00,
]
when = 1979-05-27 07:32:00 # h = 1
float = -1.5e+3 # five quotes end a text:
odd = [\"\"\"]\"\"\"\"\", {u = 1}]
inline = { i = "}", "j k" = {l = [ ]}, m.n = '#' }
[ table . "x y" ]
o = 1
[[ many ]]
p = 1
[many.sub]
q = 1
[[many.deep]]
[[many]]
p = 2
[[many.deep]]
r = 1
[many.deep.s]
t = 1
"""


def leaves(value: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Every path to a key or list entry."""
    if at:
        yield at
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from leaves(item, (*at, key))


def check(text: str) -> None:
    lines = key_lines(text)
    rows = text.split("\n")
    for path in leaves(tomli.loads(text)):
        assert path in lines, (path, text)
        row = rows[lines[path] - 1]
        if isinstance(path[-1], str):
            spelled = path[-1].replace("\\", "\\\\").replace('"', '\\"')
            key = path[-1]
            assert key in row or spelled in row or "\\u" in row or "\\U" in row, (path, row)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_odd_spellings(newline: str) -> None:
    text = ODD.replace("\n", newline)
    check(text)
    lines = key_lines(text)
    assert {path: lines[path] for path in (
        ("a",), ("q.uoted",), ("multi",), ("d",), ("list", 0), ("list", 1), ("list", 2, 0, "e"),
        ("list", 2, 0, "f", "g", 1), ("list", 3), ("when",), ("odd", 1, "u"),
        ("inline", "j k", "l"), ("table", "x y", "o"), ("many",), ("many", 0, "sub", "q"),
        ("many", 1), ("many", 1, "p"), ("many", 1, "deep", 0, "r"),
        ("many", 1, "deep", 0, "s", "t"),
    )} == {
        ("a",): 2, ("q.uoted",): 3, ("multi",): 5, ("d",): 9, ("list", 0): 12, ("list", 1): 13,
        ("list", 2, 0, "e"): 14, ("list", 2, 0, "f", "g", 1): 15, ("list", 3): 16, ("when",): 18,
        ("odd", 1, "u"): 20, ("inline", "j k", "l"): 21, ("table", "x y", "o"): 23,
        ("many",): 24, ("many", 0, "sub", "q"): 27, ("many", 1): 29, ("many", 1, "p"): 30,
        ("many", 1, "deep", 0, "r"): 32, ("many", 1, "deep", 0, "s", "t"): 34,
    }
    assert not {("b",), ("c",), ("no",), ("two",), ("h",)} & set(lines)


def test_deep_nesting_ends() -> None:
    text = "a = " + "[" * 399 + "]" * 399 + "\nb = 1\n"
    tomli.loads(text)
    assert key_lines(text)[("a",)] == 1


KEYS = st.one_of(
    st.text("abcXYZ019_-", min_size=1, max_size=4),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4),
)
TEXTS = st.text(st.sampled_from("ab#[]{}=,.\"'\\\n\r\t é\x7f"), max_size=12)
LEAVES = st.one_of(
    st.integers(-99, 10**6), st.booleans(), st.floats(allow_nan=False), TEXTS,
    st.dates(), st.times().map(lambda t: t.replace(microsecond=0)),
    st.datetimes().map(lambda t: t.replace(microsecond=0)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


class Writer:
    """Writes one tree as TOML in many manners, chosen by `draw`."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def pick(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def blank(self) -> str:
        return self.pick("", "", " ", "\t")

    def gap(self) -> str:
        return self.pick("", " ", "\n", "\r\n  ", " # x = [1\n", "\n\n")

    def text(self, value: str) -> str:
        escaped = "".join(
            c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in value
        )
        ways = [f'"{escaped}"', f'"""{escaped}"""', f'"""\n{escaped}"""']
        plain = not set(value) - set("ab#[]{}=,. é")
        if plain:
            ways += [f"'{value}'", f"'''\n{value}'''", f'"""{value}\n[x]\ny = 1\n"" \\\n """']
        return self.pick(*ways)

    def key(self, value: str) -> str:
        bare = value.isascii() and value.replace("_", "a").replace("-", "a").isalnum()
        literal = "'" not in value
        ways = ['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"']
        return self.pick(*ways, *[f"'{value}'"] * literal, *[value] * bare)

    def value(self, value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            items = [f"{self.gap()}{self.value(v)}{self.gap()}" for v in value]
            return f"[{','.join(items)}{self.pick('', ',') if items else ''}{self.gap()}]"
        if isinstance(value, dict):
            pairs = [
                f"{self.blank()}{self.key(k)}{self.blank()}={self.blank()}{self.value(v)}"
                for k, v in value.items()
            ]
            return "{" + ",".join(pairs) + self.blank() + "}"
        return str(value)

    def body(self, tree: dict[str, Any]) -> str:
        rows = [
            f"{self.blank()}{self.key(k)}{self.blank()}={self.blank()}{self.value(v)}"
            f"{self.blank()}{self.pick('', '# [c]')}{self.pick(chr(10), chr(13) + chr(10))}"
            for k, v in tree.items()
        ]
        return "".join(row + self.pick("", "\n", "# k = 1\n") for row in rows)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A TOML text: a body, tables, arrays of tables with tables of their own."""
    writer = Writer(draw)
    text = writer.body(draw(st.dictionaries(KEYS, VALUES, max_size=4)))
    names = draw(st.lists(KEYS, max_size=4, unique=True))
    for name in names:
        bare = name.isalnum() and name.isascii()
        head = f"T{name}" if bare else writer.key(f"T {name}")
        trees = draw(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=3))
        if draw(st.booleans()):
            text += f"[{head} . 'sub']\n" + writer.body(trees[0])
            continue
        for tree in trees:
            text += f"[[ {head} ]]{writer.blank()}\n" + writer.body(tree)
            if draw(st.booleans()):
                text += f"[{head}.'Sub t']\n" + writer.body(trees[0])
    return text


def is_toml(text: str) -> bool:
    """Whether the parser takes it (a key may be said twice, or in two manners)."""
    try:
        tomli.loads(text)
    except tomli.TOMLDecodeError:
        return False
    return True


@given(documents().filter(is_toml))
@settings(max_examples=200, deadline=None)
def test_every_leaf_has_a_line(text: str) -> None:
    check(text)


@pytest.mark.nightly
@given(documents().filter(is_toml))
@settings(max_examples=20000, deadline=None)
def test_every_leaf_has_a_line_nightly(text: str) -> None:
    check(text)


@given(st.text(st.sampled_from("ab=.[]{}\"'\\\n#, 1"), max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_scanner_ends_on_anything(text: str) -> None:
    key_lines(text)
