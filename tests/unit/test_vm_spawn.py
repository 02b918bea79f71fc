"""What a started program finds: descriptors, signals, limits, environment; and what failed."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.plan.model import Account
from qlaunch.values import CpuSet
from qlaunch.vm.process import QemuProcess
from qlaunch.vm.spawn import clean_environment, start_qemu

LIST_FDS = ["/bin/ls", "-l", "/proc/self/fd"]
NOBODY = Account(uid=65534, gid=65534, name="nobody", groups=(65533, 65532))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another account")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    yield fd
    os.close(fd)


def open_fds() -> set[str]:
    return {fd.name for fd in Path("/proc/self/fd").iterdir()}


def listed(text: str) -> dict[str, str]:
    """Descriptors as `ls -l` shows its own, without the one it reads the directory by."""
    pairs = (line.split()[-3::2] for line in text.splitlines() if " -> " in line)
    return {number: target for number, target in pairs if not target.startswith("/proc/")}


def _text(process: QemuProcess, tmp_path: Path) -> str:
    with process:
        assert process.wait(30) is not None
        assert process.exit_text() == "status 0"
    return (tmp_path / "log").read_text()


def _pipes(tmp_path: Path, count: int) -> list[int]:
    return [os.open(tmp_path / f"file{i}", os.O_CREAT | os.O_RDWR) for i in range(count)]


def _at(number: int, fd: int) -> int:
    os.dup2(fd, number, inheritable=False)
    return number


def test_fds_are_at_their_numbers_and_nothing_else_is_open(tmp_path: Path, log: int) -> None:
    one, two, stray = _pipes(tmp_path, 3)
    os.set_inheritable(stray, True)
    # Each source sits on the other's target.
    fds = {100: _at(101, one), 101: _at(100, two)}
    try:
        process = start_qemu(LIST_FDS, fds=fds, stderr_fd=log)
        found = listed(_text(process, tmp_path))
    finally:
        for fd in (one, two, stray, 100, 101):
            os.close(fd)
    assert found == {
        "0": "/dev/null",
        "1": str(tmp_path / "log"),
        "2": str(tmp_path / "log"),
        "100": str(tmp_path / "file0"),
        "101": str(tmp_path / "file1"),
    }


def test_targets_where_a_copy_would_land(tmp_path: Path, log: int) -> None:
    held = _pipes(tmp_path, 2)
    low = os.dup(log)  # the lowest free number
    os.close(low)
    fds = {number: held[number % 2] for number in reversed(range(low, low + 12))}
    try:
        process = start_qemu(LIST_FDS, fds=fds, stderr_fd=log)
        found = listed(_text(process, tmp_path))
    finally:
        for fd in held:
            os.close(fd)
    for number in fds:
        assert found[str(number)] == str(tmp_path / f"file{number % 2}")


def test_a_source_on_a_standard_number_and_used_twice(tmp_path: Path, log: int) -> None:
    fds = {100: 0, 103: log, 104: log}
    process = start_qemu(LIST_FDS, fds=fds, stderr_fd=log)
    found = listed(_text(process, tmp_path))
    assert found["103"] == found["104"] == str(tmp_path / "log")
    assert found["100"] == str(Path("/proc/self/fd/0").readlink())


def test_signals_umask_group_and_directory(tmp_path: Path, log: int) -> None:
    taken = signal.signal(signal.SIGUSR1, lambda *_: None)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        script = "pwd; ulimit -c; cut -d' ' -f5 /proc/$$/stat; "
        # exec, because a shell blocks signals itself while it forks
        script += "exec grep -E '^(Umask|SigBlk|SigIgn)' /proc/self/status"
        process = start_qemu(["/bin/sh", "-c", script], fds={}, stderr_fd=log)
        pid = process.pid
        words = _text(process, tmp_path).split()
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGUSR1, taken)
    zero = "0" * 16
    assert words == ["/", "0", str(pid), "Umask:", "0077", "SigBlk:", zero, "SigIgn:", zero]


def test_memlock_and_cpus(tmp_path: Path, log: int) -> None:
    cpu = max(os.sched_getaffinity(0))
    script = "ulimit -l; grep Cpus_allowed_list /proc/$$/status"
    process = start_qemu(
        ["/bin/sh", "-c", script], fds={}, stderr_fd=log, memlock=1 << 20, cpus=CpuSet([cpu])
    )
    assert _text(process, tmp_path).split() == ["1024", "Cpus_allowed_list:", str(cpu)]


@as_root
def test_becomes_the_account(tmp_path: Path, log: int) -> None:
    script = "grep -E '^(Uid|Gid|Groups|CapEff|CapPrm)' /proc/$$/status"
    process = start_qemu(["/bin/sh", "-c", script], fds={}, stderr_fd=log, account=NOBODY)
    lines = dict(line.split(":", 1) for line in _text(process, tmp_path).splitlines())
    assert lines["Uid"].split() == ["65534"] * 4
    assert lines["Gid"].split() == ["65534"] * 4
    assert sorted(lines["Groups"].split()) == ["65532", "65533"]
    assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == 0


@as_root
def test_becoming_is_verified(monkeypatch: pytest.MonkeyPatch, log: int) -> None:
    monkeypatch.setattr(os, "setresuid", lambda *_: None)  # a kernel that says yes and does nothing
    with pytest.raises(HostError, match=r"becoming nobody .* failed\n.*still \(\(0, 0, 0\)"):
        start_qemu(["/bin/true"], fds={}, stderr_fd=log, account=NOBODY)


def children() -> set[str]:
    """Our children; tests of writes that hang leave some that nobody waits for."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_the_failing_call_is_named_and_the_child_is_gone(log: int) -> None:
    before = children()
    with pytest.raises(HostError, match=r"affinity to CPUs 8000 failed\n.*Invalid argument"):
        start_qemu(["/bin/true"], fds={}, stderr_fd=log, cpus=CpuSet([8000]))
    with pytest.raises(HostError, match=r"setrlimit\(RLIMIT_MEMLOCK, -5\) failed"):
        start_qemu(["/bin/true"], fds={}, stderr_fd=log, memlock=-5)
    with pytest.raises(HostError, match="qemu-none is not installed"):
        start_qemu(["qemu-none"], fds={}, stderr_fd=log)
    with pytest.raises(HostError, match=r"/etc/passwd could not be executed\n.*Permission denied"):
        start_qemu(["/etc/passwd"], fds={}, stderr_fd=log)
    with pytest.raises(HostError, match=r"file descriptors failed\n.*Bad file"):
        start_qemu(["/bin/true"], fds={100: 4000}, stderr_fd=log)
    assert children() <= before


def test_no_descriptor_of_ours_is_lost(log: int) -> None:
    before = open_fds()
    with start_qemu(["/bin/true"], fds={100: log}, stderr_fd=log) as process:
        process.wait(30)
    with pytest.raises(HostError):
        start_qemu(["/nowhere"], fds={}, stderr_fd=log)
    assert open_fds() == before


def test_environment() -> None:
    base = {
        "DISPLAY": ":0", "PIPEWIRE_REMOTE": "p", "LD_PRELOAD": "x", "SUDO_USER": "me",
        "HOME": "/root",
    }  # fmt: skip
    found = clean_environment(base, {"HOME": "/home/me", "EXTRA": "1"})
    assert found.pop("PATH").startswith("/")
    assert found == {"DISPLAY": ":0", "PIPEWIRE_REMOTE": "p", "HOME": "/home/me", "EXTRA": "1"}
    assert clean_environment({"PATH": "/p"}, {}) == {"PATH": "/p"}


def test_program_gets_that_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: int
) -> None:
    monkeypatch.setenv("LD_BIND_NOW", "1")
    monkeypatch.setenv("DISPLAY", ":7")
    process = start_qemu(["/usr/bin/env"], fds={}, stderr_fd=log, env={"A": "b"})
    names = {line.split("=")[0] for line in _text(process, tmp_path).splitlines()}
    assert {"A", "DISPLAY", "PATH"} <= names
    assert "LD_BIND_NOW" not in names


def test_core_limit_of_the_launcher_stays(log: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    with start_qemu(["/bin/true"], fds={}, stderr_fd=log) as process:
        process.wait(30)
    assert resource.getrlimit(resource.RLIMIT_CORE) == before
