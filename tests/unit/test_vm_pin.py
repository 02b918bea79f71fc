"""Which CPUs each thread is wanted on, finding vhost workers, and why a CPU was refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.plan.model import PinPlan
from qlaunch.values import CpuSet
from qlaunch.vm import pin
from qlaunch.vm.pin import Pinned, Threads, explain, find_vhost, pin_threads, verify

A, B, C = CpuSet([0]), CpuSet([1]), CpuSet([2, 3])


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """Affinities by thread; 0 is this process, on CPUs 0 to 5."""
    masks: dict[int, set[int]] = {0: set(range(6))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda tid: masks[tid])
    monkeypatch.setattr(os, "sched_setaffinity", lambda tid, cpus: masks.update({tid: set(cpus)}))
    return masks


def threads(vcpus: tuple[int, ...] = (11, 12), vhost: tuple[int, ...] = ()) -> Threads:
    return Threads(10, vcpus, {"io0": 20}, (10,), vhost)


def tasks(monkeypatch: pytest.MonkeyPatch, *passes: list[int]) -> None:
    left = list(passes)
    monkeypatch.setattr(
        pin, "_tasks", lambda pid, root="/": left.pop(0) if len(left) > 1 else left[0]
    )


def test_each_kind_has_its_cpus(
    monkeypatch: pytest.MonkeyPatch, kernel: dict[int, set[int]]
) -> None:
    tasks(monkeypatch, [10, 11, 12, 20])
    plan = PinPlan(vcpus=(A, B), emulator=C, iothreads=A)
    pinned = pin_threads(threads(vhost=(30,)), plan)
    assert {one.name: str(one.actual) for one in pinned} == {
        "vcpu 0": "0", "vcpu 1": "1", "iothread io0": "0", "vhost 30": "2-3", "emulator": "2-3",
    }  # fmt: skip
    assert verify(pinned) == []


def test_threads_that_appear_meanwhile(
    monkeypatch: pytest.MonkeyPatch, kernel: dict[int, set[int]]
) -> None:
    tasks(monkeypatch, [10, 11, 12], [10, 11, 12, 13], [10, 13, 14], [10, 14])
    pinned = pin_threads(threads(), PinPlan(emulator=C))
    assert [one.tid for one in pinned if one.name == "emulator"] == [10, 13, 14]


def test_one_thread_for_all_vcpus(
    monkeypatch: pytest.MonkeyPatch, kernel: dict[int, set[int]]
) -> None:
    tasks(monkeypatch, [])
    pinned = pin_threads(threads(vcpus=(11, 11)), PinPlan(vcpus=(A, B)))
    assert pinned == [Pinned(11, "vcpu 0", CpuSet([0, 1]), CpuSet([0, 1]))]


def test_nothing_planned_moves_nothing(
    monkeypatch: pytest.MonkeyPatch, kernel: dict[int, set[int]]
) -> None:
    tasks(monkeypatch, [10, 11])
    assert pin_threads(threads(), PinPlan()) == []
    assert list(kernel) == [0]


@pytest.mark.parametrize("error", [ProcessLookupError(3, "gone"), PermissionError(1, "no")])
def test_threads_that_cannot_be_pinned(
    monkeypatch: pytest.MonkeyPatch, kernel: dict[int, set[int]], error: OSError
) -> None:
    def refuse(tid: int, cpus: CpuSet) -> None:
        raise error

    kernel[30] = {5}
    tasks(monkeypatch, [10])
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pytest.raises(HostError, match="vcpu 0"):
        pin_threads(threads(), PinPlan(vcpus=(A, B)))
    if isinstance(error, ProcessLookupError):
        assert pin_threads(threads((11,)), PinPlan(vcpus=(), emulator=None)) == []
        assert pin._pin(10, "emulator", C) is None
    else:
        assert pin._pin(30, "vhost 30", C) == Pinned(30, "vhost 30", C, CpuSet([5]))


def test_mask_narrowed_by_the_kernel_is_an_error(
    monkeypatch: pytest.MonkeyPatch, kernel: dict[int, set[int]]
) -> None:
    tasks(monkeypatch, [])
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda tid, cpus: kernel.update({tid: set(cpus) & {0}})
    )
    with pytest.raises(HostError, match="vcpu 0"):
        pin_threads(threads(), PinPlan(vcpus=(CpuSet([0, 1]), A)))


def tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


ONLINE = {"sys/devices/system/cpu/online": "0-3\n"}


def test_offline_cpu_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, ONLINE)
    problem = explain(9, "vcpu 1", CpuSet([3, 5, 6]), CpuSet([3]), root)
    assert problem.message == "vcpu 1 cannot run on CPU 5-6: not online"
    assert problem.found == "online: 0-3"


@pytest.mark.parametrize(
    ("cgroup", "limit"),
    [
        ("0::/a/b\n", "sys/fs/cgroup/a/cpuset.cpus.effective"),
        ("0::/a/b\n", "sys/fs/cgroup/cpuset.cpus.effective"),
        ("5:memory:/x\n3:cpuset:/a\n0::/\n", "sys/fs/cgroup/cpuset/a/cpuset.effective_cpus"),
    ],
)
def test_the_cpuset_is_named(tmp_path: Path, cgroup: str, limit: str) -> None:
    root = tree(tmp_path, {**ONLINE, "proc/9/cgroup": cgroup, limit: "0-1\n"})
    problem = explain(9, "emulator", CpuSet([1, 2]), CpuSet([1]), root)
    assert problem.message == "emulator may not run on CPU 2"
    assert problem.where == str(tmp_path / limit)
    assert problem.allowed == "0-1"


def test_no_reason_found_is_still_told(tmp_path: Path) -> None:
    problem = explain(9, "emulator", CpuSet([1, 2]), CpuSet(), tree(tmp_path, ONLINE))
    assert (problem.where, problem.found) == ("", "asked for 1-2, got none")


def test_vhost_workers_inside_and_outside(tmp_path: Path) -> None:
    root = tree(tmp_path / "new", {
        "proc/7/task/7/comm": "qemu\n", "proc/7/task/8/comm": "vhost-7\n",
        "proc/70/comm": "vhost-7\n",
    })  # fmt: skip
    assert find_vhost(7, root) == (8,)
    old = tmp_path / "old"
    root = tree(old, {
        "proc/7/task/7/comm": "qemu\n", "proc/70/comm": "vhost-7\n", "proc/71/comm": "vhost-71\n",
    })  # fmt: skip
    assert find_vhost(7, root) == ()
    (old / "proc/7/fd").mkdir()
    (old / "proc/7/fd/9").symlink_to("/dev/vhost-net")
    assert find_vhost(7, root) == (70,)
