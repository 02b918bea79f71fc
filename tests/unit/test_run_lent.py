"""What QEMU has inherited, in the hands of a QEMU that is its user's own program: it may unlock
and close its locks and say nothing, and gains nothing by it. Nor by files that it has written."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import pytest
from msgspec.structs import replace

from qlaunch.codec import to_json
from qlaunch.errors import EXIT_NOT_RESTORED, HostError, NotRestoredError
from qlaunch.host.handler import Host
from qlaunch.plan.inherited import PlannedFd
from qlaunch.plan.model import Account
from qlaunch.plan.paths import sockets_of
from qlaunch.run.claims import BY_HAND, CLAIMS, Owner, drop_claims, read_owner, take_claims
from qlaunch.run.cleanup import clean_up, end_helpers
from qlaunch.run.handover import opened
from qlaunch.run.info import (
    LOCK,
    find_qemu,
    has_qemu,
    info_of,
    is_alive,
    kill_qemu,
    machine_names,
    read_info,
    write_info,
)
from qlaunch.run.journal import create_journal, make_header
from qlaunch.run.locks import ForeignFileError, is_locked, open_own, try_lock, write_locked
from qlaunch.run.noted import QEMU, note_qemu
from qlaunch.run.prepare import claim_name
from qlaunch.run.recover import recover, recover_dead
from qlaunch.run.story import Story
from qlaunch.vm.process import QemuProcess
from tests.fake.plans import host, planned

DEVICE = "0000:01:00.0"
# Unlocks what it was given and says so; "closed": and lets go of it.
FREES = (
    "import fcntl, os, sys, time\nfd, how = int(sys.argv[1]), sys.argv[2]\n"
    "fcntl.flock(fd, fcntl.LOCK_UN)\nif how == 'closed': os.close(fd)\n"
    "print(flush=True)\ntime.sleep(600)"
)


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Who waits for a FIFO's other end waits for ever."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "win7"
    path.mkdir()
    return path


@contextmanager
def unlocked(runtime: Path, how: str) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU that has freed its lock, and whose launcher is gone: noted by it ("noted" and
    "closed"), or only to be found by its open file and its name ("named")."""
    lock = try_lock(f"{runtime}/{LOCK}")
    assert lock is not None
    words = ["-name", "guest=win7"] if how == "named" else []
    argv = [sys.executable, "-c", FREES, str(lock), how, *words]
    with subprocess.Popen(argv, pass_fds=[lock], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            if how != "named":
                with QemuProcess.of_child(process.pid) as held:
                    note_qemu(str(runtime), held.pid, held.starttime)
            os.close(lock)
            assert not is_locked(f"{runtime}/{LOCK}")
            yield process
        finally:
            process.kill()


HOW = pytest.mark.parametrize("how", ["named", "noted", "closed"])


# -- locks that their heirs can free


@HOW
def test_a_machine_that_runs_lives_whatever_its_lock_says(
    tmp_path: Path, runtime: Path, how: str
) -> None:
    create_journal(runtime, make_header(Host(), "win7")).close()
    drop_claims(take_claims(str(tmp_path), Owner("win7"), [DEVICE]), keep_files=True)
    said: list[str] = []
    with unlocked(runtime, how) as process:
        assert is_alive(str(runtime))
        assert find_qemu(str(runtime)) == process.pid
        with pytest.raises(HostError, match="win7 is running"), ExitStack() as stack:
            claim_name(str(tmp_path), "win7", stack, Story(quiet=True), Host())
        with pytest.raises(HostError, match="in use by the machine win7"):
            take_claims(str(tmp_path), Owner("other"), [DEVICE])
        with pytest.raises(HostError, match="win7 still runs"):
            recover_dead(str(tmp_path), "win7", said.append, Host(), only_if_dead=True)
        assert (runtime / "journal").exists()
        assert kill_qemu(str(runtime))
        assert process.wait(30) == -signal.SIGKILL
        assert not has_qemu(str(runtime))
    recover_dead(str(tmp_path), "win7", said.append, Host(), only_if_dead=True)
    assert not runtime.exists()
    assert list((tmp_path / CLAIMS).iterdir()) == []


def test_recover_leaves_a_qemu_that_does_not_end_its_devices(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_journal(runtime, make_header(Host(), "win7")).close()
    monkeypatch.setattr("qlaunch.run.recover._watch_again", lambda *_: 0)
    with unlocked(runtime, "closed"), pytest.raises(NotRestoredError, match="could not be ended"):
        recover(str(tmp_path), "win7", lambda _: None)
    assert (runtime / "journal").exists()


def test_one_that_has_ended_is_none(runtime: Path) -> None:
    """Also while nobody has asked how it ended, and when its number is another's."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    with QemuProcess.of_child(pid) as held:
        note_qemu(str(runtime), pid, held.starttime)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not has_qemu(str(runtime))
        os.waitpid(pid, 0)
    assert not has_qemu(str(runtime))
    with QemuProcess.of_child(os.getpid()) as held:
        note_qemu(str(runtime), os.getpid(), held.starttime)
        assert find_qemu(str(runtime)) == os.getpid()
        note_qemu(str(runtime), os.getpid(), held.starttime + 1)
        assert not has_qemu(str(runtime))
    for text in ("", "nonsense", "1", "-1 2", f"{2**70} 3"):
        (runtime / QEMU).write_text(text)
        assert not has_qemu(str(runtime))


# -- files that their heirs could write


def test_what_is_lent_can_only_be_read(tmp_path: Path, runtime: Path) -> None:
    lock = try_lock(f"{runtime}/{LOCK}")
    assert lock is not None
    claims = take_claims(str(tmp_path), Owner("win7"), [DEVICE])
    fds = (PlannedFd(number=100, kind="lock"), PlannedFd(number=101, kind="claim", of=DEVICE))
    plan = replace(planned("", host()), runtime_dir=str(runtime), nics=(), fds=fds)
    with opened(plan, lock, claims) as handover:
        assert set(handover.fds) == {100, 101}
        for fd in handover.fds.values():
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.pwrite(fd, b'{"name":"../evil"}', 0)
    drop_claims(claims)
    os.close(lock)


def test_what_a_locked_file_says_is_written_beside_the_lock(runtime: Path) -> None:
    path = f"{runtime}/{LOCK}"
    fd = try_lock(path)
    assert fd is not None
    write_locked(fd, path, b"a longer text")
    write_locked(fd, path, b"text")
    assert os.pread(fd, 99, 0) == b"text"
    Path(path).unlink()
    Path(path).touch()
    with pytest.raises(OSError, match="replaced"):
        write_locked(fd, path, b"not here")
    assert Path(path).read_bytes() == b""
    os.close(fd)


@pytest.mark.parametrize("name", ["../evil", "..", ".", "", "/tmp/evil", "a/b", ".claims", "a\0b"])
def test_an_owner_that_no_machine_can_be_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / CLAIMS).mkdir()
    path = tmp_path / CLAIMS / DEVICE
    path.write_bytes(to_json(Owner(name)))
    assert read_owner(str(path)) is None
    (taken,) = take_claims(str(tmp_path), Owner("win7"), [DEVICE])
    assert taken.left_by is None
    assert read_owner(str(path)) == Owner("win7")
    drop_claims([taken])


def test_who_binds_by_hand_is_no_machine_to_stop(tmp_path: Path) -> None:
    held = take_claims(str(tmp_path), Owner(BY_HAND), [DEVICE])
    with pytest.raises(HostError, match="by hand") as caught:
        take_claims(str(tmp_path), Owner("win7"), [DEVICE])
    assert "stop" not in caught.value.problems[0].hint
    drop_claims(held)


def test_a_directory_that_no_machine_can_have_is_none(tmp_path: Path) -> None:
    for name in ("win7", "-x", " y", "a\nb", "ü"):
        (tmp_path / name).mkdir()
    assert machine_names(str(tmp_path)) == ["win7"]


# -- whose files are believed

KINDS = pytest.mark.parametrize(
    "kind", ["fifo", "directory", "link", "dangling", "open", "foreign"]
)


def put(path: Path, kind: str, text: bytes = b"") -> None:
    """Something that is not a plain file that only we could write."""
    if kind == "foreign" and os.geteuid() != 0:
        pytest.skip("gives files to another user")
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "directory":
        path.mkdir()
    elif kind in ("link", "dangling"):
        target = path.with_name("elsewhere")
        path.symlink_to(target)
        if kind == "link":
            target.write_bytes(text)
    else:
        path.write_bytes(text)
        path.chmod(0o666 if kind == "open" else 0o600)
        if kind == "foreign":
            os.chown(path, 12345, 12345)


@KINDS
def test_only_a_plain_file_of_ours_is_opened(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "x", kind)
    with pytest.raises(OSError) as caught:
        open_own(str(tmp_path / "x"))
    assert isinstance(caught.value, ForeignFileError) is (kind not in ("link", "dangling"))


@KINDS
def test_a_journal_that_is_not_ours_is_for_a_person_to_look_at(
    tmp_path: Path, runtime: Path, kind: str
) -> None:
    """Nobody knows what is left: exit 3, with the way on; and nothing of the directory is touched,
    no process either."""
    put(runtime / "journal", kind)
    helper = os.posix_spawn("/bin/sleep", ["sleep", "99"], {})
    with QemuProcess.of_child(helper) as held:
        (runtime / "helpers").write_text(f"{helper} {held.starttime}\n")
        (runtime / "helpers").chmod(0o600)
        for only_if_dead in (True, False):
            with pytest.raises(NotRestoredError) as caught:
                recover_dead(str(tmp_path), "win7", print, Host(), only_if_dead=only_if_dead)
            (problem,) = caught.value.problems
            assert caught.value.exit_code == EXIT_NOT_RESTORED
            assert "nothing is undone" in problem.message
            assert f"rm -r '{runtime}/journal'" in problem.hint
        with pytest.raises(NotRestoredError):
            recover(str(tmp_path), "win7", print)
        assert held.poll() is None
        held.send(signal.SIGKILL)
        held.wait(20)
    assert (runtime / "helpers").exists()
    assert os.path.lexists(runtime / "journal")


@KINDS
def test_notes_that_others_could_have_written_end_nobody(runtime: Path, kind: str) -> None:
    helper = os.posix_spawn("/bin/sleep", ["sleep", "99"], {})
    with QemuProcess.of_child(helper) as held:
        put(runtime / "helpers", kind, f"{helper} {held.starttime}\n".encode())
        end_helpers(str(runtime))
        assert held.poll() is None
        if kind in ("open", "link"):  # and it is the file that kept us from it
            good = runtime / "elsewhere" if kind == "link" else runtime / "helpers"
            good.chmod(0o600)
            good.replace(runtime / "helpers")
            runtime.chmod(0o777)
            end_helpers(str(runtime))
            assert held.poll() is None
            runtime.chmod(0o700)
            end_helpers(str(runtime))
            assert held.wait(20) is not None
        held.send(signal.SIGKILL)
        held.wait(20)


@KINDS
def test_a_machines_info_that_others_could_have_written_is_none(runtime: Path, kind: str) -> None:
    info = replace(info_of(planned("", host()), "/p.toml", 1.0, trusted=True),
                   runtime_dir=str(runtime))
    write_info(info)
    assert read_info(str(runtime)) == info
    text = (runtime / "run.json").read_bytes()
    (runtime / "run.json").unlink()
    put(runtime / "run.json", kind, text)
    assert read_info(str(runtime)) is None


# -- what is removed


@pytest.mark.parametrize("where", ["/./../{}", "/.by-uid/{uid}/win7/../../../{}", "/.{}", "right"])
def test_sockets_are_removed_where_they_can_be_and_nowhere_else(
    tmp_path: Path, where: str
) -> None:
    base = tmp_path / "run"
    runtime = base / "win7"
    runtime.mkdir(parents=True)
    account = Account(uid=os.geteuid(), gid=os.getegid(), name="x", groups=(os.getegid(),))
    right = sockets_of(str(base), account.uid, "win7")
    Path(right).mkdir(parents=True)
    for full in (tmp_path / "precious", base / ".precious", Path(right)):
        full.mkdir(exist_ok=True)
        (full / "file").touch()
    place = right if where == "right" else str(base) + where.format("precious", uid=account.uid)
    info = info_of(planned("", host()), "/p.toml", 1.0, trusted=True)
    write_info(replace(info, runtime_dir=str(runtime), socket_dir=place, account=account))
    assert clean_up(str(base), "win7") == []
    assert not runtime.exists()
    assert (tmp_path / "precious/file").exists()
    assert (base / ".precious/file").exists()
    assert Path(right).exists() is (where != "right")


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that others may pass through: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-lent-") as name:
        Path(name).chmod(0o711)
        yield Path(name)
        subprocess.run(["rm", "-rf", name], check=True)  # rmtree does not go that deep
        Path(name).mkdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("trick", ["link", "inside", "deep"])
def test_sockets_are_removed_as_their_user(reachable: Path, trick: str) -> None:
    uid = 12345
    base, precious = reachable / "run", reachable / "precious"
    runtime = base / "win7"
    runtime.mkdir(parents=True)
    precious.mkdir()
    (precious / "file").touch()
    sockets = Path(sockets_of(str(base), uid, "win7"))
    sockets.parent.mkdir(parents=True)
    if trick == "link":
        sockets.symlink_to(precious)
    else:
        sockets.mkdir()
        (sockets / "link").symlink_to(precious)
    if trick == "deep":
        here = os.open(sockets, os.O_RDONLY)
        for _ in range(2 * sys.getrecursionlimit()):
            os.mkdir("d", dir_fd=here)
            os.chown("d", uid, uid, dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    for path in (sockets.parent, sockets):
        os.chown(path, uid, uid, follow_symlinks=False)
    info = info_of(planned("", host()), "/p.toml", 1.0, trusted=True)
    account = Account(uid=uid, gid=uid, name="x", groups=(uid,))
    write_info(replace(info, runtime_dir=str(runtime), socket_dir=str(sockets), account=account))
    assert clean_up(str(base), "win7") == []
    assert os.geteuid() == 0
    assert (precious / "file").exists()
    assert not runtime.exists()
    assert os.path.lexists(sockets) is (trick != "inside")
