"""What plan/removed.py says of options is what real QEMUs say."""

from __future__ import annotations

import re
import subprocess

import pytest

from qlaunch.plan.removed import OPTIONS

pytestmark = pytest.mark.qemu


def said(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def version(binary: str) -> tuple[int, int, int]:
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", said(binary, "--version"))
    assert match is not None
    return (int(match[1]), int(match[2]), int(match[3]))


def test_options_are_there_until_they_are_not(both_qemus: str) -> None:
    have = version(both_qemus)
    known = {
        option for option, gone in OPTIONS.items()
        if "invalid option" not in said(both_qemus, option, *["x"] * gone.argument, "-version")
    }
    assert known == {option for option, gone in OPTIONS.items() if have < gone.since}


@pytest.mark.parametrize("option", [o for o, gone in OPTIONS.items() if gone.instead])
def test_what_they_are_translated_to_is_accepted(both_qemus: str, option: str) -> None:
    instead = OPTIONS[option].instead
    assert instead is not None
    assert "invalid option" not in said(both_qemus, *instead, "-version")
    machine = ["-M", "q35,accel=tcg", "-nodefaults", "-display", "none", "-monitor", "stdio"]
    done = subprocess.run(
        [both_qemus, *machine, "-S", *instead], input="quit\n", capture_output=True, text=True,
        timeout=60, check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
