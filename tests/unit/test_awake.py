"""A guest with devices of the host keeps it from going to sleep; a refusal is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qlaunch.run import awake
from tests.fake.plans import AUDIO, device, host, planned
from tests.qemu.test_verbs import until

CARD = '[[pci]]\ndevice = "01:00.1"\n'


@pytest.mark.parametrize(("text", "kept"), [
    ("", False), (CARD, True), ('[stop]\non_host_sleep = "inhibit"', True),
    (CARD + '[stop]\non_host_sleep = "allow"', False),
])
def test_who_keeps_it_awake(text: str, kept: bool) -> None:
    plan = planned(text, host(device("01:00.1", cls=AUDIO, driver="snd_hda_intel")))
    assert ("awake" in [fd.kind for fd in plan.fds]) is kept


@pytest.fixture
def inhibit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemd-inhibit that notes its words, and then does `then`."""
    program = tmp_path / "systemd-inhibit"
    program.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" >"$0.said.new"; mv "$0.said.new" "$0.said"\n'
        '. "$0.then"\necho >"$0.ended"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(awake, "LOGIND", tmp_path)
    return program


def test_until_the_last_has_let_go(inhibit: Path) -> None:
    inhibit.with_suffix(".then").write_text("cat")
    writer = awake.keep_awake("win7")
    assert writer is not None
    qemus = os.dup(writer)
    said = inhibit.with_suffix(".said")
    until(said.exists, "it was not asked")
    assert said.read_text().splitlines() == [
        "--what=sleep", "--mode=block", "--who=qlaunch", "--why=the machine win7 runs",
        "cat",
    ]
    os.close(writer)
    assert awake.is_kept(qemus)
    assert not inhibit.with_suffix(".ended").exists()
    os.close(qemus)
    until(inhibit.with_suffix(".ended").exists, "it stays")


def test_a_refusal_is_seen(inhibit: Path) -> None:
    inhibit.with_suffix(".then").write_text("exit 1")
    writer = awake.keep_awake("win7")
    assert writer is not None
    until(lambda: not awake.is_kept(writer), "it is not seen")
    os.close(writer)


def test_without_logind_nobody_is_asked(inhibit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "LOGIND", inhibit)
    assert awake.keep_awake("win7") is None
    monkeypatch.setattr(awake, "LOGIND", inhibit.parent)
    inhibit.unlink()
    monkeypatch.setenv("PATH", str(inhibit.parent))
    assert awake.keep_awake("win7") is None
