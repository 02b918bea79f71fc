"""The JSON Schema agrees with the reader: what the reader takes validates, typos do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from qlaunch.codec import PARSERS
from qlaunch.errors import ProfileError
from qlaunch.profile.read import read_profile
from qlaunch.profile.schema import VALUES, profile_schema
from qlaunch.profile.table import Table
from qlaunch.profile.tables import whole

SCHEMA = profile_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TOP = Path(__file__).parents[2]
BOOT = "[[cdrom]]\nfile = 'install.iso'\n"


def accepts(text: str) -> bool:
    return bool(VALIDATOR.is_valid(tomli.loads(text)))


def test_it_is_a_schema_and_json() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["title"] == "qlaunch profile"
    assert "$id" not in SCHEMA


def test_every_table_and_key_is_described() -> None:
    assert set(SCHEMA["$defs"]) == {table.__name__ for table in Table.__subclasses__()}
    for table in SCHEMA["$defs"].values():
        assert table["description"]
        assert table["additionalProperties"] is False
        for key, schema in table["properties"].items():
            assert schema.get("description"), key


def test_lists_and_defaults() -> None:
    properties = SCHEMA["$defs"]["Profile"]["properties"]
    assert properties["disk"]["type"] == "array"
    assert properties["disk"]["items"] == {"$ref": "#/$defs/Disk"}
    assert properties["cpu"]["$ref"] == "#/$defs/Cpu"
    assert SCHEMA["$defs"]["Disk"]["required"] == ["file"]
    assert SCHEMA["$defs"]["Profile"]["required"] == []
    assert SCHEMA["$defs"]["Machine"]["properties"]["memory"]["default"] == "2G"
    assert "null" not in json.dumps(SCHEMA)


def test_every_pattern_has_words() -> None:
    """A pattern that fails is told in words, which stand beside it (`extra={"form": …}`)."""
    import msgspec.inspect as mi

    def bare_patterns(kind: Any, worded: bool = False) -> Iterator[str]:
        if isinstance(kind, mi.Metadata):
            yield from bare_patterns(kind.type, worded or "form" in (kind.extra or {}))
        elif isinstance(kind, mi.StrType):
            yield from [kind.pattern] if kind.pattern and not worded else []
        elif isinstance(kind, mi.StructType):
            for field in kind.fields:
                yield from bare_patterns(field.type)
        elif isinstance(kind, mi.UnionType):
            for option in kind.types:
                yield from bare_patterns(option, worded)
        elif isinstance(kind, mi.VarTupleType):
            yield from bare_patterns(kind.item_type)
        elif isinstance(kind, mi.DictType):
            yield from bare_patterns(kind.key_type)
            yield from bare_patterns(kind.value_type)

    assert list(bare_patterns(whole())) == []


@pytest.mark.parametrize("path", sorted((TOP / "profiles").glob("*.toml")), ids=lambda p: p.name)
def test_the_profiles_that_come_along(path: Path) -> None:
    assert accepts(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        BOOT,
        'extends = "a.toml"\n',
        'extends = ["a.toml", "b.toml"]\n',
        '[cpu]\ncores = 3\nhyperv = true\n'
        'pin = { vcpus = [1, "2-3", [4, 5]], emulator = " 0, 4" }\n',
        '[cpu]\nhyperv = ["vapic"]\n',
        '[machine]\nmemory = "8GiB"\nhugepages = "1G"\nfw_cfg = {"opt/x" = "y"}\n',
        '[[net]]\nuser = { forward = ["tcp:2222:22"] }\nmac = "52:54:00:26:7F:96"\n',
        '[[pci]]\ndevice = "0000:03:00.0"\n[[pci]]\ndevice = "10DE:1200"\naddr = "0x1C.0"\n',
        '[stop]\ntimeout = "1.5min"\n[qemu.set]\n"a.b" = true\n"a.c" = 1\n"a.d" = "x"\n',
    ],
)
def test_good_profiles(text: str, tmp_path: Path) -> None:
    assert accepts(text)
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text("", encoding="utf-8")
    (tmp_path / "vm.toml").write_text(text + BOOT.replace("install", "x"), encoding="utf-8")
    assert read_profile(tmp_path / "vm.toml")


@pytest.mark.parametrize(
    "text",
    [
        "cors = 1\n", "[cpu]\ncors = 1\n", '[cpu]\ncores = "4"\n', "[cpu]\ncores = 0\n",
        "[cpu]\ncores = 2.5\n", "[[cpu]]\n", '[disk]\nfile = "a"\n', "[[disk]]\n",
        '[[disk]]\nfile = "a"\nbus = "scuzzy"\n', '[[disk]]\nfile = ""\n', 'uuid = "x"\n',
        '[machine]\nmemory = "8"\n', "[machine]\nmemory = 8\n", '[machine]\nhugepages = "4M"\n',
        '[machine.fw_cfg]\n"etc/x" = "y"\n', '[[net]]\nmac = "53:54:00:26:7f:96"\n',
        '[[pci]]\ndevice = "3:0.0"\n', "[cpu.pin]\nvcpus = [-1]\n", '[cpu.pin]\nvcpus = ["1 2"]\n',
        '[stop]\ntimeout = "soon"\n', 'name = "../x"\n', "extends = 5\n",
        "[hooks]\nbefore = ['true']\n", "[qemu.set]\n'a.b' = [1]\n", '[cpu]\nflags = ["svm"]\n',
    ],
)
def test_bad_profiles(text: str, tmp_path: Path) -> None:
    assert not accepts(text)
    (tmp_path / "vm.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError):
        read_profile(tmp_path / "vm.toml")


def patterns(kind: type) -> list[str]:
    schema = VALUES[kind]
    return [s["pattern"] for s in [schema, *schema.get("anyOf", [])] if "pattern" in s]


KINDS = sorted((kind for kind in VALUES if patterns(kind)), key=lambda kind: kind.__name__)


def valid(kind: type, value: object) -> bool:
    return bool(jsonschema.Draft202012Validator(VALUES[kind]).is_valid(value))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_examples_are_good(kind: type) -> None:
    for schema in [VALUES[kind], *VALUES[kind].get("anyOf", [])]:
        for example in schema.get("examples", []):
            assert valid(kind, example)
            assert str(PARSERS[kind](example))


@given(data=st.data(), kind=st.sampled_from(KINDS))
@settings(max_examples=200, deadline=None)
def test_what_a_parser_takes_the_schema_takes(data: st.DataObject, kind: type) -> None:
    text = data.draw(
        st.one_of(
            st.from_regex(patterns(kind)[0]),
            st.text("0123456789abcdefgGkKmMTsix:.-, B", max_size=20),
        )
    )
    try:
        value = PARSERS[kind](text)
    except ValueError:
        return
    assert valid(kind, text)
    assert PARSERS[kind](str(value)) == value
