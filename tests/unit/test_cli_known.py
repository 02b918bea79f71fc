"""Which machine a name on the command line stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.cli.known import known_machine
from qlaunch.errors import QlaunchError
from qlaunch.run.info import Info, write_info


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("qlaunch.cli.known.machines_of_root", list)
    monkeypatch.chdir(tmp_path)
    started(tmp_path / "run", "tower", "/etc/qlaunch/win7.toml")
    started(tmp_path / "run", "attic", f"{tmp_path}/odd $x.toml")
    return tmp_path / "run"


def started(base: Path, name: str, profile: str) -> None:
    (base / name).mkdir(parents=True)
    write_info(Info(
        name=name, uuid="", profile=profile, started=0.0, launcher=1, stop_timeout=1.0,
        runtime_dir=str(base / name), socket_dir=str(base / name), state_dir=str(base),
    ))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tower", "tower"), ("tower.toml", "tower"), ("/elsewhere/tower.toml", "tower"),
        ("/etc/qlaunch/win7.toml", "tower"), ("/etc/qlaunch/../qlaunch/win7.toml", "tower"),
        ("win7", "tower"), ("odd $x", "attic"), ("odd $x.toml", "attic"),
    ],
)
def test_a_name_or_the_profile_it_was_started_from(base: Path, text: str, name: str) -> None:
    assert known_machine(str(base), text) == name


def test_a_machine_of_that_name_comes_first(base: Path) -> None:
    started(base, "win7", "/home/me/seven.toml")
    assert known_machine(str(base), "win7") == "win7"
    assert known_machine(str(base), "/etc/qlaunch/win7.toml") == "tower"


def test_two_profiles_of_one_file_name_are_nobodys(base: Path) -> None:
    started(base, "cellar", "/home/me/win7.toml")
    with pytest.raises(QlaunchError, match="no machine win7 runs"):
        known_machine(str(base), "win7")
    assert known_machine(str(base), "/home/me/win7.toml") == "cellar"
    with pytest.raises(QlaunchError, match="cannot be a machine's name"):
        known_machine(str(base), "no $y")
