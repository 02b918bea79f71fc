"""Whose vCPUs are where: what running machines have left to read, and what dead ones have."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.codec import to_json
from qlaunch.facts.cgroup_model import Limits
from qlaunch.facts.memory import read_limits
from qlaunch.facts.pinned import read_pinned
from qlaunch.facts.probe import read_ram
from qlaunch.plan.model import PinPlan
from qlaunch.run.info import Info
from qlaunch.values import CpuSet
from tests.fake.snapshots import USER
from tests.fake.trees import Tree


def machine(tree: Tree, place: str, name: str, pins: PinPlan | None, *, runs: bool = True) -> None:
    """What a run leaves in its runtime directory; with `runs` its lock is held."""
    where = f"{place}/{name}"
    info = Info(
        name=name, uuid="u", profile="/p", started=1.0, launcher=7, runtime_dir=f"/{where}",
        socket_dir="/s", state_dir="/t", stop_timeout=1.0, pins=pins,
    )
    tree.write(f"{where}/run.json", to_json(info))
    lock = tree.write(f"{where}/lock")
    kind = "FLOCK " if runs else "POSIX "
    tree.append(
        "proc/locks", f"1: {kind} ADVISORY  WRITE 77 00:18:{lock.stat().st_ino} 0 EOF"
    )


def test_machines_that_run_with_pins(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    both = PinPlan(vcpus=(CpuSet((4,)), CpuSet((2, 3))), emulator=CpuSet((0,)))
    machine(tree, "run/qlaunch", "win7", both)
    machine(tree, "run/qlaunch", "free", None)
    machine(tree, "run/qlaunch", "loose", PinPlan(emulator=CpuSet((1,))))
    machine(tree, "run/qlaunch", "dead", PinPlan(vcpus=(CpuSet((9,)),)), runs=False)
    machine(tree, "run/user/1000/qlaunch", "own", PinPlan(vcpus=(CpuSet((7,)),)))
    tree.write("run/qlaunch/broken/run.json", "{")
    tree.write("run/qlaunch/.by-uid/x", "")
    assert read_pinned(USER, tmp_path) == {"win7": CpuSet((2, 3, 4)), "own": CpuSet((7,))}
    alone = read_pinned(replace(USER, runtime_dir=""), tmp_path)
    assert alone == {"win7": CpuSet((2, 3, 4))}
    assert read_pinned(USER, tmp_path / "none") == {}


def test_memory_of_the_whole_machine(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("proc/meminfo", "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\nX: 1")
    ram = read_ram(str(tmp_path))
    assert ram is not None
    assert (ram.total, ram.available) == (2 << 20, 1 << 20)
    assert read_ram(str(tmp_path / "none")) is None
    tree.write("proc/meminfo", "MemTotal:  2048 kB\nMemFree: 1 kB\nBuffers:   1024 kB")
    assert read_ram(str(tmp_path)) is None


def test_limits_of_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = resource.RLIM_INFINITY
    hard = {resource.RLIMIT_RTPRIO: 20, resource.RLIMIT_NICE: 30, resource.RLIMIT_MEMLOCK: endless}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, hard[kind]))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert read_limits() == Limits(priority=20, nice=-10, memlock=None)
    hard = {resource.RLIMIT_RTPRIO: 0, resource.RLIMIT_NICE: 0, resource.RLIMIT_MEMLOCK: 65536}
    monkeypatch.setattr(os, "getpriority", lambda kind, pid: 3)
    assert read_limits() == Limits(priority=0, nice=3, memlock=65536)  # lower than now is denied
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert read_limits() == Limits()
