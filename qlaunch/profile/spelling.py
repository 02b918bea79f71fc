"""Values and types in the words of a TOML file, for messages.

A value is spelled as its owner would write it, shortened to 60 characters; a type is what the
manual would say ("a whole number from 1 to 1024"), never Python's or a library's name for it.
"""

from __future__ import annotations

import math
from typing import Any

from msgspec import inspect as mi

from qlaunch.codec import PARSERS
from qlaunch.profile.keys import quote, spell_key

LIMIT = 60
_DEPTH = 6


def spell(value: object) -> str:
    """A value as TOML, at most 60 characters."""
    text = _spell(value, _DEPTH)
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"


def _spell(value: object, depth: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value, LIMIT)
    if isinstance(value, int):
        return str(value) if value.bit_length() < 256 else f"{value:#x}"[:LIMIT]
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else str(value).replace("infinity", "inf")
    if isinstance(value, list):
        if depth == 0:
            return "[…]"
        return "[" + ", ".join(_spell(v, depth - 1) for v in value[:20]) + "]"
    if isinstance(value, dict):
        if depth == 0 or not value:
            return "{…}" if value else "{}"
        pairs = list(value.items())[:20]
        return "{" + ", ".join(f"{spell_key(k)} = {_spell(v, depth - 1)}" for k, v in pairs) + "}"
    return str(value)  # dates and times, as TOML writes them


def value_kind(value: object) -> str:
    """What a value is: "text", "a whole number", …"""
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds: tuple[tuple[type, str], ...] = (
        (str, "text"), (int, "a whole number"), (float, "a number with a fraction"),
        (list, "a list"), (dict, "a table"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "a date or time")


def unwrap(kind: mi.Type) -> tuple[mi.Type, dict[str, Any]]:
    """The type inside of annotations, and what they say (description, form)."""
    notes: dict[str, Any] = {}
    while isinstance(kind, mi.Metadata):
        notes = {**(kind.extra_json_schema or {}), **(kind.extra or {}), **notes}
        kind = kind.type
    return kind, notes


def options(kind: mi.Type) -> list[mi.Type]:
    """What a key may be: the members of a union; null, which TOML has not, left out."""
    bare, _ = unwrap(kind)
    if not isinstance(bare, mi.UnionType):
        return [kind]
    return [option for option in bare.types if not isinstance(option, mi.NoneType)]


def describe(kind: mi.Type) -> str:
    """A type in words: what the value must be."""
    parts: list[str] = []
    for option in options(kind):
        bare, notes = unwrap(option)
        parts.append(notes.get("form") or _describe(bare))
    return " or ".join(parts)


def _describe(kind: mi.Type) -> str:
    if isinstance(kind, mi.LiteralType):
        return ", ".join(spell(v) for v in kind.values)
    if isinstance(kind, mi.CustomType):
        return _describe_value(kind.cls)
    if isinstance(kind, mi.IntType):
        return _describe_int(kind)
    if isinstance(kind, (mi.VarTupleType, mi.ListType)):
        inner, _ = unwrap(kind.item_type)
        return "a list of tables" if isinstance(inner, mi.StructType) else "a list"
    plain: tuple[tuple[type, str], ...] = (
        (mi.BoolType, "true or false"), (mi.StrType, "text"), (mi.FloatType, "a number"),
        (mi.StructType, "a table"), (mi.DictType, "a table"),
    )
    return next((name for known, name in plain if isinstance(kind, known)), "another value")


def _describe_int(kind: mi.IntType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f"a whole number from {kind.ge} to {kind.le}"
    if kind.ge is not None:
        return f"a whole number, {kind.ge} or more"
    return "a whole number"


def _describe_value(cls: type) -> str:
    """The sentence of the value's own parser."""
    try:
        PARSERS[cls]("")
    except ValueError as error:
        return str(error)
    except KeyError:
        return "text"
    return "a path"
