"""Values and types in the words of a TOML file, for messages.

A value is spelled as its owner would write it, shortened to 60 characters; a type is what the
manual would say ("a whole number from 1 to 1024"), never Python's or a library's name for it.
"""

from __future__ import annotations

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
    if isinstance(value, str):
        return quote(value, LIMIT)
    if isinstance(value, list):
        items = [_spell(v, depth - 1) for v in value[:20]] if depth else ["…"]
        return f"[{', '.join(items)}]"
    if isinstance(value, dict):
        pairs = list(value.items())[:20] if depth else []
        items = [f"{spell_key(k)} = {_spell(v, depth - 1)}" for k, v in pairs]
        return f"{{{', '.join(items)}}}" if depth else "{…}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"{value >> (value.bit_length() - 256):#x}…"
    return str(value).lower() if isinstance(value, bool) else str(value)


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
        if isinstance(bare, mi.LiteralType):
            parts += [spell(value) for value in bare.values]
        elif isinstance(bare, mi.BoolType):
            parts += ["true", "false"]
        else:
            parts.append(notes.get("form") or _describe(bare))
    return f"{', '.join(parts[:-1])} or {parts[-1]}" if len(parts) > 1 else parts[0]


def _describe(kind: mi.Type) -> str:
    if isinstance(kind, mi.CustomType):
        return _describe_value(kind.cls)
    if isinstance(kind, mi.IntType):
        return _describe_int(kind)
    if isinstance(kind, (mi.VarTupleType, mi.ListType)):
        inner, _ = unwrap(kind.item_type)
        return "a list of tables" if isinstance(inner, mi.StructType) else "a list"
    plain: tuple[tuple[type, str], ...] = (
        (mi.StrType, "text"), (mi.FloatType, "a number"),
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


def nearest(word: str, known: list[str]) -> str:
    """The known word closest to a mistyped one, or ""."""
    import difflib

    if len(word) > 64:
        return ""
    folded = {name.lower(): name for name in known}
    for candidate in (word.lower(), word.lower().replace("-", "_")):
        if near := difflib.get_close_matches(candidate, folded, n=1, cutoff=0.65):
            return folded[near[0]]
    return ""
