"""Locks that the kernel frees, and the directories they lie in: with real processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qlaunch.errors import HostError, NotRestoredError
from qlaunch.run.locks import HOST_LOCK, HostLock, is_locked, make_directory, try_lock
from tests.fake.races import child, contest, end


def test_a_lock_has_one_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not is_locked(path)
    with child(lambda: try_lock(path)) as pid:
        assert is_locked(path)
        assert try_lock(path) is None
        end(pid)
        assert not is_locked(path)
    fd = try_lock(path)
    assert fd is not None
    assert not os.get_inheritable(fd)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.close(fd)


def test_never_two_winners(tmp_path: Path) -> None:
    assert contest(15, 6, lambda n: try_lock(str(tmp_path / f"{n}")) is not None) == [1] * 15


def test_never_two_winners_while_the_file_is_removed_by_its_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    inside = str(tmp_path / "inside")

    def work(number: int) -> bool:
        for _ in range(60):
            fd = try_lock(path)
            if fd is None:
                continue
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # a second one inside fails here
            Path(inside).unlink()
            Path(path).unlink()
            os.close(fd)
        return True

    assert contest(3, 5, work) == [5] * 3
    assert list(tmp_path.iterdir()) == []


def test_looking_at_a_lock_keeps_nobody_from_it(tmp_path: Path) -> None:
    """`qlaunch ps` in a loop beside `qlaunch run`."""
    path = str(tmp_path / "lock")
    program = (
        "from qlaunch.run.locks import is_locked\nprint(flush=True)\n"
        f"while True: is_locked({path!r})"
    )
    lookers = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for looker in lookers:
            assert looker.stdout is not None
            looker.stdout.readline()
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            fd = try_lock(path)
            assert fd is not None
            os.close(fd)
    finally:
        for looker in lookers:
            with looker:
                looker.kill()


def test_a_lock_that_was_removed_is_taken_at_its_new_place(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = try_lock(path)
    assert first is not None
    Path(path).unlink()
    second = try_lock(path)
    assert second is not None
    assert os.fstat(second).st_ino == Path(path).stat().st_ino
    os.close(first)
    os.close(second)


@pytest.mark.parametrize("kind", ["link", "missing", "directory"])
def test_a_lock_that_cannot_be_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    if kind == "link":
        (tmp_path / "target").touch()
        path.symlink_to("target")
    elif kind == "directory":
        path.mkdir()
    where = str(path / "x" if kind == "missing" else path)
    with pytest.raises(HostError) as caught:
        try_lock(where)
    (problem,) = caught.value.problems
    assert problem.message.startswith("the lock cannot be opened")
    assert (problem.where, bool(problem.hint)) == (where, True)
    assert not is_locked(where)


def test_the_host_lock_waits_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("qlaunch.run.locks.HOST_WAIT", 2.3)
    with child(lambda: try_lock(str(tmp_path / HOST_LOCK))) as pid:
        waits = HostLock(str(tmp_path), said.append)
        with pytest.raises(HostError, match="another qlaunch is still changing devices"), waits:
            pass
        assert said == ["waiting for another qlaunch that is changing devices"]
        end(pid)
    with HostLock(str(tmp_path), said.append):
        assert is_locked(str(tmp_path / HOST_LOCK))
    assert not is_locked(str(tmp_path / HOST_LOCK))


def test_who_undoes_waits_longer_and_says_that_nothing_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlaunch.run.locks.HOST_WAIT", 0.0)
    monkeypatch.setattr("qlaunch.run.locks.UNDO_WAIT", 0.2)
    with child(lambda: try_lock(str(tmp_path / HOST_LOCK))):
        waits = HostLock(str(tmp_path), lambda _: None, undoing=True)
        start = time.monotonic()
        with pytest.raises(NotRestoredError, match="nothing was put back"), waits:
            pass
        assert time.monotonic() - start > 0.2


# -- directories ------------------------------------------------------------------------------


def test_directories_have_exactly_their_mode(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c"
    make_directory(str(path), 0o700)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)] == [0o700, 0o700]
    path.chmod(0o777)
    make_directory(str(path), 0o711)
    assert stat.S_IMODE(path.stat().st_mode) == 0o711
    make_directory(str(tmp_path / "s/x"), 0o711)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o711


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_a_directory_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.mkdir()
    os.chown(path, 12345, 12345)
    with pytest.raises(HostError) as caught:
        make_directory(str(path))
    (problem,) = caught.value.problems
    assert (problem.message, problem.found) == (
        "the directory belongs to somebody else", "owner uid 12345",
    )
    make_directory(str(path), 0o700, (12345, 12345))
    make_directory(str(tmp_path / "new"), 0o700, (12345, 54321))
    assert (tmp_path / "new").stat().st_gid == 54321


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.touch()
    else:
        path.symlink_to(tmp_path)
    with pytest.raises(HostError) as caught:
        make_directory(str(path))
    (problem,) = caught.value.problems
    assert problem.message == "the directory cannot be made: Not a directory"
    assert problem.hint
