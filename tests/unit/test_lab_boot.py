"""When a lab host is booted a second time: only if its emulator was gone in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.boot import TIMED_OUT, Outcome, has_crashed

MIDDLE = "[ 9.1] virtme-ng-init: starting script\ntests/lab/inside/test_run.py ..."


@pytest.mark.parametrize(
    ("log", "code", "written", "crashed"),
    [
        (MIDDLE, 1, False, True),
        (MIDDLE, 1, True, False),
        (MIDDLE, TIMED_OUT, False, False),
        (f"{MIDDLE}\n[ 99.0] Kernel panic - not syncing: Fatal exception", 1, False, False),
        (f"{MIDDLE}\n[ 99.0] reboot: Power down", 1, False, False),
        ("qemu-system-x86_64: -device nonsense: not a valid device", 1, False, False),
    ],
    ids=["gone", "ended", "timed out", "panic", "powered off", "never booted"],
)
def test_it_has_crashed(tmp_path: Path, log: str, code: int, written: bool, crashed: bool) -> None:
    path = tmp_path / "console.log"
    path.write_text(log)
    if written:
        (tmp_path / "exit").write_text("1")
    assert has_crashed(Outcome(code, path, tmp_path / "junit.xml")) is crashed
