"""The machine that is started over and over: its profile, its command line, and its start."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qlaunch.facts.invoker import read_invoker
from qlaunch.plan.paths import Paths, machine_paths

QLAUNCH = str(Path(sys.prefix, "bin/qlaunch"))
# What a user has: .pyc files, which some build environments forbid.
ENV = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
NULL = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
MEMORY = 1024  # MiB
BRIDGE = "qbench0"

PROFILE = """\
name = "{name}"
[machine]
memory = "{memory}M"
[cpu]
cores = {cores}
{pin}
[[disk]]
file = "disk.img"
boot = 0
[[net]]
{net}
[display]
vga = "std"
"""


class Machine(NamedTuple):
    """One profile, and what qlaunch made of it."""

    name: str
    directory: Path
    profile: Path
    argv: list[str]
    fds: dict[int, str]  # number -> "kind what", as in `plan --json`
    qmp: str  # where its user's QMP socket will be
    bridge: str
    pins: bool
    cores: int
    accel: str


@contextlib.contextmanager
def machines() -> Iterator[tuple[Machine, Machine | None]]:
    """With user networking, and on a bridge (None without root). All is gone afterwards."""
    as_root = os.geteuid() == 0
    # What root runs must not be below a directory that others may write.
    top = Path(tempfile.mkdtemp(prefix="qlaunch-bench-", dir="/run" if as_root else None))
    top.chmod(0o755)
    made = []
    try:
        made.append(_make(top, "user", ""))
        if as_root:
            for words in (["add", BRIDGE, "type", "bridge"], ["set", BRIDGE, "up"]):
                subprocess.run(["ip", "link", *words], check=True)
            made.append(_make(top, "bridge", BRIDGE))
        yield made[0], made[1] if as_root else None
    finally:
        shutil.rmtree(top)
        for machine in made:
            shutil.rmtree(_paths(machine.name).state, ignore_errors=True)
        if as_root:
            subprocess.run(["ip", "link", "del", BRIDGE], check=False)


def _make(top: Path, kind: str, bridge: str) -> Machine:
    name = f"bench-{kind}-{os.getpid()}"
    directory = top / kind
    directory.mkdir(mode=0o755)
    with (directory / "disk.img").open("wb") as image:
        image.truncate(16 << 20)
    profile = directory / f"{kind}.toml"
    pins = {0, 1} <= os.sched_getaffinity(0)
    profile.write_text(
        PROFILE.format(
            name=name, memory=MEMORY, cores=2 if pins else 1,
            pin='pin = { vcpus = ["0", "1"], emulator = "0-1" }' if pins else "",
            net=f'bridge = "{bridge}"' if bridge else "user = {}",
        )
    )
    done = subprocess.run(
        [QLAUNCH, "plan", "--json", str(profile)], capture_output=True, text=True, check=False,
        env=ENV,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    plan = json.loads(done.stdout)
    argv = [str(word) for word in plan["argv"]]
    return Machine(
        name, directory, profile, argv, {int(n): what for n, what in plan["fds"].items()},
        f"{_paths(name).sockets}/qmp.sock", bridge, pins, 2 if pins else 1,
        argv[argv.index("-accel") + 1],
    )


def _paths(name: str) -> Paths:
    return machine_paths(name, read_invoker())


def spawn(argv: Sequence[str], fds: Mapping[int, int]) -> int:
    """Start a program with these numbers open and no others: vfork and exec, nothing cheaper."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in fds.items()]
    return os.posix_spawnp(argv[0], list(argv), ENV, file_actions=actions)
