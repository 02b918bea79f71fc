"""What the README shows can be typed: its profile, its verbs, its files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qlaunch.cli.main import VERBS
from qlaunch.cli.main import main as qlaunch
from qlaunch.profile.schema import profile_schema

TOP = Path(__file__).parents[2]
TEXT = (TOP / "README.md").read_text(encoding="utf-8")


def test_the_first_profile_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"```toml\n# (\w+\.toml)\n(.*?)```", TEXT, re.DOTALL)
    assert found
    assert len([line for line in found[2].splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    Path(found[1]).write_text(found[2], encoding="utf-8")
    assert qlaunch(["check", found[1], "--facts", str(TOP / "tests/data/facts/tower.json")]) == 0
    told = capsys.readouterr()
    assert "can run here: 0 fault(s)" in told.out
    assert "warning:" not in told.err


def test_verbs_and_files_are_there() -> None:
    for verb in re.findall(r"(?:^    |`)qlaunch ([a-z]+)\b", TEXT, re.MULTILINE):
        assert verb in VERBS
    table = TEXT.partition("| verb | does |")[2].partition("\n\n")[0]
    told = set(re.findall(r"[a-z]+", " ".join(re.findall(r"`([^`]*)`", table))))
    assert told >= set(VERBS)
    for name in re.findall(r"`\.?/?((?:contrib|profiles|tests)/[^\s`]+)", TEXT):
        assert (TOP / name).exists(), name


def test_keys_are_there() -> None:
    """What is said to stand in a table does."""
    definitions = profile_schema()["$defs"]
    top = definitions["Profile"]["properties"]
    said = re.findall(
        r"`(\w+)(?: = [^`]+)?`(?:(?: or |, or [^`|]*)`(\w+)`)? in `\[+(\w+)\]+`", TEXT)
    assert len(said) >= 7
    for one, other, table in said:
        known = re.findall(r"#/\$defs/(\w+)", str(top[table]))
        for key in filter(None, (one, other)):
            assert any(key in definitions[name]["properties"] for name in known), (table, key)


def test_the_tables_have_as_many_cells_as_heads() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_what_is_quoted_is_said() -> None:
    """Of the symptoms: the words between … are the program's."""
    table = TEXT.partition("| you see | look at |")[2].partition("\n\n")[0]
    source = "".join(
        " ".join(path.read_text(encoding="utf-8").replace('"\n', "").replace('f"', '"').split())
        for path in (TOP / "qlaunch").rglob("*.py")
    )
    quoted = [one for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
              for one in re.findall(r"`([^`]+)`", row) if " " in one]
    assert len(quoted) >= 4
    for text in quoted:
        for words in re.split(r"…|NAME|\(pid N\)|\bN\b|KVM", text):
            assert words.strip() in source, words
