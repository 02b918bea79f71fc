"""Host paths in a profile: `~` and `${ENV}` expanded, relative to the file that says them.

Which keys are paths is read from the field types, so a new HostPath key needs nothing here. It is
done on each file's own tree before files are merged: a base's paths are relative to the base.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePath
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from msgspec import Struct

from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath, quote
from qlaunch.profile.table import Table
from qlaunch.profile.tables import key_type
from qlaunch.profile.trust import asking_user
from qlaunch.values import HostPath, Program

_VARIABLE = r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"


class _Shape(Struct, frozen=True):
    """What a key may hold, as far as paths are concerned."""

    path: bool = False
    program: bool = False  # a path when it looks like one
    table: type[Table] | None = None
    many: bool = False


class PathRules(Struct, frozen=True):
    """What a path is expanded with."""

    directory: Path
    home: str
    environ: Mapping[str, str]


def home_directory() -> str:
    """What `~` means: under sudo or pkexec the asking user's home, so that a plan made with
    and without root names the same files."""
    asking = asking_user() if os.geteuid() == 0 else None
    if asking is not None:
        import pwd

        try:
            return pwd.getpwuid(asking).pw_dir
        except KeyError:
            pass
    return str(Path.home())


def expand_path(text: str, rules: PathRules) -> str:
    """The absolute path. Raises ValueError for an empty path or a variable that is not set."""
    if not text:
        raise ValueError("expected a path, not an empty text")

    def value(match: re.Match[str]) -> str:
        known = rules.environ.get(match[1])
        if known is None:
            raise ValueError(f"the environment variable {match[1]} is not set")
        return known

    expanded = re.sub(_VARIABLE, value, text) if "$" in text else text
    if text == "~" or text.startswith("~/"):
        expanded = rules.home + expanded[1:]
    return str(PurePath(rules.directory, expanded))


def expand_tree(
    tree: dict[str, Any], table: type[Table], rules: PathRules
) -> list[tuple[KeyPath, Problem]]:
    """Expand every path of a raw tree in place; what cannot be is left as it was, and told."""
    faults: list[tuple[KeyPath, Problem]] = []
    for holder, key, path in _written_paths(tree, table, ()):
        try:
            holder[key] = expand_path(holder[key], rules)
        except ValueError as error:
            hint = "export it, or write the path out" if "variable" in str(error) else ""
            faults.append((path, Problem(str(error), found=quote(holder[key]), hint=hint)))
    return faults


def _written_paths(
    tree: dict[str, Any], table: type[Table], at: KeyPath
) -> Iterator[tuple[Any, Any, KeyPath]]:
    for key, value in tree.items():
        shape = _shape_of(table, key)
        if shape == _Shape() or not isinstance(value, (str, dict, list)):
            continue
        items: list[tuple[Any, Any, KeyPath]] = [(tree, key, (*at, key))]
        if isinstance(value, list):
            items = [(value, i, (*at, key, i)) for i in range(len(value))]
        for holder, index, path in items:
            item = holder[index]
            if isinstance(item, str) and _is_path(item, shape):
                yield holder, index, path
            elif shape.table is not None and isinstance(item, dict) and (
                shape.many == isinstance(value, list)
            ):
                yield from _written_paths(item, shape.table, path)


def _is_path(text: str, shape: _Shape) -> bool:
    return shape.path or (shape.program and Program(text).is_path)


@cache
def _shape_of(table: type[Table], key: str) -> _Shape:
    """What a key of a table may hold; nothing, for one that is not there."""
    if key not in table.__struct_fields__:
        return _Shape()
    return _shape(key_type(table, key))


def _shape(kind: Any) -> _Shape:
    origin = get_origin(kind)
    if origin is Annotated:
        return _shape(get_args(kind)[0])
    if origin in (UnionType, Union, tuple):
        shapes = [_shape(part) for part in get_args(kind)]
        tables = [shape.table for shape in shapes if shape.table]
        many = origin is tuple or any(shape.many for shape in shapes)
        path = any(shape.path for shape in shapes)
        return _Shape(path, table=tables[0], many=many) if tables else _Shape(path)
    if isinstance(kind, type):
        table = kind if issubclass(kind, Table) else None
        return _Shape(kind is HostPath, kind is Program, table)
    return _Shape()
