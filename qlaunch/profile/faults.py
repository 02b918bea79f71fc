"""The error path: every fault of a raw tree at once, told in the profile's own words.

The fast path is one `msgspec.convert`, which stops at its first fault. Only when that has
refused is the tree walked here, key by key against the same types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from msgspec import inspect as mi

from qlaunch.codec import decode_value
from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath, key_text, spell_key
from qlaunch.profile.places import Finding
from qlaunch.profile.spelling import describe, nearest, options, spell, unwrap, value_kind
from qlaunch.values import Size

MAX_FAULTS = 200  # of a file that is no profile at all, nobody reads more

_FITS: tuple[tuple[type, tuple[type, ...]], ...] = (
    (mi.BoolType, (bool,)),
    (mi.StrType, (str,)),
    (mi.IntType, (int,)),
    (mi.FloatType, (float, int)),
    (mi.VarTupleType, (list,)),
    (mi.ListType, (list,)),
    (mi.StructType, (dict,)),
    (mi.DictType, (dict,)),
)


def find_faults(tree: dict[str, Any], kind: mi.StructType) -> list[Finding]:
    """What keeps the tree from being that table, in its order; one over MAX_FAULTS at most."""
    return list(islice(_Walk(kind).table(tree, kind, ()), MAX_FAULTS + 1))


class _Walk:
    def __init__(self, root: mi.StructType) -> None:
        self.root = root

    def table(self, tree: dict[str, Any], kind: mi.StructType, at: KeyPath) -> Iterator[Finding]:
        fields = {field.encode_name: field for field in kind.fields}
        for key, value in tree.items():
            if key in fields:
                yield from self.value(value, fields[key].type, (*at, key))
            else:
                yield self.unknown(key, value, list(fields), at)
        for name, field in fields.items():
            if field.required and name not in tree:
                _, notes = unwrap(field.type)
                hint = f"{name}: {notes.get('description', describe(field.type))}"
                yield Finding(at, Problem(f"the key {name} is missing", hint=hint))

    def unknown(self, key: str, value: object, known: list[str], at: KeyPath) -> Finding:
        hint = ""
        elsewhere = [path for path, name in _all_keys(self.root, "") if name == key]
        if near := nearest(key, known):
            hint = f"did you mean {near}?"
        elif elsewhere:
            hint = _belongs(key, elsewhere)
        return Finding(
            (*at, key),
            Problem(
                "unknown key",
                found=_shorten(f"{spell_key(key)} = {spell(value)}"),
                allowed=", ".join(known),
                hint=hint,
            ),
        )

    def value(self, value: object, kind: mi.Type, at: KeyPath) -> Iterator[Finding]:
        choices = options(kind)
        fitting = [choice for choice in choices if _fits(choice, value)]
        if not fitting:
            problem = _wrong_kind(value, kind, at)
            if len(at) == 1 and not problem.hint:
                headers = [path for path, name in _all_keys(self.root, "") if name == at[0]]
                if any(headers):
                    hint = _belongs(str(at[0]), [header for header in headers if header])
                    problem = problem._replace(hint=hint)
            yield Finding(at, problem)
            yield from self.inside_wrong_kind(value, choices, at)
            return
        results = [list(self.fitting(value, choice, at)) for choice in fitting]
        if all(results):
            for found in results[0]:
                problem = found.problem
                if found.path == at and problem.allowed and len(choices) > 1:
                    problem = problem._replace(allowed=describe(kind))
                yield Finding(found.path, problem, found.also)

    def inside_wrong_kind(
        self, value: object, choices: list[mi.Type], at: KeyPath
    ) -> Iterator[Finding]:
        """`[disk]` for `[[disk]]` or the other way round: its keys are looked at all the same."""
        table = next((t for t in map(_table_of, choices) if t is not None), None)
        if table is not None and isinstance(value, dict):
            yield from self.table(value, table, at)
        elif table is not None and isinstance(value, list):
            for number, item in enumerate(value):
                if isinstance(item, dict):
                    yield from self.table(item, table, (*at, number))

    def fitting(self, value: Any, kind: mi.Type, at: KeyPath) -> Iterator[Finding]:
        """Faults of a value whose kind is right."""
        bare, notes = unwrap(kind)
        if isinstance(bare, mi.StructType):
            yield from self.table(value, bare, at)
        elif isinstance(bare, mi.DictType):
            for key, item in value.items():
                for finding in self.value(key, bare.key_type, (*at, key)):
                    named = finding.problem._replace(found=_shorten(spell_key(key)))
                    yield Finding(finding.path, named, finding.also)
                yield from self.value(item, bare.value_type, (*at, key))
        elif isinstance(bare, (mi.VarTupleType, mi.ListType)):
            for number, item in enumerate(value):
                yield from self.value(item, bare.item_type, (*at, number))
        elif (problem := _leaf(value, bare, notes)) is not None:
            yield Finding(at, problem)


def _belongs(key: str, headers: list[str]) -> str:
    """Where a key that is written in the wrong table belongs; the top has no header."""
    if "" in headers:
        return f"{key} belongs above the first table"
    return f"{key} belongs in {' or '.join(headers[:3])}"


def _leaf(value: Any, kind: mi.Type, notes: dict[str, Any]) -> Problem | None:
    if isinstance(kind, mi.LiteralType):
        return _literal(value, kind)
    if isinstance(kind, mi.CustomType):
        try:
            decode_value(kind.cls, value)
        except ValueError as error:
            return Problem(f"expected {error}", found=spell(value))
    bad_int = isinstance(kind, mi.IntType) and not _in_range(value, kind)
    bad_text = isinstance(kind, mi.StrType) and not _matches(value, kind)
    if bad_int or bad_text:
        wanted = notes.get("form") or describe(kind)
        return Problem(f"expected {wanted}", found=spell(value))
    return None


def _literal(value: object, kind: mi.LiteralType) -> Problem | None:
    if value in kind.values:
        return None
    near = nearest(str(value), [str(v) for v in kind.values])
    return Problem(
        "unknown value",
        found=spell(value),
        allowed=describe(kind),
        hint=f"did you mean {spell(near)}?" if near else "",
    )


def _in_range(value: int, kind: mi.IntType) -> bool:
    return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)


def _matches(value: str, kind: mi.StrType) -> bool:
    return (
        (kind.min_length is None or len(value) >= kind.min_length)
        and (kind.max_length is None or len(value) <= kind.max_length)
        and (kind.pattern is None or re.search(kind.pattern, value) is not None)
    )


def _fits(kind: mi.Type, value: object) -> bool:
    """Whether a value is of the sort the type wants (a list, text, …)."""
    bare, _ = unwrap(kind)
    if isinstance(bare, mi.LiteralType):
        return isinstance(value, type(bare.values[0]))
    if isinstance(bare, mi.CustomType):
        try:
            decode_value(bare.cls, value)
        except TypeError:
            return False
        except ValueError:
            return True
        return True
    wanted = next((types for known, types in _FITS if isinstance(bare, known)), (object,))
    return isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))


def _table_of(kind: mi.Type) -> mi.StructType | None:
    bare, _ = unwrap(kind)
    if isinstance(bare, (mi.VarTupleType, mi.ListType)):
        bare, _ = unwrap(bare.item_type)
    return bare if isinstance(bare, mi.StructType) else None


def _wrong_kind(value: object, kind: mi.Type, at: KeyPath) -> Problem:
    name = key_text(tuple(part for part in at if isinstance(part, str)))
    lists = [c for c in options(kind) if isinstance(unwrap(c)[0], mi.VarTupleType)]
    table = next((t for t in map(_table_of, options(kind)) if t is not None), None)
    hint = ""
    if table is not None and lists and isinstance(value, dict):
        hint = f"write [[{name}]], once for each"
    elif table is not None and isinstance(value, list):
        hint = f"write [{name}], once"
    elif table is not None and value is True and not any(f.required for f in table.fields):
        hint = f"{at[-1]} = {{}} takes its defaults"
    elif table is not None and len(at) > 1 and isinstance(at[-1], str):
        keys = [f.encode_name for f in sorted(table.fields, key=lambda f: not f.required)]
        hint = f"write its keys: {at[-1]} = {{ {' = …, '.join(keys[:2])} = … }}"
    else:
        hint = _rewritten(value, [unwrap(choice)[0] for choice in options(kind)])
    found = spell(value)
    return Problem(f"expected {describe(kind)}, not {value_kind(value)}", found=found, hint=hint)


def _rewritten(value: object, kinds: list[mi.Type]) -> str:
    """The hint for `cores = "4"`, `boot_menu = "True"`, `memory = 8` and `flags = "+x"`."""

    def wanted(kind: type[mi.Type]) -> bool:
        return any(isinstance(k, kind) for k in kinds)

    if type(value) is int and wanted(mi.StrType):
        return f'write it in quotes: "{spell(value)}"'
    if type(value) is int and any(isinstance(k, mi.CustomType) and k.cls is Size for k in kinds):
        return f'write it with a unit, in quotes: "{spell(value)}G" or "{spell(value)}M"'
    if not isinstance(value, str):
        return ""
    text = value.strip().lower()
    if wanted(mi.IntType) and text.isascii() and text.isdigit() and len(text) < 10:
        return f"write it without quotes: {int(text)}"
    if wanted(mi.BoolType) and text in ("true", "false", "yes", "no", "on", "off"):
        return f"write {'true' if text in ('true', 'yes', 'on') else 'false'} without quotes"
    return f"write it in brackets: [{spell(value)}]" if wanted(mi.VarTupleType) else ""


def _all_keys(kind: mi.StructType, at: str) -> Iterator[tuple[str, str]]:
    """(table's header, key) for every key there is; the top has no header."""
    for field in kind.fields:
        yield at, field.encode_name
        for choice in options(field.type):
            table = _table_of(choice)
            if table is not None:
                several = not isinstance(unwrap(choice)[0], mi.StructType)
                name = f"{at.strip('[]')}.{field.encode_name}" if at else field.encode_name
                yield from _all_keys(table, f"[[{name}]]" if several else f"[{name}]")


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
