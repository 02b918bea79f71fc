"""Desktop entries: what is written is what a reader of the specification makes of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qlaunch.desktop.entry import (
    ERAS,
    Shortcut,
    entry_text,
    escape_string,
    exec_line,
    file_name,
    read_entry,
)
from tests.fake.entries import arguments

# A path may hold all but NUL; a string of an entry no control characters but these.
WORDS = st.text(
    st.one_of(
        st.sampled_from(list("\"'\\`$% \t\n\r~;&|<>*?#()=-é日")),
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")),
    ),
    max_size=20,
)


@given(st.lists(WORDS, min_size=1, max_size=4))
@example(["/home/me/50% \"a\" $x `y` \\n.toml", "", "%f", "%%", "a\nb", "~/x", "ü"])
def test_arguments_come_back(words: list[str]) -> None:
    value = exec_line(tuple(words))
    assert "\n" not in value
    assert arguments(value) == words


@given(WORDS, WORDS)
@example(" both ends ", "\\s")
def test_entries_come_back(name: str, profile: str) -> None:
    text = entry_text(Shortcut(name, "linux", profile, ("/usr/bin/qlaunch",), "qemu", False))
    keys = read_entry(text)
    assert (keys["X-Qlaunch-Name"], keys["X-Qlaunch-Profile"]) == (name, profile)
    assert keys["Name"] == name
    main = text.partition("\n\n")[0]
    value = next(li for li in main.split("\n") if li.startswith("Exec=")).removeprefix("Exec=")
    assert arguments(value) == ["/usr/bin/qlaunch", "desktop", "start", profile]


@pytest.mark.parametrize("text", ["a\x01b", "\x7f", "caf\udce9.toml"])
def test_what_an_entry_cannot_hold(text: str) -> None:
    with pytest.raises(ValueError):
        escape_string(text)


def test_spaces_at_the_ends_are_kept_and_those_within_are_plain() -> None:
    assert escape_string(" a b ") == "\\sa b\\s"
    assert escape_string("   ") == "\\s\\s\\s"


def made(era: str = "windows7", path: str = "/home/me/win7.toml", *, devices: bool = True) -> str:
    return entry_text(Shortcut("win 7", era, path, ("/usr/bin/qlaunch",), "qemu-system-x86_64",
                               devices))


def test_the_actions() -> None:
    text = made(path="/a b/win 7.toml")
    blocks = {
        lines[0]: dict(li.split("=", 1) for li in lines[1:] if li)
        for lines in (block.split("\n") for block in text.split("\n\n")[1:])
    }
    said = {
        head: (keys["Name"], arguments(keys["Exec"])[2:]) for head, keys in blocks.items()
    }
    start = ["start", "/a b/win 7.toml"]
    assert said == {
        "[Desktop Action start]": ("Start", start),
        "[Desktop Action headless]": (
            "Start headless", [*start, "--set", "display.type=none"]),
        "[Desktop Action install]": ("Install mode", [*start, "--install"]),
        "[Desktop Action view]": ("View", ["view", "win 7"]),
        "[Desktop Action stop]": ("Stop", ["stop", "win 7"]),
        "[Desktop Action recover]": ("Give card back", ["recover", "win 7"]),
    }
    assert "Name=Clean up\n" in made(devices=False)
    keys = read_entry(text)
    assert keys["Icon"] == "qlaunch-windows7"
    assert keys["Categories"] == "System;Emulator;"
    assert keys["Comment"] == "Windows 7 in a virtual machine"
    assert (keys["Terminal"], keys["StartupWMClass"]) == ("false", "Qemu-system-x86_64")


@pytest.mark.skipif(not shutil.which("desktop-file-validate"), reason="needs desktop-file-utils")
@pytest.mark.parametrize("era", ERAS)
def test_the_validator_is_content(tmp_path: Path, era: str) -> None:
    file = tmp_path / file_name("win 7")
    file.write_text(made(era, "/home/me/50% \"a\"\t$x `y` \\n;é.toml", devices=era != "other"))
    done = subprocess.run(["desktop-file-validate", str(file)], capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    file.write_text(file.read_text().replace("Actions=start;", "Actions=begin;"))
    done = subprocess.run(["desktop-file-validate", str(file)], capture_output=True, text=True,
                          check=False)
    assert done.returncode != 0
