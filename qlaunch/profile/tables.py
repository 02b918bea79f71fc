"""The profile's tables by key: each is defined when a profile says it, and not before.

Defining all forty takes longer than everything else between Enter and QEMU's start, and so would
the types of all keys. So a tree is converted key by key, the type of a key evaluated when it is
said, and only what walks all types (the schema, the messages) loads them all.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

from qlaunch.codec import decode_value
from qlaunch.profile import profile as home
from qlaunch.profile.profile import LATE, Profile
from qlaunch.profile.table import Table

if TYPE_CHECKING:
    from msgspec import inspect as mi

T = TypeVar("T", bound=Table)
Inside: TypeAlias = tuple[type[Table] | None, bool]


@cache
def key_type(table: type[Table], key: str) -> Any:
    """The annotated type of one of a table's keys. Raises KeyError for an unknown one."""
    text = table.__annotations__[key]
    if not isinstance(text, str):
        return text
    code = compile(text, key, "eval")  # our own annotation, which typing would evaluate too
    if table is Profile:
        for name in code.co_names:
            _define(name)
    return eval(code, vars(sys.modules[table.__module__]))  # noqa: S307


def table_in(kind: Any) -> Inside:
    """The table that a type allows, if any, and whether it is a list of them."""
    origin = get_origin(kind)
    if origin is Annotated:
        return table_in(get_args(kind)[0])
    if origin in (UnionType, Union, tuple):
        for part in get_args(kind):
            table, many = table_in(part)
            if table is not None:
                return table, many or origin is tuple
    if isinstance(kind, type) and issubclass(kind, Table):
        return kind, False
    return None, False


def build(tree: dict[str, Any]) -> Profile:
    """The profile that a raw tree says. Raises msgspec.ValidationError for the first fault."""
    return _table(Profile, tree, "$")


def _table(table: type[T], tree: dict[str, Any], at: str) -> T:
    fields = {}
    for key, value in tree.items():
        if key not in table.__struct_fields__:
            raise msgspec.ValidationError(f"unknown key - at `{at}.{key}`")
        fields[key] = _value(key_type(table, key), value, f"{at}.{key}")
    try:
        return table(**fields)
    except TypeError as error:  # a key that is wanted
        raise msgspec.ValidationError(f"{error} - at `{at}`") from None


def _value(kind: Any, value: Any, at: str) -> Any:
    if isinstance(value, (dict, list)):
        table, many = table_in(kind)
        if table is not None and not many and isinstance(value, dict):
            return _table(table, value, at)
        if table is not None and many and isinstance(value, list) and all(
            isinstance(item, dict) for item in value
        ):
            return tuple(_table(table, item, f"{at}[{n}]") for n, item in enumerate(value))
    try:
        return msgspec.convert(value, kind, dec_hook=decode_value)
    except msgspec.ValidationError as error:
        said = str(error) if "`$" in str(error) else f"{error} - at `$`"
        raise msgspec.ValidationError(said.replace("`$", f"`{at}", 1)) from None


@cache
def whole() -> mi.StructType:
    """The type of a whole profile, every table in it."""
    from msgspec import inspect as mi

    for name in LATE:
        _define(name)
    kind = mi.type_info(Profile)
    assert isinstance(kind, mi.StructType)  # noqa: S101 - tells the type checker
    return kind


def _define(name: str) -> None:
    """Put a table's class where the annotations look for it."""
    if name in LATE and name not in vars(home):
        setattr(home, name, getattr(import_module(LATE[name]), name))
