"""The pictures of the README: they are there, they are what is shown today, and they are SVG."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

TOP = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
_SPEC = importlib.util.spec_from_file_location("pictures", TOP / "contrib/pictures/make.py")
assert _SPEC
assert _SPEC.loader
pictures = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pictures)


def rows_of(text: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(text).iter(f"{SVG}text"))  # noqa: S314 - our own


def shown(text: str) -> list[str]:
    return [row.text or "" for row in rows_of(text)]


def test_the_readmes_pictures_are_there() -> None:
    named = re.findall(r"!\[.+\]\((.+)\)", (TOP / "README.md").read_text(encoding="utf-8"))
    assert named
    for name in named:
        assert (TOP / name).stat().st_size > 1000
    assert {f"contrib/pictures/{one}.svg" for one in pictures.PICTURES} <= set(named)


def test_devices_is_what_devices_says() -> None:
    """contrib/pictures/make.py devices writes it anew."""
    kept = (TOP / "contrib/pictures/devices.svg").read_text(encoding="utf-8")
    assert pictures.devices() == kept
    assert max(len(line) for line in shown(kept)) <= 80


def test_top_shows_two_machines() -> None:
    lines = shown((TOP / "contrib/pictures/top.svg").read_text(encoding="utf-8"))
    assert lines[0] == "$ qlaunch top"
    assert {line.split()[0] for line in lines} >= {"MACHINE", "demo", "reader", "HOST", "DISK"}
    assert max(map(len, lines)) <= 80


def test_a_line_is_what_a_terminal_shows() -> None:
    text = pictures.svg(["$ <&>", "", "\x1b[1mHEAD\x1b[0m\x0f  "])
    assert shown(text) == ["$ <&>", "HEAD"]
    rows = rows_of(text)
    assert [row.get("font-weight") for row in rows] == [None, "bold"]
