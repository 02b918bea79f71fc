"""Helper daemons: what they are given, how their deaths are told, and that none stays behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from qlaunch.errors import HostError
from qlaunch.plan.inherited import PlannedFd
from qlaunch.plan.model import Account, Plan, PlannedHelper
from qlaunch.run.account import give_over
from qlaunch.run.cleanup import clean_up
from qlaunch.run.handover import Handover
from qlaunch.run.helpers import helped
from qlaunch.vm import helpers as timing
from qlaunch.vm.loop import asyncio
from qlaunch.vm.process import QemuProcess
from tests.fake.loop import run
from tests.fake.plans import host, planned

HEAD = "import os, signal, socket, sys, time\n"
# Ends when the other end is closed, as real helpers do; first it answers once.
ECHO = HEAD + "s = socket.socket(fileno=3)\nwhile d := s.recv(99): s.send(d.upper())\n"
ACCEPT = HEAD + "s, _ = socket.socket(fileno=7).accept()\nwhile d := s.recv(99): s.send(d + b'!')\n"
STUBBORN = HEAD + "signal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(99)\n"
FAILS = HEAD + "print('a bad day', file=sys.stderr)\nsys.exit(3)\n"
TELLS = HEAD + (
    "s = socket.socket(fileno=3)\n"
    "own = [int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')]\n"
    "s.send(f'{sorted(own)} {os.getpgid(0) == os.getpid()} {os.read(5, 9)}'.encode())\ns.recv(1)\n"
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "qemu.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"of an earlier run\n")
    yield fd
    os.close(fd)


def plan_of(place: Path, *codes: str, **more: object) -> Plan:
    """A plan with a helper for each Python program."""
    made = tuple(
        PlannedHelper(id=f"h{n}", key="tpm", argv=(sys.executable, "-c", code), **more)  # type: ignore[arg-type]
        for n, code in enumerate(codes)
    )
    fds = tuple(PlannedFd(number=200 + n, kind="helper", of=f"h{n}") for n in range(len(codes)))
    return msgspec.structs.replace(
        planned("", host()), helpers=made, fds=fds, account=None,
        state_dir=str(place), runtime_dir=str(place),
    )


def until_logged(log: int, text: bytes) -> None:
    deadline = time.monotonic() + 20
    while text not in os.pread(log, 9999, 0):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def talk(handover: Handover, number: int, text: bytes) -> bytes:
    fd = handover.fds[number]
    if text:
        os.write(fd, text)
    return os.read(fd, 999)


def test_a_pair_and_a_listening_socket(tmp_path: Path, log: int) -> None:
    told: list[str] = []
    one = plan_of(tmp_path, ECHO)
    two = plan_of(tmp_path, ACCEPT, socket="listen", inner_fd=7)
    for plan, answer in ((one, b"HELLO"), (two, b"hello!")):
        handover = Handover()
        with helped(plan, log, handover, told.append) as helpers:
            assert talk(handover, 200, b"hello") == answer
            assert helpers.fault() is None
            handover.close()  # QEMU has ended
        assert told == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["helpers", "qemu.log"]


def test_it_has_its_own_files_and_group_and_nothing_else(tmp_path: Path, log: int) -> None:
    (tmp_path / "a").write_bytes(b"content")
    directory = tmp_path / "of/it"
    plan = plan_of(
        tmp_path, TELLS, files=((5, str(tmp_path / "a"), False),), directories=(str(directory),)
    )
    handover = Handover()
    with helped(plan, log, handover, print):
        assert talk(handover, 200, b"") == b"[0, 1, 2, 3, 5] True b'content'"
        handover.close()
    assert directory.stat().st_mode & 0o777 == 0o700


def offspring() -> set[str]:
    """The children of this process, dead ones that nobody has waited for among them."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def test_one_that_cannot_start_takes_the_others_down(tmp_path: Path, log: int) -> None:
    before = offspring()
    plan = plan_of(tmp_path, ECHO, ECHO)
    missing = msgspec.structs.replace(plan.helpers[1], argv=("/nonexistent/swtpm",))
    plan = msgspec.structs.replace(plan, helpers=(plan.helpers[0], missing))
    handover = Handover()
    start = time.monotonic()
    with (
        pytest.raises(HostError, match=r"/nonexistent/swtpm is not installed"),
        helped(plan, log, handover, print),
    ):
        raise AssertionError
    assert handover.fds == {}
    assert time.monotonic() - start < timing.GOING
    assert offspring() == before


def test_death_at_the_start_is_told_in_its_own_words(tmp_path: Path, log: int) -> None:
    handover = Handover()
    with helped(plan_of(tmp_path, ECHO, FAILS), log, handover, print) as helpers:
        run(asyncio.wait_for(helpers.ended(), 20))
        fault = helpers.fault()
        assert fault == helpers.fault(failed=True)
        handover.close()
    assert fault is not None
    name = Path(sys.executable).name
    assert fault.message == f"{name} for tpm ended (status 3) before the guest ran"
    assert (fault.where, fault.found) == ("tpm", "a bad day")
    assert "qemu.log" in fault.hint


def test_ending_with_qemu_is_no_failure(tmp_path: Path, log: int) -> None:
    handover = Handover()
    with helped(plan_of(tmp_path, ECHO), log, handover, print) as helpers:
        handover.close()
        run(asyncio.wait_for(helpers.ended(), 20))
        assert helpers.fault() is not None
        assert helpers.fault(failed=True) is None


def test_one_that_does_not_end_is_ended(
    tmp_path: Path, log: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "GOING", 0.1)
    monkeypatch.setattr(timing, "TERMED", 0.1)
    before = offspring()
    told: list[str] = []
    handover = Handover()
    with helped(plan_of(tmp_path, STUBBORN), log, handover, told.append):
        until_logged(log, b"up")
        handover.close()
    name = Path(sys.executable).name
    assert told == [f"{name} for tpm does not end; sending {s}" for s in ("SIGTERM", "SIGKILL")]
    assert offspring() == before


def test_what_a_killed_launcher_left_is_ended_and_nobody_else(tmp_path: Path, log: int) -> None:
    """One that ignores its socket and SIGTERM; beside it one whose number is another's by now."""
    handover = Handover()
    runtime = tmp_path / "vm"
    runtime.mkdir()
    plan = msgspec.structs.replace(plan_of(tmp_path, STUBBORN), runtime_dir=str(runtime))
    told: list[str] = []
    other = os.posix_spawn("/bin/sleep", ["sleep", "99"], {})
    with QemuProcess.of_child(other) as stranger:
        with helped(plan, log, handover, told.append) as helpers:
            until_logged(log, b"up")
            notes = runtime / "helpers"
            (line,) = notes.read_text().splitlines()
            assert [int(word) for word in line.split()] == [
                helpers._running[0][1].pid, helpers._running[0][1].starttime
            ]
            notes.write_text(f"{line}\n{other} {stranger.starttime - 1}\nnonsense\n{other} ")
            handover.close()
            clean_up(str(tmp_path), "vm")
            assert helpers.fault() is not None
        assert stranger.poll() is None
        stranger.send(signal.SIGKILL)
        stranger.wait(20)
    assert told == []
    assert not runtime.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes nobody")
def test_its_files_are_opened_with_the_accounts_rights(tmp_path: Path, log: int) -> None:
    """A link in a user's own directory could lead to any of root's."""
    (tmp_path / "roots").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("roots")
    plan = plan_of(tmp_path, ECHO, files=((5, str(tmp_path / "link"), False),))
    nobody = Account(uid=65534, gid=65534, name="nobody", groups=(65534,))
    plan = msgspec.structs.replace(plan, account=nobody)
    with pytest.raises(HostError) as caught, helped(plan, log, Handover(), print):
        raise AssertionError("it was opened")
    (problem,) = caught.value.problems
    assert (problem.where, problem.found) == (str(tmp_path / "link"), "Permission denied")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes nobody")
@pytest.mark.parametrize("kept", [True, False])
def test_the_account_and_its_groups(tmp_path: Path, log: int, *, kept: bool) -> None:
    code = HEAD + (
        "import resource\ns = socket.socket(fileno=3)\n"
        "files = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "s.send(f'{os.getresuid()} {os.getgroups()} {files[0] == files[1]}'.encode())\ns.recv(1)\n"
    )
    plan = plan_of(tmp_path, code, groups=kept)
    helper = msgspec.structs.replace(plan.helpers[0], argv=("/usr/bin/python3", "-c", code))
    account = Account(uid=65534, gid=65534, name="nobody", groups=(7, 65534))
    plan = msgspec.structs.replace(plan, helpers=(helper,), account=account)
    handover = Handover()
    with helped(plan, log, handover, print):
        groups = [7, 65534] if kept else []
        assert talk(handover, 200, b"").decode() == f"(65534, 65534, 65534) {groups} True"
        handover.close()


@pytest.mark.parametrize("with_qemu", [True, False])
def test_death_while_the_guest_runs(tmp_path: Path, log: int, *, with_qemu: bool) -> None:
    told: list[str] = []
    handover = Handover()
    pid = os.posix_spawn("/bin/sleep", ["sleep", "99"], {})
    with (
        QemuProcess.of_child(pid) as qemu,
        helped(plan_of(tmp_path, FAILS), log, handover, print) as helpers,
    ):
        if with_qemu:
            qemu.send(signal.SIGKILL)
        run(asyncio.wait_for(helpers.watch(qemu, told.append), 20))
        handover.close()
        qemu.send(signal.SIGKILL)
        assert qemu.wait(20) is not None
    name = Path(sys.executable).name
    assert told == ([] if with_qemu else [
        f"{name} for tpm ended (status 3); the guest runs on without tpm: a bad day"
    ])


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_what_another_account_had_becomes_the_machines(tmp_path: Path) -> None:
    """But no link's target, and nothing that was not that account's."""
    outside = tmp_path / "outside"
    outside.write_text("")
    state = tmp_path / "tpm2"
    (state / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (state / name).write_text("")
    (state / "link").symlink_to(outside)
    os.link(outside, state / "hard")
    (state / "roots").write_text("")
    for path in (state, state / "deep", state / "a", state / "deep/b", outside):
        os.chown(path, 65534, 65534)
    for _ in range(2):
        give_over(str(state), 61200, 61200)
    given = {p.name for p in (state, *state.rglob("*")) if p.lstat().st_uid == 61200}
    assert given == {"tpm2", "deep", "a", "b"}
    assert outside.stat().st_uid == 65534
    os.chown(state, 0, 0)
    give_over(str(state), 61201, 61201)  # root's own is not looked into
    assert (state / "a").stat().st_uid == 61200
    give_over(str(tmp_path / "none"), 61200, 61200)
