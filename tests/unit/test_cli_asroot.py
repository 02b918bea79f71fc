"""The question that pkexec asks for an installed qlaunch, and what root makes of the answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qlaunch.cli import asroot
from qlaunch.cli.elevate import KEPT, root_command
from qlaunch.cli.main import main

WORDS = ["run", "my vm.toml", "--set", "a=b"]
SHIPPED = Path(__file__).parents[2] / "contrib/polkit/org.qlaunch.policy"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pkexec, the policy and a program are there."""
    program = tmp_path / "usr-bin-qlaunch"
    for path in (program, tmp_path / "policy", tmp_path / "bin/pkexec"):
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o755)
    monkeypatch.setattr(asroot, "PROGRAM", program)
    monkeypatch.setattr(asroot, "POLICY", tmp_path / "policy")
    monkeypatch.setattr(sys, "argv", [str(program), *WORDS])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PKEXEC_UID", raising=False)
    for name in KEPT:  # set first, so that they are as before afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return program


def test_the_policy_is_for_the_program_that_pkexec_starts(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"DISPLAY": ":0", "SECRET": "1"}
    assert root_command(False, env) == [
        "pkexec", str(installed), "--as-root", str(tmp_path), "DISPLAY=:0", "--", *WORDS]
    monkeypatch.undo()
    annotations = ElementTree.parse(SHIPPED).iter("annotate")  # noqa: S314 - ours
    assert str(asroot.PROGRAM) in {each.text for each in annotations}
    assert asroot.POLICY.name == SHIPPED.name


def test_another_qlaunch_or_no_policy_is_asked_for_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "link"
    theirs.symlink_to(asroot.PROGRAM)
    monkeypatch.setattr(sys, "argv", [str(theirs), *WORDS])
    assert (root_command(False, {"DISPLAY": ":0"}) or [])[:2] == ["pkexec", "env"]
    monkeypatch.setattr(sys, "argv", [str(asroot.PROGRAM), *WORDS])
    asroot.POLICY.unlink()
    assert (root_command(False, {"DISPLAY": ":0"}) or [])[:2] == ["pkexec", "env"]


def test_root_goes_on_where_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PKEXEC_UID", "1000")
    there = tmp_path / "a b"
    there.mkdir()
    monkeypatch.setenv("LD_PRELOAD", "")
    words = [str(there), "DISPLAY=:7", "LD_PRELOAD=/x", "--", "run", "a", "--", "b"]
    assert asroot.enter(words, KEPT) == ["run", "a", "--", "b"]
    assert (Path.cwd(), os.environ["DISPLAY"], os.environ["LD_PRELOAD"]) == (there, ":7", "")
    assert sys.argv[1:] == ["run", "a", "--", "b"]
    assert main(["--as-root", str(there), "--", "--version"]) == 0
    assert main(["--as-root", str(tmp_path / "none"), "--", "--version"]) == 1


def test_nobody_else_comes_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["--as-root", str(tmp_path), "--", "--version"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(words) == 2  # root, but not by pkexec
    monkeypatch.setenv("PKEXEC_UID", "1000")
    assert main(words) == 0
    assert main(["--as-root"]) == 2
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(words) == 2
