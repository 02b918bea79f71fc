"""`qlaunch desktop`: entries and icons are put where menus look, and only our own are touched."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qlaunch.cli import desktop
from qlaunch.cli.desktop import ICONS, entries
from qlaunch.desktop.entry import ERAS, read_entry
from tests.fake.typed import Type, typing

TOP = Path(__file__).parents[2]
MACHINE = 'guest = "{guest}"\n[[disk]]\nfile = "x.img"\n'


@pytest.fixture
def typed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Type:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    for name in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.delenv(name, raising=False)
    return typing(capfd)


def profile(path: Path, guest: str = "windows7") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MACHINE.format(guest=guest))
    return path


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def test_install_list_remove(typed: Type, tmp_path: Path) -> None:
    data = tmp_path / "data"
    path = profile(tmp_path / "my ü 50% $d/win7.toml")
    found = typed("desktop", "install", str(path.relative_to(tmp_path)), changes=True)
    assert (found.code, found.out) == (0, "")
    own = {"applications/qlaunch-win7.desktop",
           "icons/hicolor/scalable/apps/qlaunch-windows7.svg"}
    assert files(data) == own
    entry = data / "applications/qlaunch-win7.desktop"
    assert read_entry(entry.read_text())["X-Qlaunch-Profile"] == str(path)
    assert entry.stat().st_mode & 0o777 == 0o644
    before = entry.stat()
    assert typed("desktop", "install", str(path), changes=True).code == 0
    assert (entry.stat().st_ino, entry.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "win7  ok    " in typed("desktop", "list").out
    (listed,) = json.loads(typed("desktop", "list", "--json").out)
    assert (listed["name"], listed["profile"], listed["profile_found"]) == (
        "win7", str(path), True)
    assert typed("desktop", "remove", "win7", changes=True).code == 0
    assert files(data) == set()
    assert typed("desktop", "list").out == "no shortcuts\n"


def test_an_icon_stays_as_long_as_it_is_used(typed: Type, tmp_path: Path) -> None:
    for name in ("a", "b"):
        typed("desktop", "install", str(profile(tmp_path / f"{name}.toml")), changes=True)
    icon = tmp_path / "data/icons/hicolor/scalable/apps/qlaunch-windows7.svg"
    typed("desktop", "remove", "a", changes=True)
    assert icon.exists()
    typed("desktop", "remove", "b.toml", changes=True)
    assert not icon.exists()


def test_what_is_not_ours_is_left_alone(typed: Type, tmp_path: Path) -> None:
    path = profile(tmp_path / "win7.toml")
    theirs = tmp_path / "data/applications/qlaunch-win7.desktop"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("[Desktop Entry]\nName=mine\n")
    found = typed("desktop", "install", str(path))
    assert found.faults() == [f"error: {theirs}: there is a file that is not qlaunch's"]
    found = typed("desktop", "remove", "win7")
    assert (found.code, len(found.faults())) == (1, 1)
    assert theirs.read_text() == "[Desktop Entry]\nName=mine\n"
    assert entries(tmp_path / "data") == []


def test_two_profiles_of_one_name(typed: Type, tmp_path: Path) -> None:
    one, two = profile(tmp_path / "1/win7.toml"), profile(tmp_path / "2/win7.toml")
    assert typed("desktop", "install", str(one), changes=True).code == 0
    found = typed("desktop", "install", str(two))
    assert (found.code, len(found.faults())) == (1, 1)
    assert "hint: qlaunch desktop remove 'win7'" in found.err
    one.unlink()
    assert "win7  gone  " in typed("desktop", "list").out
    assert typed("desktop", "install", str(two), changes=True).code == 0
    assert [found.profile for found in entries(tmp_path / "data")] == [str(two)]


def test_a_path_that_no_entry_can_say(typed: Type, tmp_path: Path) -> None:
    for name in ("bad\x01", os.fsdecode(b"caf\xe9")):
        path = tmp_path / name / "win7.toml"
        profile(path)
        path.write_text('[[disk]]\nfile = "/x.img"\n')
        found = typed("desktop", "install", str(path))
        assert found.code == 1, found
        assert ": a desktop entry cannot say this path" in found.err
        assert files(tmp_path / "data") == set()


@pytest.mark.parametrize("words", [
    ("install",), ("remove",), ("start",), ("list", "x"), ("nothing", "x"), (),
])  # fmt: skip
def test_what_was_not_said(typed: Type, words: tuple[str, ...]) -> None:
    found = typed("desktop", *words)
    assert (found.code, found.out, len(found.faults())) == (2, "", 1)


def test_system_wide(typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desktop, "SYSTEM", tmp_path / "share")
    path = profile(tmp_path / "win7.toml", "linux")
    assert typed("desktop", "install", str(path), "--system", changes=True).code == 0
    assert files(tmp_path / "share") == {
        "applications/qlaunch-win7.desktop", "icons/hicolor/scalable/apps/qlaunch-linux.svg"}
    own = profile(tmp_path / "own/mine.toml")
    assert typed("desktop", "install", str(own), changes=True).code == 0
    assert [line.split()[:3] for line in typed("desktop", "list").out.splitlines()] == [
        ["NAME", "FILE", "FOR"], ["mine", "ok", "you"], ["win7", "ok", "all"]]
    assert [(one["name"], one["system"]) for one in json.loads(
        typed("desktop", "list", "--json").out)] == [("mine", False), ("win7", True)]
    assert "mine" not in typed("desktop", "list", "--system").out
    theirs = typed("desktop", "remove", "win7")
    assert theirs.code == 1
    assert f"{tmp_path / 'share'}: the shortcut for win7 is for all users\n" in theirs.err
    assert "hint: sudo " in theirs.err and "desktop remove 'win7' --system\n" in theirs.err
    assert files(tmp_path / "share") != set()
    assert typed("desktop", "remove", "win7", "--system", changes=True).code == 0
    assert files(tmp_path / "share") == set()
    monkeypatch.setattr(desktop, "SYSTEM", Path("/proc/none"))
    found = typed("desktop", "install", str(path), "--system", changes=True)
    assert (found.code, len(found.faults())) == (1, 1)
    assert "hint: namei -l /proc/none" in found.err
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = typed("desktop", "install", str(path), "--system", changes=True)
    assert "hint: --system is for root: sudo " in found.err


def test_a_users_profile_for_all_users(
    typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest's directories are its user's alone."""
    monkeypatch.setattr(desktop, "SYSTEM", tmp_path / "share")
    mine = profile(tmp_path / "win7.toml")
    found = typed("desktop", "install", str(mine), "--system", changes=True)
    assert (found.code, found.faults()) == (0, [])
    assert f"warning: {mine}: others have this shortcut, and cannot start it\n" in found.err
    if os.geteuid() == 0:
        with tempfile.TemporaryDirectory(prefix="qlaunch-desk-") as name:
            Path(name).chmod(0o755)
            theirs = profile(Path(name) / "linux.toml")
            found = typed("desktop", "install", str(theirs), "--system", changes=True)
        assert (found.code, "warning" in found.err) == (0, False), found


def test_behind_sudo_it_is_not_roots_menu(
    typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "1000")
    found = typed("desktop", "install", str(profile(tmp_path / "win7.toml")))
    assert (found.code, found.faults()) == (
        2, ["error: qlaunch desktop: root has no menus of yours"])


def test_an_icon_for_each_guest() -> None:
    from typing import get_args

    from qlaunch.profile.machine import GuestName

    known = set(get_args(GuestName))
    assert known <= set(ERAS)
    assert {path.stem for path in ICONS.glob("*.svg")} == set(ERAS)
    for path in ICONS.glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())  # noqa: S314 - ours
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("viewBox") == "0 0 64 64"
    assert len({path.read_text() for path in ICONS.glob("*.svg")}) == len(ERAS)


def test_the_policy_lets_nobody_off() -> None:
    text = (TOP / "contrib/polkit/org.qlaunch.policy").read_text()
    root = ElementTree.fromstring(text)  # noqa: S314 - ours
    (defaults,) = root.iter("defaults")
    assert {each.tag: each.text for each in defaults} == dict.fromkeys(
        ("allow_any", "allow_inactive", "allow_active"), "auth_admin")
    keys = {each.get("key", ""): each.text for each in root.iter("annotate")}
    assert keys["org.freedesktop.policykit.exec.path"] == "/usr/bin/qlaunch"
    assert re.search(r"<message>\S", text)
