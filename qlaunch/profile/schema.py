"""The JSON Schema of a profile, so that editors complete and check while one is written.

It is made from the same field types that the reader uses. It accepts all that the reader does;
the rules between keys and the finer points of values stay the reader's.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect as mi

from qlaunch import values
from qlaunch.profile.profile import Profile
from qlaunch.profile.spelling import options, unwrap
from qlaunch.profile.tables import whole


def _text(pattern: str, *examples: str) -> dict[str, Any]:
    # the reader forgives blanks around a value
    return {"type": "string", "pattern": rf"^\s*(?:{pattern})\s*$", "examples": list(examples)}


_HEX = "[0-9A-Fa-f]"
_ADDRESS = rf"(?:{_HEX}{{4,8}}:)?{_HEX}{{2}}:[01]{_HEX}\.[0-7]"
_ID = f"{_HEX}{{4}}:{_HEX}{{4}}"
_CPUS = r"[0-9]{1,6}(?:-[0-9]{1,6})?"

VALUES: dict[type, dict[str, Any]] = {
    values.PciAddress: _text(_ADDRESS, "03:00.0"),
    values.PciId: _text(_ID, "10de:1200"),
    values.PciSelector: _text(f"{_ADDRESS}|{_ID}", "03:00.0", "10de:1200"),
    values.GuestSlot: _text(rf"(?:0[xX])?[01]?{_HEX}(?:\.[0-7])?", "05", "1c.0"),
    values.Size: _text(r"[0-9]{1,12}(?:[KMGT](?:i?B)?|B)", "8G", "512M"),
    values.Duration: _text(r"[0-9]{1,10}(?:\.[0-9]{1,6})?(?:ms|s|m|min|h)", "60s", "2min"),
    values.MacAddress: _text(
        f"{_HEX}[02468ACEace](?::{_HEX}{{2}}){{5}}", "52:54:00:26:7f:96"
    ),
    values.Ipv4Network: _text(
        r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}/[0-9]{1,2}", "192.168.77.0/24"
    ),
    values.VmName: {
        "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,62}$", "examples": ["win7"],
    },
    values.HostPath: {
        "type": "string", "minLength": 1, "examples": ["disk.qcow2", "~/vm/disk.qcow2"],
    },
    values.Program: {
        "type": "string", "minLength": 1, "examples": ["qemu-system-x86_64", "~/qemu/build/qemu"],
    },
    values.CpuSet: {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 8191},
            _text(rf"{_CPUS}(?:\s*,\s*{_CPUS})*", "2", "0,4-6"),
            {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 8191}},
        ]
    },
}


def profile_schema() -> dict[str, Any]:
    """The schema as a tree that `json.dumps` takes."""
    root = whole()
    tables: dict[str, Any] = {}
    reference = _schema(root, tables)
    profile = tables[Profile.__name__]
    profile["required"].remove("name")  # the file's stem, when absent
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qlaunch profile",
        **reference,
        "$defs": tables,
    }


def _schema(kind: mi.Type, tables: dict[str, Any]) -> dict[str, Any]:
    """A type's schema. Not msgspec's own, which cannot write defaults of our value types."""
    choices = [_plain(choice, tables) for choice in options(kind)]
    _, notes = unwrap(kind)
    said: dict[str, Any] = {k: notes[k] for k in ("description", "pattern") if k in notes}
    return {**(choices[0] if len(choices) == 1 else {"anyOf": choices}), **said}


def _plain(kind: mi.Type, tables: dict[str, Any]) -> dict[str, Any]:
    bare, _ = unwrap(kind)
    if isinstance(bare, mi.StructType):
        return _table(bare, tables)
    if isinstance(bare, (mi.VarTupleType, mi.ListType)):
        return {"type": "array", "items": _schema(bare.item_type, tables)}
    if isinstance(bare, mi.DictType):
        return {
            "type": "object",
            "propertyNames": _schema(bare.key_type, tables),
            "additionalProperties": _schema(bare.value_type, tables),
        }
    if isinstance(bare, mi.LiteralType):
        return {"enum": list(bare.values)}
    if isinstance(bare, mi.CustomType):
        return dict(VALUES[bare.cls])
    return _scalar(bare)


def _scalar(kind: mi.Type) -> dict[str, Any]:
    if isinstance(kind, mi.BoolType):
        return {"type": "boolean"}
    if isinstance(kind, mi.IntType):
        return _set({"type": "integer"}, minimum=kind.ge, maximum=kind.le)
    if isinstance(kind, mi.StrType):
        return _set(
            {"type": "string"},
            minLength=kind.min_length, maxLength=kind.max_length, pattern=kind.pattern,
        )
    raise TypeError(f"no schema for {kind}")


def _set(schema: dict[str, Any], **limits: object) -> dict[str, Any]:
    return {**schema, **{name: limit for name, limit in limits.items() if limit is not None}}


def _table(kind: mi.StructType, tables: dict[str, Any]) -> dict[str, Any]:
    name = kind.cls.__name__
    if name not in tables:
        tables[name] = {
            "type": "object",
            "description": (kind.cls.__doc__ or "").partition("\n")[0],
            "additionalProperties": False,
            "required": [field.encode_name for field in kind.fields if field.required],
        }
        tables[name]["properties"] = {
            field.encode_name: _with_default(_schema(field.type, tables), field.default)
            for field in kind.fields
        }
    return {"$ref": f"#/$defs/{name}"}


def _with_default(schema: dict[str, Any], default: object) -> dict[str, Any]:
    """A table's or list's default is empty and an optional key's is null, which TOML has not."""
    if default is msgspec.NODEFAULT or default is None or isinstance(default, msgspec.Struct):
        return schema
    plain = msgspec.to_builtins(default, enc_hook=str)
    return schema if plain in ([], ()) else {**schema, "default": plain}
