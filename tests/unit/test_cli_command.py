"""Our commands in hints: what sudo finds, and what is typed at another machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qlaunch.cli import command
from qlaunch.cli.command import typed
from qlaunch.cli.main import tell
from qlaunch.errors import Problem


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A qlaunch in a virtual environment; none where sudo looks."""
    for name in ("QLAUNCH_ON", "QLAUNCH_VIA"):
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "my venv/bin"
    place.mkdir(parents=True)
    (place / "qlaunch").touch(mode=0o755)
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(command, "SECURE", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "argv", [str(place / "qlaunch"), "ps"])
    return place / "qlaunch"


def test_sudo_is_told_where_qlaunch_is(program: Path, tmp_path: Path) -> None:
    assert typed("qlaunch ps; root's machines: sudo qlaunch ps") == (
        f"qlaunch ps; root's machines: sudo '{program}' ps")
    assert typed("this needs root: sudo qlaunch …") == f"this needs root: sudo '{program}' …"
    assert typed("as root: qlaunch bind 03:00.0") == f"as root: '{program}' bind 03:00.0"
    (tmp_path / "bin/qlaunch").touch(mode=0o755)  # another one
    assert typed("sudo qlaunch top") == f"sudo '{program}' top"
    (tmp_path / "bin/qlaunch").unlink()
    (tmp_path / "bin/qlaunch").hardlink_to(program)
    assert typed("sudo qlaunch top") == "sudo qlaunch top"


def test_started_as_a_module(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/qlaunch/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    assert typed("sudo qlaunch ps") == f"sudo '{program}' ps"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert typed("sudo qlaunch ps") == f"sudo {tmp_path}/python3 -m qlaunch ps"


def test_for_who_sits_at_another_machine(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hint that is typed here would look for the machine here."""
    monkeypatch.setenv("QLAUNCH_ON", "/tmp/qlaunch-x1")
    monkeypatch.setenv("QLAUNCH_VIA", "-p 22 --remote-command '~/q l' anna@rack7")
    there = "qlaunch on -p 22 --remote-command '~/q l' anna@rack7"
    tell([Problem("no", hint="qlaunch logs 'my vm' may tell more; qlaunch status NAME")])
    assert capsys.readouterr().err == (
        f"error: no\nhint: {there} logs 'my vm' may tell more; {there} status NAME\n")
    assert typed("at a terminal: qlaunch run /tmp/qlaunch-x1/win7.sent") == (
        f"at a terminal: {there} run win7.toml")
    assert typed("/tmp/qlaunch-x1/win7.sent/0/a win7.toml") == "a win7.toml"
    assert typed("sudo qlaunch doctor") == f"ssh -t -p 22 anna@rack7 sudo '{program}' doctor"
    for alone in ("qlaunch on rack8 ps", "qlaunch desktop list", "qlaunch --help lists them",
                  "qlaunch.toml(5)", "the qlaunch there", "sudo dmesg | tail"):
        assert typed(alone) == alone


def test_not_over_ssh_it_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLAUNCH_ON", "/tmp/qlaunch-x1")
    assert typed("qlaunch logs vm; qlaunch run x.sent") == "qlaunch logs vm; qlaunch run x.sent"
