"""The machine's logs: set aside when large, and never silently unwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qlaunch.run.story import KEPT, LARGE, LOG, Story, ended_how, log_size, open_log


def grow(path: Path, mark: bytes) -> None:
    with path.open("wb") as file:
        file.write(mark)
        file.truncate(LARGE + 1)


def test_a_large_log_is_set_aside_and_two_are_kept(tmp_path: Path) -> None:
    path = tmp_path / LOG
    for mark in (b"one", b"two", b"three"):
        grow(path, mark)
        fd = open_log(str(path))
        assert os.fstat(fd).st_size == 0
        os.write(fd, b"new")
        os.close(fd)
        assert path.read_bytes() == b"new"
    names = {p.name: p.read_bytes()[:5].strip(b"\0") for p in tmp_path.iterdir()}
    assert names == {LOG: b"new", f"{LOG}.1": b"three", f"{LOG}.2": b"two"}
    assert len(names) == KEPT + 1


def test_a_small_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / LOG
    path.write_bytes(b"before ")
    fd = open_log(str(path))
    os.write(fd, b"after")
    os.close(fd)
    assert path.read_bytes() == b"before after"


def test_one_that_cannot_be_set_aside_is_written_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / LOG
    grow(path, b"x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", refuse)
    fd = open_log(str(path))
    assert os.fstat(fd).st_size == LARGE + 1
    os.close(fd)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / LOG).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        open_log(str(tmp_path / LOG))
    assert not (tmp_path / "victim").exists()


def test_the_end_is_found_in_a_log_that_was_begun_anew(tmp_path: Path) -> None:
    grow(tmp_path / LOG, b"x")
    offset = log_size(str(tmp_path))
    told = Story(quiet=True)
    told.to_file(open_log(str(tmp_path / LOG)))
    told.say("vm: ended (the guest powered off), all given back")
    told.close()
    assert ended_how(str(tmp_path), "vm", offset).startswith("vm: ended (the guest powered off)")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_full_disk_is_told_once(capsys: pytest.CaptureFixture[str], *, quiet: bool) -> None:
    told = Story(quiet=quiet)
    told.note("early")
    told.to_file(os.open("/dev/full", os.O_WRONLY))
    told.say("one")
    told.say("two")
    told.close()
    assert capsys.readouterr().err.splitlines() == [
        "warning: the log cannot be written (No space left on device); "
        "what happens is told here only",
        *(() if quiet else ("one", "two")),
    ]
