"""The journal: durable before the change, and read whatever has become of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qlaunch.codec import to_json
from qlaunch.errors import HostError
from qlaunch.host.handler import Host
from qlaunch.plan.steps import MakeBridge, TakeDevice
from qlaunch.run import journal as journals
from qlaunch.run.journal import (
    Applied,
    Contents,
    End,
    Failed,
    Header,
    Intent,
    Journal,
    Record,
    Stage,
    Stuck,
    Undoing,
    Undone,
    create_journal,
    make_header,
    open_journal,
    read_boot_id,
    read_journal,
)
from qlaunch.values import PciAddress, PciId

HEADER = Header(boot_id="b", pid=1, start_time=2, name="win7", profile="/p/win7.toml")
STEP = TakeDevice(address=PciAddress("0000:01:00.0"), id=PciId("1234:1111"), why="pci[0]")
RECORDS: list[Record] = [
    Stage(stage="steps"),
    Intent(k=0, step=STEP, captured={"driver": "bochs", "override": None}),
    Applied(k=0, captured={"driver": "bochs", "override": None}),
    Intent(k=1, step=MakeBridge(name="brühl"), captured={"existed": False}),
    Stuck(k=1, error="hangs\nfor ever"),
    Failed(k=1, error="no"),
    Undoing(k=0),
    Undone(k=0, sentence="0000:01:00.0 is back on bochs"),
    End(restored=False),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = create_journal(tmp_path, HEADER)
    for record in RECORDS:
        journal.write(record)
    journal.close()
    return journal.path


def test_what_was_written_is_read(path: Path) -> None:
    assert read_journal(path) == Contents(HEADER, tuple(RECORDS), ())
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_earlier_journal_is_not_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(HostError, match="recover 'win7'"):
        create_journal(path.parent, HEADER)
    assert path.read_bytes() == before


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / "journal").symlink_to(target)
    with pytest.raises(HostError):
        create_journal(tmp_path, HEADER)
    assert not target.exists()
    target.write_bytes(to_json(HEADER))
    with pytest.raises(HostError, match="cannot be opened"):
        read_journal(tmp_path / "journal")


def test_a_missing_or_unwritable_directory(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be written"):
        create_journal(tmp_path / "none", HEADER)


def test_a_journal_others_may_write_is_refused(path: Path) -> None:
    path.chmod(0o620)
    with pytest.raises(HostError, match="somebody else"):
        read_journal(path)
    with pytest.raises(HostError, match="somebody else"):
        open_journal(path)


def test_every_record_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal = open_journal(path)
    for count, record in enumerate(RECORDS, 1):
        journal.write(record)
        assert len(synced) == count
    journal.close()


def test_the_directory_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[bool] = []

    def fsync(fd: int) -> None:
        kinds.append(Path(f"/proc/self/fd/{fd}").is_dir())

    monkeypatch.setattr(os, "fsync", fsync)
    create_journal(tmp_path, HEADER).close()
    assert kinds == [False, True]


def test_cut_at_every_byte(path: Path) -> None:
    """Whole lines before the cut are read; the rest of one is named."""
    whole = path.read_bytes()
    lines = [to_json(r) for r in (HEADER, *RECORDS)]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        contents = read_journal(path)
        complete, start = 0, 0
        for line in lines:
            complete += start + len(line) <= cut
            start += len(line) + 1
        read = ([contents.header] if contents.header else []) + list(contents.records)
        assert [to_json(r) for r in read] == lines[:complete]
        torn = cut > sum(len(line) + 1 for line in lines[:complete])
        assert contents.unreadable == ((complete + 1,) if torn else ())


def test_a_torn_line_does_not_swallow_the_next(path: Path) -> None:
    """Nor does it stay as a line in the middle, which would be one that nobody understands."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert read_journal(path).unreadable == (10,)
    assert read_journal(path).lost == ()
    journal = open_journal(path)
    journal.write(Undone(k=7))
    journal.close()
    contents = read_journal(path)
    assert contents.unreadable == ()
    assert contents.records == (*RECORDS[:-1], Undone(k=7))


JUNK = [b"\xff\xfe\x00", b"{}", b"[1]", b'{"record":"later"}', b"[" * 9999]


@pytest.mark.parametrize("junk", JUNK, ids=range(5))
@pytest.mark.parametrize("line", range(10))
def test_a_garbled_line_is_named_and_the_rest_read(path: Path, line: int, junk: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[line] = junk
    path.write_bytes(b"\n".join(lines))
    contents = read_journal(path)
    assert contents.unreadable == (line + 1,)
    assert contents.lost[0].startswith(f"line {line + 1}: ")
    assert contents.lost[0].isascii() or contents.lost[0].endswith("…")
    assert contents.lost[0].isprintable()
    assert (contents.header is None) == (line == 0)
    assert len(contents.records) == 9 - (line > 0)


@pytest.mark.parametrize("orphan", [Applied(k=3, captured={}), Undoing(k=3), Undone(k=3)])
def test_a_record_without_its_beginning_is_told(path: Path, orphan: Record) -> None:
    assert read_journal(path).lost == ()
    journal = open_journal(path)
    journal.write(orphan)
    assert [text.partition(":")[0] for text in read_journal(path).lost] == [
        "line 11 has no beginning"]
    journal.close()


def test_an_intent_that_did_not_fit_is_nothing_lost(path: Path) -> None:
    journal = open_journal(path)
    for record in (Failed(k=3, error="No space left on device"), Undoing(k=3), Undone(k=3)):
        journal.write(record)
    journal.close()
    assert read_journal(path).lost == ()


def test_a_full_disk_leaves_the_next_line_readable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, real = open_journal(path), os.write
    calls: list[int] = []

    def write(fd: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(fd, bytes(data)[:5])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        journal.write(Undone(k=0))
    monkeypatch.setattr(os, "write", real)
    journal.write(Undone(k=1))
    journal.close()
    contents = read_journal(path)
    assert contents.unreadable == ()
    assert contents.records == (*RECORDS, Undone(k=1))


def test_a_piece_that_another_has_written_behind_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, other, real = open_journal(path), open_journal(path), os.write

    def write(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", full)
        return real(fd, bytes(data)[:5])

    def full(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", real)
        other.write(Undone(k=1))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        journal.write(Undone(k=0))
    assert to_json(Undone(k=1)) in path.read_bytes()
    assert read_journal(path).lost
    journal.close()
    other.close()


def test_no_journal_is_left_when_its_header_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(journal: Journal, record: Record) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "write", write)
    with pytest.raises(HostError, match="No space"):
        create_journal(tmp_path, HEADER)
    assert list(tmp_path.iterdir()) == []


def test_another_boots_journal_is_stale(path: Path) -> None:
    contents = read_journal(path)
    assert contents.is_stale("c")
    assert not contents.is_stale("b")


def test_a_header_of_this_process() -> None:
    header = make_header(Host(), "win7")
    assert header.boot_id == read_boot_id(Host()) != ""
    assert journals.read_start_time(Host(), header.pid) == header.start_time


def test_a_command_name_with_brackets(tmp_path: Path) -> None:
    stat = tmp_path / "proc/7/stat"
    stat.parent.mkdir(parents=True)
    stat.write_text("7 (a) b) S " + " ".join(str(n) for n in range(4, 40)))
    assert journals.read_start_time(Host(root=tmp_path), 7) == 22
