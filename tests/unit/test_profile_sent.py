"""A profile that was sent reads there as it reads here, with the paths of that machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.errors import ProfileError
from qlaunch.profile.read import Loaded, pack_profile, read_profile


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "here"
    (directory / "cards").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    monkeypatch.chdir(directory)
    return directory


def there(tmp_path: Path, raw: bytes, monkeypatch: pytest.MonkeyPatch, *sets: str) -> Loaded:
    remote = tmp_path / "there"
    (remote / "sub").mkdir(parents=True, exist_ok=True)
    (remote / "tmp").mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(remote))
    monkeypatch.chdir(remote / "sub")
    path = remote / "tmp" / "my vm.sent"
    path.write_bytes(raw)
    return read_profile(path, sets, root_user=False)


def test_paths_are_those_of_the_other_machine(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "cards/rom.toml").write_text('[[pci]]\ndevice = "01:00.0"\nrom = "card.rom"\n')
    (tmp_path / "my home").mkdir()
    (tmp_path / "my home/base.toml").write_text('[machine]\nmemory = "3G"\n[[disk]]\n'
                                               'file = "base.img"\nformat = "raw"\n')
    (here / "my vm.toml").write_text(
        'name = "vm"\nextends = ["~/base.toml", "cards/rom.toml"]\n'
        '[[disk]]\nfile = "a.img"\nformat = "raw"\n[[disk]]\nfile = "~/b.img"\nformat = "raw"\n'
    )
    raw = pack_profile(Path("my vm.toml"))
    loaded = there(tmp_path, raw, monkeypatch, "disk[2].file=c.img")
    remote, profile = tmp_path / "there", loaded.profile
    assert [disk.file for disk in profile.disk] == [
        str(remote / "base.img"), str(remote / "sub/a.img"), str(remote / "sub/c.img"),
    ]
    assert profile.pci[0].rom == str(remote / "sub/cards/card.rom")
    assert int(profile.machine.memory) == 3 << 30
    assert loaded.origin("disk[1].file") == "my vm.toml:4"
    assert loaded.origin("machine.memory") == "base.toml:2"
    assert loaded.origin("disk[2].file") == "--set"


def test_the_machine_is_named_after_the_profile(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "win7.toml").write_text('[[disk]]\nfile = "a.img"\nformat = "raw"\n')
    assert there(tmp_path, pack_profile(Path("win7.toml")), monkeypatch).profile.name == "win7"


def test_the_same_name_in_two_directories(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "base.toml").write_text('extends = "cards/base.toml"\n[cpu]\ncores = 3\n')
    (here / "cards/base.toml").write_text('[cpu]\ncores = 2\nthreads = 2\n')
    (here / "vm.toml").write_text('extends = ["base.toml", "./cards/base.toml"]\n'
                                 '[[disk]]\nfile = "a.img"\nformat = "raw"\n')
    raw = pack_profile(Path("vm.toml"))
    cpu = read_profile(here / "vm.toml", root_user=False).profile.cpu
    assert there(tmp_path, raw, monkeypatch).profile.cpu == cpu
    assert (cpu.cores, cpu.threads) == (3, 2)


def test_what_cannot_be_sent_is_told_here(here: Path) -> None:
    (here / "vm.toml").write_text('extends = ["missing.toml", "broken.toml"]\n')
    (here / "broken.toml").write_text("[[\n")
    with pytest.raises(ProfileError) as caught:
        pack_profile(Path("vm.toml"))
    told = "\n".join(map(str, caught.value.problems))
    assert "vm.toml:1: extends: there is no such file" in told
    assert "broken.toml:1" in told


def test_faults_are_told_with_their_lines(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "vm.toml").write_text("\n[cpu]\ncoers = 3\n")
    with pytest.raises(ProfileError, match=r"vm\.toml:3: cpu\.coers"):
        there(tmp_path, pack_profile(Path("vm.toml")), monkeypatch)


@pytest.mark.parametrize("raw", [
    b"", b"{}", b'{"files": []}', b'{"files": [{"name": "a", "text": "", "bases": {"b": 7}}]}',
    b'{"files": [{"name": "..", "text": ""}], "version": 2}',
    b'{"files": [{"name": "", "text": ""}]}', b'\xff',
])
def test_what_is_no_such_file(
    raw: bytes, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProfileError):
        there(tmp_path, raw, monkeypatch)


def test_a_base_that_was_not_sent(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = b'{"files": [{"name": "vm.toml", "text": "extends = \\"x.toml\\""}]}'
    with pytest.raises(ProfileError, match="this base was not sent"):
        there(tmp_path, raw, monkeypatch)
