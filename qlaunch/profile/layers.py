"""Several files and `--set` become one tree.

`extends` names one base or several, relative to the file that says it; later bases go over
earlier ones and the file itself over all. Tables merge key by key, lists of tables append (the
base's first), any other value replaces. A file reached twice by different ways counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from qlaunch.errors import Problem, ProfileError, UsageError
from qlaunch.profile.files import OpenError, shown
from qlaunch.profile.keys import KeyPath, key_text, parse_key, spell_key

Tree = dict[str, Any]
MAX_DEPTH = 16
_MAX_FILES = 64
_MAX_TABLES = 32  # nothing in a profile nests deeper; what does is replaced, and refused later


class Layer(Struct, frozen=True):
    """One file, read and parsed."""

    path: Path
    text: str
    tree: Tree
    identity: tuple[int, int]  # device and inode
    root_only: bool = False
    stands_for: Path | None = None  # the directory of a file that came from another machine

    @property
    def directory(self) -> Path:
        """What its relative paths are relative to."""
        return self.stands_for or self.path.parent


class Override(Struct, frozen=True):
    """One `--set`."""

    path: KeyPath
    value: Any


def is_tables(value: object) -> bool:
    """Whether a value is a list of tables (`[[disk]]`)."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def merge(base: Tree, over: Tree, depth: int = 0) -> Tree:
    """`over` laid over `base`; neither is changed, both may be shared with the result."""
    merged = dict(base)
    for key, value in over.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and depth < _MAX_TABLES:
            merged[key] = merge(old, value, depth + 1)
        elif is_tables(old) and is_tables(value):
            merged[key] = [*base[key], *value]
        else:
            merged[key] = value
    return merged


class Collector:
    """Reads a file and all that it extends: `layers` in merging order, `problems` in file order."""

    def __init__(
        self, load: Callable[[Path], Layer], expand: Callable[[str, Layer], str]
    ) -> None:
        self.layers: list[Layer] = []
        self.problems: list[Problem] = []
        self._load = load
        self._expand = expand
        self._seen: set[tuple[int, int]] = set()

    def collect(self, path: Path) -> None:
        """Read `path` and its bases. Faults are kept, so that all files' are told."""
        try:
            layer = self._load(path)
        except ProfileError as error:
            self.problems.extend(error.problems)
            return
        self._add(layer, (layer,))

    def _add(self, layer: Layer, chain: tuple[Layer, ...]) -> None:
        self._seen.add(layer.identity)
        for number, text in self._bases(layer):
            self._base(layer, number, text, chain)
        self.layers.append(layer)

    def _bases(self, layer: Layer) -> list[tuple[int, str]]:
        value = layer.tree.get("extends")
        names = value if isinstance(value, list) else [value]
        if "extends" not in layer.tree or not all(isinstance(name, str) for name in names):
            return []  # absent, or of a wrong type, which the table's own check tells
        del layer.tree["extends"]
        return list(enumerate(names))

    def _base(self, layer: Layer, number: int, text: str, chain: tuple[Layer, ...]) -> None:
        def fault(message: str, found: str = "", hint: str = "") -> None:
            from qlaunch.profile.lines import key_lines

            lines = key_lines(layer.text)
            line = lines.get(("extends", number)) or lines.get(("extends",), 1)
            place = f"{shown(layer.path.name)}:{line}: extends"
            self.problems.append(Problem(message, place, found, hint=hint))

        try:
            base = self._load(Path(self._expand(text, layer)))
        except OpenError as error:
            for problem in error.problems:
                fault(problem.message, problem.where, problem.hint)
        except ProfileError as error:
            self.problems.extend(error.problems)
        except ValueError as error:
            fault(str(error), spell_key(text))
        else:
            if too_many := self._too_many(base, chain):
                fault(*too_many)
            elif base.identity not in self._seen:
                self._add(base, (*chain, base))

    def _too_many(self, base: Layer, chain: tuple[Layer, ...]) -> tuple[str, str, str] | None:
        hint = "put some of them together"
        if base.identity in (link.identity for link in chain):
            names = [shown(link.path.name) for link in (*chain, base)]
            return "the profile extends itself", " → ".join(names), "take this one out"
        if len(chain) > MAX_DEPTH:
            return f"more than {MAX_DEPTH} files extend one another", shown(base.path), hint
        if len(self._seen) >= _MAX_FILES:
            return f"more than {_MAX_FILES} files", shown(base.path), hint
        return None


def parse_override(text: str, read_value: Callable[[str], Any]) -> Override:
    """`cpu.cores=4` → Override. `read_value` reads a TOML value and raises ValueError.

    What is not a TOML value is taken as plain text, so `machine.memory=8G` needs no quotes.
    """
    key, equals, raw = text.partition("=")
    if '"' in key or "'" in key:
        key, equals, raw = _split_quoted(text)
    if not equals:
        raise _usage(text, "KEY=VALUE is wanted")
    try:
        path = parse_key(key.strip())
    except ValueError as error:
        raise _usage(text, str(error)) from None
    if path == ("extends",):
        raise _usage(text, "extends can only be said in a file")
    try:
        return Override(path, read_value(raw.strip()))
    except ValueError:
        return Override(path, raw)


def _split_quoted(text: str) -> tuple[str, str, str]:
    """At the first `=` outside of quotes."""
    quote = ""
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "=":
            return text[:at], "=", text[at + 1 :]
    return text, "", ""


def _usage(text: str, message: str, hint: str = "") -> UsageError:
    hint = hint or "for example --set cpu.cores=4 or --set disk[0].file=other.qcow2"
    return UsageError(Problem(message, where=f"--set {shown(text)[:60]}", hint=hint))


def apply_override(tree: Tree, override: Override) -> Tree:
    """The tree with one key set; an index one past the end of a list appends."""
    result: Tree = _set(tree, override, 0)
    return result


def _set(node: Any, override: Override, depth: int) -> Any:
    if depth == len(override.path):
        return override.value
    part, done = override.path[depth], override.path[:depth]
    text = key_text(override.path)
    if node is None:
        node = [] if isinstance(part, int) else {}
    if isinstance(part, str):
        if isinstance(node, list):
            raise _usage(text, f"{key_text(done)} is a list", f"name one: {key_text(done)}[0]")
        if not isinstance(node, dict):
            raise _usage(text, f"{key_text(done)} is not a table")
        return {**node, part: _set(node.get(part), override, depth + 1)}
    if not isinstance(node, list):
        raise _usage(text, f"{key_text(done)} is not a list")
    if part > len(node):
        raise _usage(text, f"{key_text(done)} has {len(node)} entries, counted from 0")
    old = node[part] if part < len(node) else None
    return [*node[:part], _set(old, override, depth + 1), *node[part + 1 :]]


def skeleton(override: Override) -> Tree:
    """The override as a tree of its own (`disk[3].file` as the only disk's)."""
    value = override.value
    for part in reversed(override.path):
        value = [value] if isinstance(part, int) else {part: value}
    tree: Tree = value
    return tree


def skeleton_value(tree: Tree, path: Sequence[str | int]) -> Any:
    """The value that `skeleton` wrapped."""
    value: Any = tree
    for part in path:
        value = value[0] if isinstance(part, int) else value[part]
    return value
