"""What belongs to whom when launchers die: names, claims, undos, files; and who is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qlaunch.children import ENDING
from qlaunch.cli import ps as ps_verb
from qlaunch.cli import recover as recover_verb
from qlaunch.cli import stop as stop_verb
from qlaunch.cli.detach import detached as run_detached
from qlaunch.errors import EXIT_FAILED, EXIT_NOT_RESTORED, HostError, NotRestoredError, Problem
from qlaunch.host.handler import Host
from qlaunch.plan.steps import LoadModule, TakeDevice
from qlaunch.run import live, prepare
from qlaunch.run.claims import Owner, drop_claims, read_owner, sign_claims, take_claims
from qlaunch.run.cleanup import clean_up
from qlaunch.run.engine import Engine
from qlaunch.run.info import (
    LOCK,
    find_qemu,
    find_supervisor,
    kill_qemu,
    try_supervise,
)
from qlaunch.run.journal import Stage, create_journal, make_header
from qlaunch.run.locks import HOST_LOCK, is_locked, try_lock
from qlaunch.run.recover import recover_dead
from qlaunch.run.session import Session
from qlaunch.run.story import Story
from qlaunch.run.verdict import tell_end
from qlaunch.values import CpuSet, PciAddress, PciId
from qlaunch.vm.pin import Pinned
from tests.fake.loop import run
from tests.fake.scripted import MemoryLog, Scripted

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
DEVICE = "0000:01:00.0"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "win7"
    path.mkdir()
    return path


# -- who is QEMU, who is the launcher


def test_a_launcher_between_its_two_locks_is_no_qemu(runtime: Path) -> None:
    lock = try_lock(f"{runtime}/{LOCK}")
    assert lock is not None
    assert find_qemu(str(runtime)) is None
    assert not kill_qemu(str(runtime))
    os.close(lock)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("-name", "guest=win7,debug-threads=on"), True),
        (("-name", "guest=win77"), False),
        (("recover", "win7"), False),
    ],
)
def test_qemu_holds_the_lock_and_says_the_name(
    runtime: Path, words: tuple[str, ...], *, found: bool
) -> None:
    lock = try_lock(f"{runtime}/{LOCK}")
    assert lock is not None
    argv = [sys.executable, "-c", "import time; time.sleep(60)", *words]
    with subprocess.Popen(argv, pass_fds=[lock]) as child:
        try:
            time.sleep(0.1)  # until it is the program
            assert (find_qemu(str(runtime)) == child.pid) is found
            assert kill_qemu(str(runtime)) is found
        finally:
            child.kill()
    os.close(lock)


def test_the_supervisor_is_whoever_holds_the_lock(runtime: Path) -> None:
    assert find_supervisor(str(runtime)) is None
    fd = try_supervise(str(runtime))
    assert fd is not None
    assert find_supervisor(str(runtime)) == os.getpid()
    assert try_supervise(str(runtime)) is None
    os.close(fd)
    assert find_supervisor(str(runtime)) is None  # the number in the file is stale


def test_a_dead_launchers_child_is_no_supervisor(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was just forked, and lets go of all it was given in a moment."""
    monkeypatch.setattr("qlaunch.run.info.LOOKING", 60.0)
    asked = runtime / "asked"
    launcher = os.fork()
    if launcher == 0:
        try:
            if try_supervise(str(runtime)) is not None and os.fork() == 0:
                wait_for(asked)
        finally:
            os._exit(0)
    os.waitpid(launcher, 0)
    assert is_locked(f"{runtime}/supervisor")
    looked = find_supervisor

    def look(path: str) -> int | None:
        asked.touch()
        return looked(path)

    monkeypatch.setattr("qlaunch.run.info.find_supervisor", look)
    fd = try_supervise(str(runtime))
    assert fd is not None
    os.close(fd)


def test_a_look_at_a_lock_does_not_refuse_it_to_others(runtime: Path) -> None:
    path = f"{runtime}/{LOCK}"
    looker = subprocess.Popen([
        sys.executable, "-c",
        f"from qlaunch.run.locks import is_locked\nwhile True: is_locked({path!r})",
    ])
    try:
        time.sleep(0.3)
        for _ in range(200):
            fd = try_lock(path)
            assert fd is not None
            os.close(fd)
    finally:
        looker.kill()
        looker.wait()


def test_left_overs_are_recovered_with_both_locks_held(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runtime / "journal").touch()
    held = []

    def recover_dead(*_: object) -> None:
        held.append((find_supervisor(str(runtime)), is_locked(f"{runtime}/{LOCK}")))
        (runtime / "journal").unlink()

    monkeypatch.setattr("qlaunch.run.recover.recover_dead", recover_dead)
    with ExitStack() as stack:
        prepare.claim_name(str(tmp_path), "win7", stack, Story(quiet=True), Host())
    assert held == [(os.getpid(), True)]
    assert not runtime.exists()


# -- whose device


def test_a_claim_names_its_dead_owner_until_it_is_signed(tmp_path: Path) -> None:
    drop_claims(take_claims(str(tmp_path), Owner("dead"), [DEVICE]), keep_files=True)
    claims = take_claims(str(tmp_path), Owner("new"), [DEVICE])
    assert [c.left_by for c in claims] == ["dead"]
    assert read_owner(claims[0].path) == Owner("dead")
    drop_claims(claims)  # the recovery failed
    assert read_owner(claims[0].path) == Owner("dead")
    claims = sign_claims(take_claims(str(tmp_path), Owner("new"), [DEVICE]), Owner("new"))
    assert read_owner(claims[0].path) == Owner("new")
    drop_claims(claims)
    assert not Path(claims[0].path).exists()


def test_a_failed_recovery_leaves_the_claim_to_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_claims(take_claims(str(tmp_path), Owner("dead"), [DEVICE]), keep_files=True)

    def fail(*_: object, **__: object) -> None:
        raise NotRestoredError("stuck")

    step = TakeDevice(address=PciAddress(DEVICE), id=PciId("1234:1111"))
    claim = SimpleNamespace(kind="claim", of=step.address)
    plan: Any = SimpleNamespace(name="new", steps=(step,), fds=(claim,))
    claims: Any = []
    with monkeypatch.context() as patch, pytest.raises(NotRestoredError):
        patch.setattr("qlaunch.run.recover.recover_dead", fail)
        prepare.claim_devices(
            str(tmp_path), plan, claims, Story(quiet=True), Host(), lambda _: plan
        )
    path = claims[0].path
    drop_claims(claims)
    assert read_owner(path) == Owner("dead")
    claims.clear()
    prepare.claim_devices(
        str(tmp_path), plan, claims, Story(quiet=True), Host(), lambda _: plan
    )
    owner = read_owner(path)
    assert owner is not None
    assert owner.name == "new"
    drop_claims(claims)


def test_a_dead_machine_is_recovered_by_one_at_a_time(tmp_path: Path, runtime: Path) -> None:
    (runtime / "journal").touch()
    fd = try_supervise(str(runtime))
    assert fd is not None
    with pytest.raises(HostError, match="still runs"):
        recover_dead(str(tmp_path), "win7", Story(quiet=True).say, Host(), only_if_dead=True)
    os.close(fd)
    assert not is_locked(f"{runtime}/{LOCK}")


def test_a_recovery_that_does_not_get_its_turn_says_that_nothing_is_back(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlaunch.run.locks.HOST_WAIT", 0.1)
    monkeypatch.setattr("qlaunch.run.locks.UNDO_WAIT", 0.1)
    create_journal(runtime, make_header(Host(), "win7")).close()
    lock = try_lock(f"{tmp_path}/{HOST_LOCK}")
    assert lock is not None
    with pytest.raises(NotRestoredError) as told:
        recover_dead(str(tmp_path), "win7", Story(quiet=True).say, Host())
    assert told.value.exit_code == EXIT_NOT_RESTORED
    assert (runtime / "journal").exists()
    os.close(lock)
    recover_dead(str(tmp_path), "win7", Story(quiet=True).say, Host())
    assert not (runtime / "journal").exists()


# -- one undo


class Hung(Scripted):
    """Counts its undos."""

    undos = 0

    def undo(self, host: Host, step: LoadModule, captured: dict[str, Any]) -> str | None:
        """As Scripted, counted."""
        self.undos += 1
        return super().undo(host, step, captured)


def test_what_a_failed_apply_could_not_undo_is_not_touched_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hung = Hung(2, {1: {"half": HostError("no"), "undo": HostError("it hangs")}})
    loaded: Any = SimpleNamespace(trusted=False, sources=())
    profile = SimpleNamespace(hooks=SimpleNamespace(after=()))
    plan: Any = SimpleNamespace(name="win7", runtime_dir=str(tmp_path), profile=profile,
                                account=None)
    session = Session(loaded, lambda _: plan, Story(), base=str(tmp_path))
    session.engine = Engine(Host(), MemoryLog(), {LoadModule: hung})
    with pytest.raises(NotRestoredError) as raised:
        session.engine.apply(hung.steps())
    assert hung.undos == 2
    hung.faults = {}  # a second undo would succeed
    outcome = session._give_back(plan, stuck=False)
    assert hung.undos == 2
    assert outcome.sentences == ("0 is back",)
    assert len(outcome.left) == 1
    with pytest.raises(NotRestoredError) as told:
        tell_end("win7", None, raised.value, outcome, Story(quiet=True))
    messages = [p.message for p in told.value.problems]
    assert len(messages) == len(set(messages)) == 3
    assert told.value.exit_code == EXIT_NOT_RESTORED
    capsys.readouterr()


def test_the_exit_code_follows_the_outcome() -> None:
    """Another machine's left-overs are not ours to name."""
    failure = NotRestoredError(Problem("0000:01:00.0 hangs", hint="qlaunch recover 'dead'"))
    with pytest.raises(NotRestoredError) as told:
        tell_end("win7", None, failure, _nothing_left(), Story(quiet=True))
    assert told.value.problems == failure.problems


def _nothing_left() -> Any:
    from qlaunch.run.engine import Outcome

    return Outcome()


# -- files


def test_every_socket_of_ours_goes(tmp_path: Path, runtime: Path) -> None:
    for name in ("control.sock", "serial0.sock", "swtpm.sock", "console"):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(runtime / name))
    for name in (LOCK, "supervisor", "run.json", "run.json.new"):
        (runtime / name).touch()
    assert clean_up(str(tmp_path), "win7") == []
    assert not runtime.exists()


def test_a_strangers_file_is_named(tmp_path: Path, runtime: Path) -> None:
    (runtime / "notes.txt").touch()
    assert clean_up(str(tmp_path), "win7") == ["notes.txt"]
    assert (runtime / "notes.txt").exists()


# -- the verbs


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


@pytest.mark.parametrize(
    ("how", "text", "number"),
    [
        ("ask", "asked to stop", signal.SIGTERM),
        ("now", "without the guest", signal.SIGUSR1),
        ("kill", "no QEMU runs", signal.SIGTERM),
    ],
)
def test_what_stop_sends_the_launcher(
    how: Any, text: str, number: int, sleeper: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch, runtime: Path,
) -> None:
    monkeypatch.setattr(stop_verb, "find_supervisor", lambda _: sleeper.pid)
    told = stop_verb._ask(str(runtime), "win7", how)
    assert text in told
    assert "killed" not in told
    assert sleeper.wait(10) == -number


@pytest.mark.parametrize(
    ("stages", "others", "state"),
    [
        ((), False, "starting"), (("5",), False, "starting"), (("5", "7"), False, "starting"),
        (("5", "7", "9"), False, "giving back"), (("5", "10"), False, "giving back"),
        (("5",), True, "giving back"),
    ],
)
def test_a_launcher_without_a_qemu(
    stages: tuple[str, ...], others: bool, state: str, tmp_path: Path, runtime: Path,
    monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes],
) -> None:
    """It starts, or gives back: what it had itself, or what another has left. Then a plain `stop`
    waits, and --now is passed on."""
    launcher = sleeper.pid if others else os.getpid()
    monkeypatch.setattr(ps_verb, "is_alive", lambda _: True)
    monkeypatch.setattr(ps_verb, "is_supervised", lambda _: True)
    monkeypatch.setattr(ps_verb, "find_supervisor", lambda _: launcher)
    monkeypatch.setattr(stop_verb, "find_supervisor", lambda _: launcher)
    assert ps_verb.machine(str(tmp_path), "win7").state == "starting"
    journal = create_journal(runtime, make_header(Host(), "win7"))
    for stage in stages:
        journal.write(Stage(stage=stage))
    journal.close()
    assert ps_verb.machine(str(tmp_path), "win7").state == state
    sent: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr("os.kill", lambda pid, number: sent.append(number))
        stop_verb._ask(str(runtime), "win7", "ask")
        assert sent == ([signal.SIGTERM] if state == "starting" else [])
        stop_verb._ask(str(runtime), "win7", "now")
        assert sent[-1] == signal.SIGUSR1


def test_recover_all_gives_back_first_and_watches_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"

    def recover(base: str, name: str, say: Callable[[str], None], **_: object) -> int:
        if name.startswith("live"):
            deadline = time.monotonic() + 20
            (tmp_path / name).touch()  # each waits for the other: one by one would not end
            while len(list(tmp_path.glob("live*"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            if time.monotonic() > deadline:
                return 9
        with done.open("a") as file:
            file.write(f"{name}\n")
        return EXIT_FAILED if name == "live1" else 0

    monkeypatch.setattr(recover_verb, "runtime_base", lambda: str(tmp_path))
    monkeypatch.setattr(recover_verb, "machine_names", lambda _: ["live1", "live2", "zombie"])
    monkeypatch.setattr(recover_verb, "is_supervised", lambda _: False)
    monkeypatch.setattr(recover_verb, "is_alive", lambda path: "live" in path)
    monkeypatch.setattr(recover_verb, "recover", recover)
    before = {n: signal.getsignal(n) for n in ENDING}
    arguments: Any = SimpleNamespace(all=True, name=None, detach=False)
    try:
        assert recover_verb.run(arguments) == EXIT_FAILED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    lines = done.read_text().split()
    assert lines[0] == "zombie"
    assert sorted(lines[1:]) == ["live1", "live2"]


DETACHED = """\
import signal, sys, time
from pathlib import Path
from qlaunch.cli.detach import detached

def session(running):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0) if Path(mark).exists() else stop())
    Path(began).touch()
    time.sleep(float(seconds))
    running()
    time.sleep(0.2)
    Path(mark).write_text("ran on")
    return 0

def stop():
    from qlaunch.errors import UsageError
    raise UsageError("stopped")

began, mark, seconds = sys.argv[1:]
sys.exit(detached("win7", session))
"""


def detached(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    words = [str(tmp_path / "began"), str(tmp_path / "mark"), str(seconds)]
    process = subprocess.Popen(
        [sys.executable, "-c", DETACHED, *words], stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "began")
    return process


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_a_detached_start_outlives_who_waits_for_it(tmp_path: Path) -> None:
    with detached(tmp_path, 0.5) as parent:
        parent.kill()
        assert parent.stderr is not None
        parent.stderr.close()  # the terminal too
    wait_for(tmp_path / "mark")


def test_ctrl_c_while_waiting_stops_the_start(tmp_path: Path) -> None:
    with detached(tmp_path, 30) as parent:
        parent.send_signal(signal.SIGINT)
        assert parent.stderr is not None
        said = parent.stderr.read()
        assert parent.wait(20) == 2
    assert "error: stopped" in said
    assert not (tmp_path / "mark").exists()


def test_ctrl_c_before_it_waits_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that comes while the child is made is for the child."""
    fork, ours = os.fork, threading.get_ident()

    def interrupted() -> int:
        pid = fork()
        if pid:
            signal.pthread_kill(ours, signal.SIGINT)  # other threads of the tests take it, too
        return pid

    def session(running: Callable[[], None]) -> int:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        time.sleep(60)
        return 0

    monkeypatch.setattr(os, "fork", interrupted)
    code = run_detached("win7", session)
    assert code in (1, 7)  # or the default's, before there was a handler
    assert "win7: stopping" in capfd.readouterr().err


# -- pins


def test_a_thread_that_was_moved_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PINS_AGAIN", 0.0)
    told: list[str] = []
    here = Pinned(os.getpid(), "vcpu 0", CpuSet((4095,)), CpuSet((4095,)))
    run(live._verify([here], told.append))
    assert len(told) == 1
    assert told[0].startswith("warning: ")
    assert "vcpu 0" in told[0]
