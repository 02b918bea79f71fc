"""Setups on trees: done, done again, reverted, interrupted at every effect, edited in between."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlaunch.children import Done
from qlaunch.errors import HostError, NotRestoredError
from qlaunch.setup.apply import Door, carry_out
from qlaunch.setup.make import make_revert, make_setup
from qlaunch.setup.model import RECORD_PATH, Pages, Setup, Wishes
from qlaunch.setup.read import read_record, read_setup
from qlaunch.values import PciAddress, Size
from tests.fake.distros import DISTROS, MORE, make_root, snapshot

ALL = Wishes(
    early=(PciAddress("0000:01:00.0"), PciAddress("0000:01:00.1")), user="anna",
    hugepages=(Pages(size=Size(2 << 20), count=4096), Pages(size=Size(1 << 30), count=8)),
)
ROOTS = [*DISTROS, *MORE]
SOME = ["debian", "fedora", "arch-grub", "kernel-install"]


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand small files need not reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Recorder(Door):
    """Runs nothing, remembers what it was to run, and fails or dies at the chosen effect."""

    def __init__(self, fail_at: int = 0, fault: BaseException | None = None) -> None:
        self.left = fail_at
        self.fault = fault or OSError(errno.ENOSPC, "No space left on device")
        self.ran: list[tuple[str, ...]] = []

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.fault

    def write(self, path: str, data: bytes) -> None:
        self._count()
        super().write(path, data)

    def remove(self, path: str) -> None:
        self._count()
        super().remove(path)

    def make_directory(self, path: str) -> None:
        self._count()
        super().make_directory(path)

    def run(self, argv: Sequence[str]) -> Done:
        self.ran.append(tuple(argv))
        self.left -= 1
        return Done(1, "", "it is broken") if self.left == 0 else Done(0, "done\n", "")


def planned(root: Path, wishes: Wishes) -> Setup:
    record = read_record(root)
    setup = make_setup(read_setup(root, wishes, record), wishes, record)
    assert [p for p in setup.problems if p.severity == "error"] == []
    return setup


def set_up(root: Path, wishes: Wishes, door: Door | None = None, *, run: bool = False) -> Setup:
    setup = planned(root, wishes)
    carry_out(root, setup, read_record(root), lambda _: None, door=door, commands=run)
    return setup


def revert(root: Path, door: Door | None = None, *, run: bool = False) -> Setup:
    record = read_record(root)
    assert record is not None
    setup = make_revert(read_setup(root, record.wishes, record), record)
    carry_out(root, setup, record, lambda _: None, door=door, commands=run)
    return setup


@pytest.mark.parametrize("wishes", [Wishes(), ALL], ids=["plain", "all"])
@pytest.mark.parametrize("name", ROOTS)
def test_revert_leaves_the_tree_as_it_was(name: str, wishes: Wishes, tmp_path: Path) -> None:
    make_root(name, tmp_path)
    before = snapshot(tmp_path)
    first = set_up(tmp_path, wishes)
    assert first.changes
    assert snapshot(tmp_path) != before
    revert(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ROOTS)
def test_a_second_setup_changes_nothing(name: str, tmp_path: Path) -> None:
    make_root(name, tmp_path)
    set_up(tmp_path, ALL)
    again = planned(tmp_path, ALL)
    assert again.changes == ()
    assert again.record == read_record(tmp_path)
    by_hand = name in ("fedora", "pop")  # what grubby and kernelstub keep was not told to them
    assert [c.argv[0] for c in again.commands] == ([first_of(name)] if by_hand else [])


@pytest.mark.parametrize("blind", ["rpm-ostree", "grubby"])
def test_parameters_that_no_file_tells_of_go_by_the_record(blind: str, tmp_path: Path) -> None:
    tree = make_root("fedora", tmp_path)
    if blind == "rpm-ostree":
        tree.write("usr/bin/rpm-ostree")
        tree.write("run/ostree-booted")
    set_up(tmp_path, Wishes())
    record = read_record(tmp_path)
    assert record is not None
    facts = read_setup(tmp_path, Wishes(), record)
    if blind == "grubby":
        files = {path: text for path, text in facts.files.items() if "entries" not in path}
        facts = msgspec.structs.replace(facts, files=files, denied=("/boot/loader/entries",))
    assert make_setup(facts, Wishes(), record).idle
    again = make_setup(facts, Wishes(), msgspec.structs.replace(record, done=False))
    assert again.commands[0].argv[0] == blind
    (gone,) = make_revert(facts, record).commands
    assert any("iommu=pt" in word and word.startswith(("--remove", "--delete"))
               for word in gone.argv)


def first_of(name: str) -> str:
    return {"fedora": "grubby", "pop": "kernelstub"}[name]


@pytest.mark.parametrize("name", ROOTS)
def test_other_wishes_replace_the_first(name: str, tmp_path: Path) -> None:
    make_root(name, tmp_path / "a")
    make_root(name, tmp_path / "b")
    before = snapshot(tmp_path / "a")
    set_up(tmp_path / "a", ALL)
    set_up(tmp_path / "a", Wishes())
    set_up(tmp_path / "b", Wishes())
    files = [{path: one for path, one in snapshot(tmp_path / side).items()
              if one[1] and path != RECORD_PATH[1:]} for side in ("a", "b")]
    assert files[0] == files[1]
    revert(tmp_path / "a")
    assert snapshot(tmp_path / "a") == before


@pytest.mark.parametrize("name", SOME)
def test_a_fault_at_any_effect_leaves_the_tree_as_it_was(name: str, tmp_path: Path) -> None:
    make_root(name, tmp_path)
    before = snapshot(tmp_path)
    at = 0
    while True:
        at += 1
        door = Recorder(at)
        try:
            set_up(tmp_path, ALL, door, run=True)
        except HostError as error:
            assert not isinstance(error, NotRestoredError)
            assert snapshot(tmp_path) == before, at
            assert "put back" in str(error)
            continue
        break
    assert at > 8
    done = snapshot(tmp_path)
    for later in range(1, 100):
        door = Recorder(later)
        try:
            revert(tmp_path, door, run=True)
        except HostError as error:
            assert not isinstance(error, NotRestoredError)
            assert snapshot(tmp_path) == done, later
            continue
        break
    assert snapshot(tmp_path) == before


class Killed(BaseException):
    """Nobody is there to put anything back."""


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("then", ["revert", "setup"])
def test_killed_at_any_effect_it_can_be_taken_back(
    name: str, then: str, tmp_path: Path
) -> None:
    make_root(name, tmp_path)
    before = snapshot(tmp_path)
    for at in range(1, 100):
        try:
            set_up(tmp_path, ALL, Recorder(at, Killed()))
        except Killed:
            if read_record(tmp_path) is not None:
                if then == "setup":
                    assert planned(tmp_path, ALL).commands
                    set_up(tmp_path, ALL)
                revert(tmp_path)
            else:  # nothing but an empty directory was made
                shutil.rmtree(tmp_path / "var/lib/qlaunch", ignore_errors=True)
            assert snapshot(tmp_path) == before, at
            continue
        break
    assert at > 4


def test_commands_run_again_after_a_failed_one(tmp_path: Path) -> None:
    make_root("fedora", tmp_path)
    class Broken(Recorder):
        def run(self, argv: Sequence[str]) -> Done:
            self.ran.append(tuple(argv))
            return Done(1 if argv[0] == "dracut" and len(self.ran) == 2 else 0, "", "no room")

    door = Broken()
    with pytest.raises(HostError, match="dracut --force --regenerate-all failed with exit code 1"):
        set_up(tmp_path, ALL, door, run=True)
    assert [argv[0] for argv in door.ran] == ["grubby", "dracut", "dracut", "grubby"]
    assert "--remove-args=intel_iommu=on iommu=pt hugepagesz=1G hugepages=8" in door.ran[3]


def test_what_cannot_be_put_back_is_told(tmp_path: Path) -> None:
    make_root("debian", tmp_path)

    class Dying(Recorder):
        def remove(self, path: str) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(NotRestoredError, match="this file could not be put back"):
        set_up(tmp_path, ALL, Dying(8))


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_mode_and_owner_stay(mode: int, tmp_path: Path) -> None:
    make_root("arch-grub", tmp_path)
    file = tmp_path / "etc/default/grub"
    file.chmod(mode)
    if os.geteuid() == 0:
        os.chown(file, 1000, 1001)
    before = snapshot(tmp_path)
    set_up(tmp_path, ALL)
    status = file.stat()
    assert status.st_mode & 0o7777 == mode
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (1000, 1001)
    revert(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_link_is_followed_and_not_replaced_but_not_out_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_root("arch-grub", root)
    file = root / "etc/default/grub"
    file.rename(root / "etc/grub-defaults")
    file.symlink_to("../grub-defaults")
    set_up(root, Wishes())
    assert file.is_symlink()
    assert "intel_iommu=on" in (root / "etc/grub-defaults").read_text()
    revert(root)
    outside = tmp_path / "outside"
    outside.write_text("GRUB_TIMEOUT=5\n")
    file.unlink()
    file.symlink_to(outside)
    with pytest.raises(HostError, match="leads out of the root directory"):
        set_up(root, Wishes())
    assert outside.read_text() == "GRUB_TIMEOUT=5\n"


def test_a_file_that_changes_meanwhile_is_left_alone(tmp_path: Path) -> None:
    make_root("arch-grub", tmp_path)
    setup = planned(tmp_path, Wishes())
    file = tmp_path / "etc/default/grub"
    file.write_text("GRUB_TIMEOUT=9\n")
    before = snapshot(tmp_path)
    with pytest.raises(HostError, match="has changed since it was read"):
        carry_out(tmp_path, setup, None, lambda _: None)
    assert snapshot(tmp_path) == before


# -- edits in between -------------------------------------------------------------------------

LINE = st.text("abc =#\"'$é\x7f", min_size=1, max_size=12).filter(
    lambda line: line.strip() and not line.startswith("# qlaunch")
)
Edit = Callable[[bytes], bytes]


def prepend(line: str) -> Edit:
    return lambda text: line.encode() + b"\n" + text


def append(line: str) -> Edit:
    return lambda text: text + (b"" if not text or text.endswith(b"\n") else b"\n") + (
        line.encode() + b"\n"
    )


def cut_grub(line: str) -> Edit:
    """Without a line that was there before us."""
    return lambda text: text.replace(b"GRUB_TIMEOUT=5\n", b"").replace(b"linux   /v", b"")


def spelled(line: str) -> Edit:
    return lambda text: text.replace(b"quiet", line.replace("\n", "").encode(), 1)


EDITS = st.tuples(st.sampled_from([prepend, append, cut_grub, spelled]), LINE)
EDITED = {
    "debian": "etc/initramfs-tools/modules", "arch": "boot/loader/entries/arch.conf",
    "arch-grub": "etc/default/grub", "unified": "etc/kernel/cmdline",
    "pop": "etc/initramfs-tools/modules",
}


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(EDITED)), edits=st.lists(EDITS, max_size=4))
def test_edits_in_between_stay(
    name: str, edits: list[tuple[Callable[[str], Edit], str]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make_root(name, root)
        file = root / EDITED[name]
        if name == "unified":  # one line, whose words people edit
            edits = [(kind, "x") for kind, _ in edits if kind is spelled]
        wanted = file.read_bytes()
        set_up(root, ALL)
        for kind, line in edits:
            wanted = kind(line)(wanted)
            file.write_bytes(kind(line)(file.read_bytes()))
        revert(root)
        assert file.read_bytes() == wanted
        assert not (root / RECORD_PATH[1:]).exists()


@pytest.mark.parametrize("name", ["debian", "arch"])
def test_lines_added_to_our_own_files_stay(name: str, tmp_path: Path) -> None:
    make_root(name, tmp_path)
    set_up(tmp_path, ALL)
    file = tmp_path / "etc/modprobe.d/qlaunch.conf"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "options kvm ignore_msrs=1", *lines[1:]]) + "\n")
    assert planned(tmp_path, ALL).changes == ()
    revert(tmp_path)
    assert file.read_text() == "options kvm ignore_msrs=1\n"


def test_words_added_to_our_own_line_stay(tmp_path: Path) -> None:
    make_root("arch-grub", tmp_path)
    file = tmp_path / "etc/default/grub"
    before = file.read_text()
    set_up(tmp_path, Wishes())
    file.write_text(file.read_text().replace("iommu=pt", "iommu=pt mitigations=off"))
    revert(tmp_path)
    said = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT mitigations=off"'
    assert file.read_text() == f"{before}\n{said}\n"


@pytest.mark.parametrize("path", ["etc/default/grub", "etc/modules-load.d/qlaunch.conf"])
def test_what_somebody_else_took_away_is_no_fault(path: str, tmp_path: Path) -> None:
    make_root("arch-grub", tmp_path)
    set_up(tmp_path, ALL)
    (tmp_path / path).unlink()
    revert(tmp_path)
    assert not (tmp_path / path).exists()
    assert read_record(tmp_path) is None
