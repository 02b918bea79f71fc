"""What is shown is what is: severities for machines, names in hints that a shell takes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import pytest

from qlaunch.cli import byhand, plan
from qlaunch.cli.devices import _kind
from qlaunch.errors import HostError
from qlaunch.run.claims import Owner, drop_claims, take_claims
from qlaunch.run.journal import Header, create_journal

TOP = Path(__file__).parents[2]


def test_plan_for_machines_keeps_errors_errors(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = argparse.Namespace(
        profile=str(TOP / "profiles/win7.toml"), overrides=[], diff=None, json=True,
        facts=str(TOP / "tests/data/facts/plain.json"),
    )
    assert plan.run(arguments) == 0
    problems = json.loads(capsys.readouterr().out)["problems"]
    missing = [p for p in problems if "no such PCI device" in p["message"]]
    assert missing
    assert {p["severity"] for p in missing} == {"error"}
    assert all(p["where"].startswith("win7.toml:") or "win7.toml" in p["where"] for p in missing)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(0xFFFF, "other"), (0xFF00, "other"), (0x00FF, "other"), (0x0300, "VGA"), (0x1200, "1200")],
)
def test_kinds_of_devices(code: int, kind: str) -> None:
    assert _kind(code) == kind


def test_a_claims_owner_is_quoted(tmp_path: Path) -> None:
    claims = take_claims(str(tmp_path), Owner("my vm", 1, time.time()), ["0000:01:00.0"])
    try:
        with pytest.raises(HostError) as caught:
            take_claims(str(tmp_path), Owner("other"), ["0000:01:00.0"])
    finally:
        drop_claims(claims)
    assert caught.value.problems[0].hint == "qlaunch stop 'my vm'"


def test_a_journals_machine_is_quoted(tmp_path: Path) -> None:
    header = Header(boot_id="boot", pid=1, start_time=1, name="my vm")
    create_journal(tmp_path, header).close()
    with pytest.raises(HostError) as caught:
        create_journal(tmp_path, header)
    assert caught.value.problems[0].hint == "qlaunch recover 'my vm'"


def test_what_to_type_as_root_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["qlaunch", "bind", "a b"])
    monkeypatch.setattr("qlaunch.cli.elevate.root_command", lambda *_: None)
    with pytest.raises(HostError, match="qlaunch bind 'a b'"):
        byhand.need_root("bind")


def test_what_is_planned_fits_80_columns() -> None:
    option = "  -blockdev driver=qcow2,node-name=drive0,file.driver=file,"
    option += "file.filename=/srv/a,,b.qcow2"
    assert plan.folded(option, 6) == [
        "  -blockdev driver=qcow2,node-name=drive0,file.driver=file,",
        "      file.filename=/srv/a,,b.qcow2",
    ]
    step = f"  7  {'add a table ' * 8}".rstrip()
    assert [len(line) <= 80 for line in plan.folded(step, 5)] == [True, True]
    assert " ".join(line.strip() for line in plan.folded(step, 5)) == step.strip()
    word = "/srv/" + 90 * "x"  # stays whole, to be copied
    assert plan.folded(f"  {word}: UEFI", 4) == [f"  {word}:", "    UEFI"]
    assert plan.folded("short", 4) == ["short"]
