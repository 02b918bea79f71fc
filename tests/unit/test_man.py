"""Profile keys, JSON Schema and qlaunch.toml(5) tell of the same keys."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from msgspec import inspect as mi

from qlaunch.cli.main import VERBS
from qlaunch.profile.schema import profile_schema
from qlaunch.profile.spelling import options, unwrap
from qlaunch.profile.tables import whole

MAN = Path(__file__).parents[2] / "contrib/man"


def generator(name: str = "generate") -> ModuleType:
    """A script of contrib/man, which is no package."""
    spec = importlib.util.spec_from_file_location(f"man_{name}", MAN / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def struct_keys(kind: mi.StructType, prefix: str = "") -> Iterator[str]:
    """Every key of a table and of the tables in it, from the structs themselves."""
    for field in kind.fields:
        name = f"{prefix}{field.encode_name}"
        yield name
        for choice in options(field.type):
            bare, _ = unwrap(choice)
            many = isinstance(bare, mi.VarTupleType)
            inner, _ = unwrap(bare.item_type) if isinstance(bare, mi.VarTupleType) else (bare, {})
            if isinstance(inner, mi.StructType):
                yield from struct_keys(inner, f"{name}[]." if many else f"{name}.")


def schema_keys(table: dict[str, Any], tables: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The same from the schema."""
    for key, value in table["properties"].items():
        yield f"{prefix}{key}"
        for choice in value.get("anyOf", [value]):
            items = choice.get("items", {})
            ref = choice.get("$ref") or items.get("$ref")
            if ref:
                below = f"{prefix}{key}[]." if items else f"{prefix}{key}."
                yield from schema_keys(tables[ref.rsplit("/", 1)[1]], tables, below)


def page_keys(page: str) -> Iterator[str]:
    """The same from the page: an entry below its section."""
    section = ""
    for line, following in zip(page.splitlines(), [*page.splitlines()[1:], ""], strict=True):
        if match := re.fullmatch(r"\.SS (\[+)([a-z_]+)\]+", line):
            section = f"{match[2]}[]." if match[1] == "[[" else f"{match[2]}."
            yield match[2]
        elif line.startswith(".SH"):
            section = "" if line == ".SH KEYS" else "?"
        elif line == ".TP" and section != "?":
            yield section + following.removeprefix(".B ").replace("\\-", "-")


def test_the_page_is_what_the_keys_say() -> None:
    module = generator()
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), (
        "run: python contrib/man/generate.py"
    )


def test_keys_schema_and_page_are_the_same() -> None:
    kind = whole()
    assert isinstance(kind, mi.StructType)
    keys = sorted(struct_keys(kind))
    schema = profile_schema()
    assert sorted(schema_keys(schema["$defs"]["Profile"], schema["$defs"])) == keys
    assert sorted(page_keys((MAN / "qlaunch.toml.5").read_text(encoding="utf-8"))) == keys


def test_every_key_says_what_it_is_for() -> None:
    said = {
        f"{name}.{key}": value.get("description", "")
        for name, table in profile_schema()["$defs"].items()
        for key, value in table["properties"].items()
    }
    assert [key for key, text in said.items() if len(text) < 5 or text[-1] != "."] == []


def test_a_key_without_an_entry_is_seen() -> None:
    class More(msgspec.Struct):
        """A table with a key that no page tells of."""

        surprise: int = 0

    kind = mi.type_info(More)
    assert isinstance(kind, mi.StructType)
    page = (MAN / "qlaunch.toml.5").read_text(encoding="utf-8")
    assert not set(struct_keys(kind)) <= set(page_keys(page))


def test_the_pages_of_verbs_are_what_their_help_says() -> None:
    module = generator("generate_verbs")
    for name, text in module.pages().items():
        assert (MAN / name).read_text(encoding="utf-8") == text, (
            "run: python contrib/man/generate_verbs.py"
        )
    told = [verb for _, verbs in module.GROUPS.values() for verb in verbs]
    assert set(VERBS) <= set(told)
    assert len(told) == len(set(told))


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", sorted(MAN.glob("*.[15]")), ids=lambda path: path.name)
def test_the_page_is_good_roff(page: Path) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z", str(page)],
        capture_output=True, text=True, check=True,
    )
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", sorted(MAN.glob("*.[15]")), ids=lambda path: path.name)
def test_the_page_fits_80_columns(page: Path) -> None:
    """As `man` formats it for such a terminal: a column less than there are, and plain."""
    done = subprocess.run(
        ["groff", "-man", "-Kutf8", "-Tutf8", "-rLL=78n", "-P-cbou", str(page)],
        capture_output=True, text=True, check=True,
    )
    assert len(done.stdout.splitlines()) > 20
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_every_page_is_installed() -> None:
    import tomli

    settings = tomli.loads((MAN.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    places = settings["tool"]["setuptools"]["data-files"]
    for number in ("1", "5"):
        assert places[f"share/man/man{number}"] == [f"contrib/man/*.{number}"]
    assert {page.suffix for page in MAN.glob("qlaunch*.[0-9]")} == {".1", ".5"}
