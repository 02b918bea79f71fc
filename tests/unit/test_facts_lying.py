"""A device tree that lies: whatever stands in a file of the host's, facts are read and planned.

Each file of four recorded machines in turn is missing, empty, nonsense, a directory, a link into
nothing or a read error (which a link to /proc/self/mem is). Then nothing of a machine keeps still:
any look at a file, directory or link may fail or see something else than the one before. Some of
them as a rule, all at night.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import render_argv
from qlaunch.codec import from_json, to_json
from qlaunch.errors import HostError
from qlaunch.facts.model import EVERYTHING, HostFacts
from qlaunch.facts.probe import read_facts
from tests.fake.plans import planned
from tests.fake.snapshots import fx8120
from tests.fake.timed import check_told, within
from tests.fake.trees import Tree
from tests.fake.usb import KEYBOARD, UsbTree
from tests.fake.vgpu_hosts import ada, gvt

WANTED = replace(
    EVERYTHING, qemu=None, files=("/dev/kvm", "/dev/sda"), evdev=("/dev/input/event3",),
    limits=True, pinned=True, firewall=True, vsock=True,
)
SHOWN = """
[[pci]]
device = "10de:1200"
functions = "all"
[[vgpu]]
any = [{ type = "GVTg_V5_4" }, { memory = ">=2G" }]
[[usb]]
device = "046d:c52b"
optional = true
[[net]]
nat = {}
"""


def usb_desk(root: Path) -> Tree:
    """USB devices and keyboards; the one tree that the others lack."""
    tree = UsbTree(root)
    tree.plug("1-4", "046d:c52b", serial="A", drivers=("usbhid", "usbhid"))
    tree.plug("1-5", "0781:5581", drivers=("usb-storage",), block="sdb")
    tree.input(3, "A keyboard", keys=KEYBOARD, on="1-4", by_id="usb-X-event-kbd")
    return tree


HOSTS: dict[str, Callable[[Path], object]] = {
    "fx8120": fx8120, "gvt": gvt, "ada": ada, "usb": usb_desk,
}
Lie = Callable[[Path], None]
LIES: dict[str, Lie] = {
    "missing": lambda path: None,
    "empty": lambda path: _write(path, b""),
    "nonsense": lambda path: _write(path, b"\xff\0 zz 0x -1 99999999999999999999 :,;\n\n=\n"),
    "huge": lambda path: _write(path, b"0x" + b"f" * 100000),
    "lines": lambda path: _write(path, b"1 2 3\n" * 50),
    "directory": lambda path: path.mkdir(),
    "dangling": lambda path: path.symlink_to("../no/such"),
    "loop": lambda path: path.symlink_to(path.name),
    "error": lambda path: path.symlink_to("/proc/self/mem"),
}


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def look(root: Path) -> None:
    """Facts, or a HostError; and a plan of what was seen."""
    with within():
        try:
            facts = read_facts(WANTED, root)
        except HostError as error:
            check_told(error.problems)
            return
        plan_of(facts)


def plan_of(facts: HostFacts) -> None:
    """They are facts that can be written down, and planned for."""
    assert from_json(to_json(facts), type(facts)) == facts
    plan = planned(SHOWN, facts)
    check_told(plan.problems)
    if not any(problem.severity == "error" for problem in plan.problems):
        assert render_argv(plan)


def tell_lies(root: Path, name: str, share: int | None) -> int:
    """Each file (or a share of them) with each lie; put back before the next."""
    host, kept = root / "host", root / "kept"
    host.mkdir()
    HOSTS[name](host)
    look(host)
    files = [p for p in sorted(host.rglob("*")) if p.is_symlink() or p.is_file()]
    cases = [(path, lie) for path in files for lie in LIES]
    if share is not None:
        cases = random.Random(name).sample(cases, min(share, len(cases)))  # noqa: S311
    failed = []
    for path, lie in cases:
        path.rename(kept)
        LIES[lie](path)
        try:
            look(host)
        except Exception as error:
            failed.append(f"{lie}: {path.relative_to(host)}: {error!r}")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
        kept.rename(path)
    assert failed == []
    return len(cases)


@pytest.mark.parametrize("name", HOSTS)
def test_some_lies(tmp_path: Path, name: str) -> None:
    assert tell_lies(tmp_path, name, 60) == 60


@pytest.mark.nightly
@pytest.mark.parametrize("name", HOSTS)
def test_every_lie(tmp_path: Path, name: str) -> None:
    assert tell_lies(tmp_path, name, None) > 200


class Restless:
    """While it is entered, a share of all looks below `root` fail, or see what is not there."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = os.path.realpath(root)
        self.random = random.Random(seed)  # noqa: S311
        self.share = self.random.choice((0.01, 0.1, 0.5))
        self.seen: list[bytes] = [b"1"]

    def __enter__(self) -> None:
        self.calls = os.read, os.listdir, os.readlink
        vars(os).update(read=self.read, listdir=self.listdir, readlink=self.readlink)

    def __exit__(self, *exc: object) -> None:
        vars(os).update(zip(("read", "listdir", "readlink"), self.calls, strict=True))

    def lies(self, where: object) -> bool:
        """Whether this look is one of them; fails one in four."""
        path = self.calls[2](f"/proc/self/fd/{where}") if isinstance(where, int) else str(where)
        if not path.startswith(self.root) or self.random.random() > self.share:
            return False
        if self.random.random() < 0.25:
            raise OSError(self.random.choice((errno.EIO, errno.ENOENT, errno.ENODEV)), "", path)
        return True

    def read(self, fd: int, length: int) -> bytes:
        data = self.calls[0](fd, length)
        if not self.lies(fd):
            self.seen.append(data[:200])
            return data
        other = self.random.choice(self.seen)
        return self.random.choice((b"", data[: len(data) // 2], data + other, other))[:length]

    def listdir(self, path: str | int = ".") -> list[str]:
        names = self.calls[1](path)
        if self.lies(path):
            names = [*self.random.sample(names, len(names) // 2), "0000:0a:00.0", "card9", "7"]
        return names

    def readlink(self, path: str, *, dir_fd: int | None = None) -> str:
        target = self.calls[2](path, dir_fd=dir_fd)
        if self.lies(path if dir_fd is None else dir_fd):
            target = self.random.choice((f"{target}9", "../../9", "", "../drivers/vfio-pci"))
        return target


@pytest.mark.parametrize("seeds", [6, pytest.param(1500, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", HOSTS)
def test_nothing_keeps_still(tmp_path: Path, name: str, seeds: int) -> None:
    HOSTS[name](tmp_path)
    for seed in range(seeds):
        restless = Restless(tmp_path, seed)
        try:
            with within(), restless:
                facts = read_facts(WANTED, tmp_path)
        except HostError as error:
            check_told(error.problems)
            continue
        plan_of(facts)
