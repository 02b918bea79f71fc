"""Round after round with slices, by `run` and by `selftest`, with QEMU: nothing is left and nothing
grows.
"""
from __future__ import annotations

import json
import mmap
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from .machine import qlaunch, until
from .slices import FUNCTION, MDPY, Machine, at_call, wait_still
from .state import changed, host_state

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("slices"),
    pytest.mark.usefixtures("samples", "nothing_left"),
]

BEGUN = 3  # the round by which all is imported and open that a round needs
GROWTH = 1 << 20  # bytes: of an allocator that finds its places, in fifty rounds


class Held(NamedTuple):
    """What a launcher has between two rounds."""

    fds: tuple[str, ...]
    memory: int
    host: dict[str, str]


def held(pid: int) -> Held:
    process = Path(f"/proc/{pid}")
    kinds = [fd.readlink() for fd in (process / "fd").iterdir()]
    # A pipe's or socket's number is another each time.
    names = tuple(sorted(str(kind).partition(":[")[0] for kind in kinds))
    pages = int((process / "statm").read_text().split()[1])
    return Held(names, pages * mmap.PAGESIZE, host_state())


@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.nightly)])
def test_of_a_selftest(rounds: int, open_directory: Path, boot_disk: Path) -> None:
    """One launcher for all rounds: what it has is looked at as each begins."""
    machine = Machine(open_directory, boot_disk, "labround", MDPY + FUNCTION)
    run = machine.start(at_call("qlaunch.run.selftest:run_round"), "selftest",
                        ("--rounds", str(rounds), "--json"))
    seen: list[Held] = []
    try:
        for _ in range(rounds):
            wait_still(run)
            seen.append(held(run.process.pid))
            run.process.send_signal(signal.SIGCONT)
            until(lambda: not is_held(run.process.pid), "goes on")
        assert run.wait(600) == 0, run.said
    finally:
        run.end()
    said = json.loads("{" + run.said.partition("\n{")[2])
    assert [(one["number"], one["changed"]) for one in said["rounds"]] == [
        (n, []) for n in range(1, rounds + 1)
    ]
    assert {one["end"] for one in said["rounds"]} == {"the guest powered off"}
    for number, one in enumerate(seen):
        assert changed(seen[0].host, one.host) == {}, number
    for other in seen[BEGUN:]:
        assert other.fds == seen[BEGUN - 1].fds
    assert seen[-1].memory < seen[min(BEGUN, rounds) - 1].memory + GROWTH


@pytest.mark.nightly
def test_of_fifty_runs(open_directory: Path, boot_disk: Path) -> None:
    machine = Machine(open_directory, boot_disk, "labround", MDPY + FUNCTION, seconds=1)
    before, kept = host_state(), []
    for number in range(50):
        done = qlaunch("run", str(machine.path))
        assert done.returncode == 0, done.stderr
        assert changed(before, host_state()) == {}, number
        kept.append(sorted(Path("/var/lib/qlaunch/labround").rglob("*")))
        assert kept[-1] == kept[0], number


def is_held(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(") ")[2][0] == "T"
