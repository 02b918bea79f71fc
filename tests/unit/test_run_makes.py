"""Files that are made at the first start: what takes long says so, and what fails leaves none."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.errors import HostError
from qlaunch.plan.model import Plan, PlannedMake
from qlaunch.run import makes
from qlaunch.run.makes import make_files
from tests.fake.plans import planned


def plan_of(directory: Path, script: str) -> Plan:
    path = directory / "disk.img"
    make = PlannedMake(path=str(path), key="disk[0].create", what="an image of 64G",
                       argv=("/bin/sh", "-c", script, "sh", f"{path}.new"))
    return replace(planned(""), makes=(make,), account=None, state_dir=str(directory / "state"))


def test_a_preallocation_that_takes_long_is_told_while_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on until it has been told of twice."""
    monkeypatch.setattr(makes, "EVERY", 0.05)
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            (tmp_path / "enough").touch()

    wait = f'while [ ! -e "{tmp_path}/enough" ]; do sleep 0.01; done; echo made >"$1"'
    make_files(plan_of(tmp_path, wait), say)
    assert told[0] == f"making an image of 64G: {tmp_path}/disk.img"
    assert [text.rpartition(": ")[0] for text in told[1:3]] == ["still making an image of 64G"] * 2
    assert told[1].endswith(" s")
    assert (tmp_path / "disk.img").read_text() == "made\n"
    make_files(plan_of(tmp_path, "exit 1"), told.append)  # it is there: nothing is made
    assert "disk.img.new" not in {path.name for path in tmp_path.iterdir()}


def test_ctrl_c_ends_the_tool_and_half_a_file_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(makes, "EVERY", 0.05)

    def say(text: str) -> None:
        if text.startswith("still") and (tmp_path / "disk.img.new").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_files(plan_of(tmp_path, 'echo half >"$1"; exec sleep 600'), say)
    assert list(tmp_path.iterdir()) == []


def test_a_tool_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        make_files(plan_of(tmp_path, 'echo "no space" >&2; exit 1'), lambda _: None)
    (problem,) = caught.value.problems
    assert (problem.where, problem.found) == ("disk[0].create", "no space")
    assert list(tmp_path.iterdir()) == []
