"""A disk that another QEMU has open is found before the host is changed: real locks, real QEMU."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qlaunch.facts.files import read_files
from qlaunch.facts.imagelock import ImageLock, _is_about, read_image_lock
from qlaunch.facts.model import HostFacts, HostFile
from qlaunch.plan.draft import Draft
from qlaunch.plan.files import check_file
from qlaunch.profile.profile import Profile
from qlaunch.values import VmName

# QEMU's locks of a writer and of a reader, as /proc/locks shows them
WRITER, READER = (100, 101, 103, 201, 203), (100, 201, 203)
HOLD = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for byte in map(int, sys.argv[2].split(",")):
    flock = struct.pack("hhqqi", fcntl.F_RDLCK, 0, byte, 1, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, flock)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(image: Path, locks: tuple[int, ...]) -> Iterator[int]:
    """Another process with these bytes locked; its pid."""
    words = [sys.executable, "-c", HOLD, str(image), ",".join(map(str, locks))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"held\n"
        yield child.pid
        assert child.stdin
        child.stdin.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a disk.img"
    path.write_bytes(b"\0" * 65536)
    return path


def test_nobody(image: Path) -> None:
    assert read_image_lock(str(image)) == ImageLock()
    assert read_image_lock(str(image.parent / "none")) == ImageLock()


@pytest.mark.parametrize(("locks", "use"), [(WRITER, "writing"), (READER, "reading")])
def test_locks_of_another_process(image: Path, locks: tuple[int, ...], use: str) -> None:
    with held(image, locks) as pid:
        found = read_image_lock(str(image))
        assert found.use == use
        assert found.by.endswith(f"(pid {pid})")
        assert read_image_lock(str(image)) == found  # looking has locked nothing
    assert read_image_lock(str(image)) == ImageLock()


def test_other_bytes_are_not_qemus_writing(image: Path) -> None:
    with held(image, (100, 102, 202)):
        assert read_image_lock(str(image)) == ImageLock()


def test_a_lock_of_our_own_is_seen_too(image: Path) -> None:
    """By another open of the file, as two disks of one machine would be."""
    with image.open("r+b") as file:
        flock = struct.pack("hhqqi", fcntl.F_RDLCK, 0, 101, 1, 0)
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, flock)
        assert read_image_lock(str(image)).by.endswith(f"(pid {os.getpid()})")


def test_what_blocks_is_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (file,) = read_files([str(fifo)], None)
    assert (file.kind, file.lock) == ("other", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:77 100 101", True),
        ("lock:\t1: POSIX  ADVISORY  WRITE 12 fe:00:77 0 EOF", True),
        ("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:77 102 201", False),
        ("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:78 100 101", False),
        ("pos:\t0", False),
        ("", False),
    ],
)
def test_fdinfo(line: str, expected: bool) -> None:
    assert _is_about(line, 77, 101) is expected


@pytest.mark.parametrize(
    ("lock", "read_only", "refused"),
    [
        ("", False, False), ("reading", False, True), ("reading", True, False),
        ("writing", False, True), ("writing", True, True),
    ],
)
def test_a_plan_refuses_what_qemu_would(lock: str, read_only: bool, refused: bool) -> None:
    file = HostFile(
        path="/a b.img", kind="file", lock=lock, locked_by="the machine win7 (pid 77)"  # type: ignore[arg-type]
    )
    draft = Draft(Profile(name=VmName("x")), HostFacts(), None)
    check_file(draft, file, "disk[0].file", read_only)
    assert [p.message for p in draft.problems] == ["another QEMU has this disk open"] * refused
    for problem in draft.problems:
        assert problem.found == "/a b.img: the machine win7 (pid 77)"
        assert ("read_only" in problem.hint) is (lock == "reading")


def test_a_holder_that_cannot_be_seen(image: Path) -> None:
    draft = Draft(Profile(name=VmName("x")), HostFacts(), None)
    file = HostFile(path="/a b.img", kind="file", lock="writing")
    check_file(draft, file, "disk[0].file", read_only=False)
    assert "fuser -v '/a b.img'" in draft.problems[0].hint


@pytest.mark.qemu
@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="no QEMU")
@pytest.mark.parametrize(("option", "use"), [("off", "writing"), ("on", "reading")])
def test_a_real_qemu_is_named(image: Path, option: str, use: str) -> None:
    words = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-nodefaults", "-S", "-display",
             "none", "-name", "guest=other,debug-threads=on",
             "-blockdev", f"driver=raw,node-name=d,read-only={option},"
             f"file.driver=file,file.filename={image}", "-device", "virtio-blk-pci,drive=d"]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as qemu:
        try:
            end = time.monotonic() + 60
            while not (found := read_image_lock(str(image))).use:
                assert qemu.poll() is None, qemu.stderr and qemu.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.05)
            time.sleep(0.2)
            found = read_image_lock(str(image))
        finally:
            qemu.kill()
    assert found == ImageLock(use, f"the machine other (pid {qemu.pid})")  # type: ignore[arg-type]
