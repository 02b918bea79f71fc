"""Which file and line said a key, once files and `--set` have been merged.

Nothing is computed until the first question. The merge is followed with the same rules as
`layers.merge`, keeping for every key the file it came from and its path in that file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from msgspec import Struct

from qlaunch.errors import Problem
from qlaunch.profile.files import shown
from qlaunch.profile.keys import KeyPath, key_text
from qlaunch.profile.layers import Layer, Override, Tree, is_tables

COMMAND_LINE = "--set"
_NOWHERE = 1 << 30  # behind all lines of a file


class Finding(Struct, frozen=True):
    """A problem and the key it is about; `also` are other keys that it depends on."""

    path: KeyPath
    problem: Problem
    also: tuple[KeyPath, ...] = ()


class _Origin(Struct, frozen=True):
    layer: int  # len(layers) is the command line
    path: KeyPath


class Places:
    """Answers where keys stand. `layers` in merging order, so the profile itself is the last."""

    def __init__(self, layers: Sequence[Layer], overrides: Sequence[Override]) -> None:
        self._layers = layers
        self._overrides = overrides

    @cached_property
    def names(self) -> list[str]:
        """A short name for each file: its own, or the whole path where two are called the same."""
        short = [shown(layer.path.name) for layer in self._layers]
        return [
            name if short.count(name) == 1 else shown(layer.path)
            for name, layer in zip(short, self._layers, strict=True)
        ]

    @cached_property
    def _lines(self) -> list[dict[KeyPath, int]]:
        from qlaunch.profile.lines import key_lines

        return [key_lines(layer.text) for layer in self._layers]

    @cached_property
    def _origins(self) -> dict[KeyPath, _Origin]:
        origins: dict[KeyPath, _Origin] = {}
        nodes: dict[KeyPath, Any] = {}  # what stands at each merged path so far
        for number, layer in enumerate(self._layers):
            _follow(origins, nodes, number, layer.tree)
        for override in self._overrides:
            _forget(origins, override.path)
            origins[override.path] = _Origin(len(self._layers), override.path)
        return origins

    def _find(self, path: KeyPath) -> tuple[int, int] | None:
        """(layer, line) of the most specific key known."""
        for length in range(len(path), 0, -1):
            origin = self._origins.get(path[:length])
            if origin is None:
                continue
            if origin.layer == len(self._layers):
                return origin.layer, 0
            line = self._lines[origin.layer].get(origin.path)
            if line is not None:
                return origin.layer, line
        return None

    def origin(self, path: KeyPath) -> str:
        """`win7.toml:12`, `--set`, or "" for what nobody wrote."""
        found = self._find(path)
        if found is None:
            return ""
        layer, line = found
        return COMMAND_LINE if layer == len(self._layers) else f"{self.names[layer]}:{line}"

    def merged_path(self, layer: int, path: KeyPath) -> KeyPath | None:
        """Where a file's own key has ended up; None when another file replaced it."""
        wanted = _Origin(layer, path)
        return next((key for key, origin in self._origins.items() if origin == wanted), None)

    def place(self, finding: Finding) -> Problem:
        """The finding's problem with its `where`."""
        origin = self.origin(finding.path) or self.names[-1]
        text = key_text(finding.path)
        problem = finding.problem
        return problem._replace(  # a value may have a line break where a form allows one (re's $)
            where=f"{origin}: {text}" if text else origin, message=shown(problem.message),
            found=shown(problem.found), hint=shown(problem.hint),
        )

    def in_order(self, findings: Sequence[Finding]) -> tuple[Problem, ...]:
        """Placed, in file order: the profile, the files it extends, the command line."""

        def rank(finding: Finding) -> tuple[int, int]:
            main = len(self._layers) - 1
            layer, line = self._find(finding.path) or (main, _NOWHERE)
            return (-1 if layer == main else layer), line

        return tuple(self.place(finding) for finding in sorted(findings, key=rank))


def _forget(origins: dict[KeyPath, Any], path: KeyPath) -> None:
    for known in [key for key in origins if key[: len(path)] == path]:
        del origins[known]


def _follow(
    origins: dict[KeyPath, _Origin], nodes: dict[KeyPath, Any], layer: int, tree: Tree
) -> None:
    """Lay one file's keys over what is known, by the rules of `layers.merge`."""
    todo: list[tuple[KeyPath, KeyPath, Any]] = [((k,), (k,), v) for k, v in tree.items()]
    while todo:
        path, local, value = todo.pop()
        old = nodes.get(path)
        appends = is_tables(old) and is_tables(value)
        merges = isinstance(old, dict) and isinstance(value, dict)
        if isinstance(old, (dict, list)) and not (appends or merges):
            _forget(origins, path)
            _forget(nodes, path)
        # a table said by two files belongs to the last; a list to the first
        if not appends or path not in origins:
            origins[path] = _Origin(layer, local)
        offset = len(old) if appends and isinstance(old, list) else 0
        nodes[path] = [*old, *value] if appends and isinstance(old, list) else value
        if isinstance(value, dict):
            todo += [((*path, k), (*local, k), v) for k, v in value.items()]
        elif isinstance(value, list):
            todo += [((*path, offset + i), (*local, i), v) for i, v in enumerate(value)]
