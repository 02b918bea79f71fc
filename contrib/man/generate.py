"""qlaunch.toml(5) from the profile's own schema: every key has its entry because every key has one.

`python contrib/man/generate.py` writes the page beside this file; tests/unit/test_man.py compares.
What stands around the keys is in `qlaunch.toml.5.head` and `qlaunch.toml.5.tail`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qlaunch.profile.schema import profile_schema

HERE = Path(__file__).parent
PAGE = HERE / "qlaunch.toml.5"
_KINDS = {"boolean": "true | false", "string": "text", "object": "table of names and values"}


def page() -> str:
    """The whole page in man(7)'s language."""
    schema = profile_schema()
    tables = schema["$defs"]
    lines = [(HERE / "qlaunch.toml.5.head").read_text(encoding="utf-8").rstrip("\n")]
    lines += [".SH KEYS", ".SS Top level"]
    profile = tables["Profile"]["properties"]
    nested = {key: found for key, value in profile.items() if (found := _table(value))}
    for key, value in profile.items():
        if key not in nested:
            lines += _entry("", key, value, tables)
    for key, (name, many) in nested.items():
        heading = f"[[{key}]]" if many else f"[{key}]"
        lines += [f".SS {heading}", _roff(tables[name]["description"])]
        lines += _entries("", tables[name], tables, required=tables[name].get("required", []))
    lines.append((HERE / "qlaunch.toml.5.tail").read_text(encoding="utf-8").rstrip("\n"))
    return "\n".join(lines) + "\n"


def _entries(
    prefix: str, table: dict[str, Any], tables: dict[str, Any], required: list[str]
) -> Iterator[str]:
    for key, value in table["properties"].items():
        yield from _entry(prefix, key, value, tables, required=key in required)


def _entry(
    prefix: str, key: str, value: dict[str, Any], tables: dict[str, Any], *, required: bool = False
) -> Iterator[str]:
    """A key; the keys of a table in it follow with its name before theirs."""
    name = f"{prefix}{key}"
    yield ".TP"
    yield f".B {_roff(name)}"
    said = value.get("description", "")
    notes = [form for form in [_form(value, tables)] if form]
    if "default" in value:
        notes.append(f"default {_toml(value['default'])}")
    if required:
        notes.append("required")
    yield _roff(f"{said} ({'; '.join(notes)})" if notes else said)
    found = _table(value)
    if found and prefix.count(".") < 3:
        inner, many = found
        below = f"{name}[]." if many else f"{name}."
        yield from _entries(below, tables[inner], tables, tables[inner].get("required", []))


def _table(value: dict[str, Any]) -> tuple[str, bool] | None:
    """(table, whether it is a list of them) when a key holds a table."""
    for choice in value.get("anyOf", [value]):
        if "$ref" in choice:
            return choice["$ref"].rsplit("/", 1)[1], False
        items = choice.get("items", {})
        if "$ref" in items:
            return items["$ref"].rsplit("/", 1)[1], True
    return None


def _form(value: dict[str, Any], tables: dict[str, Any]) -> str:
    """What may be written: the choices, or the kind of value."""
    forms = [_one(choice, tables) for choice in value.get("anyOf", [value])]
    return " | ".join(dict.fromkeys(form for form in forms if form))


def _one(choice: dict[str, Any], tables: dict[str, Any]) -> str:
    kind = "table" if "$ref" in choice else str(choice.get("type", ""))
    if "enum" in choice:
        kind = " | ".join(_toml(item) for item in choice["enum"])
    elif kind == "array":
        kind = f"list of: {_form(choice['items'], tables)}"
    elif kind == "integer" and "minimum" in choice and "maximum" in choice:
        kind = f"{choice['minimum']} to {choice['maximum']}"
    elif any(str(example).startswith("~/") for example in choice.get("examples", ())):
        kind = "path"
    elif choice.get("examples"):
        kind = f"text, such as {_toml(choice['examples'][0])}"
    return _KINDS.get(kind, kind)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)


def _roff(text: str) -> str:
    """A line of text: a backslash, a leading dot or quote and a hyphen mean something to roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
