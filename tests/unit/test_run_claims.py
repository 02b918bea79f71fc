"""Who has a device, and what a running machine leaves for others to read."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.errors import HostError
from qlaunch.run.claims import CLAIMS, Owner, drop_claims, read_owner, sign_claims, take_claims
from qlaunch.run.info import (
    find_qemu,
    find_supervisor,
    info_of,
    is_alive,
    is_supervised,
    kill_qemu,
    machine_names,
    read_info,
    try_supervise,
    was_killed,
    write_info,
)
from qlaunch.run.locks import is_locked, try_lock
from qlaunch.values import PciAddress
from tests.fake.plans import host, planned
from tests.fake.races import child, contest, end

CARD, SOUND = PciAddress("0000:03:00.0"), PciAddress("0000:03:00.1")


def claim(base: Path, name: str, *devices: str) -> object:
    return take_claims(str(base), Owner(name, os.getpid(), time.time()), devices)


def test_a_device_has_one_owner_who_is_named(tmp_path: Path) -> None:
    with child(lambda: claim(tmp_path, "win7", CARD)):
        with pytest.raises(HostError) as caught:
            claim(tmp_path, "other", SOUND, CARD)
        (problem,) = caught.value.problems
        assert problem.message == f"{CARD} is in use by the machine win7"
        assert problem.hint == "qlaunch stop 'win7'"
        # all or none: what was taken before the refusal is free again
        assert not is_locked(str(tmp_path / CLAIMS / SOUND))
        assert [p.name for p in (tmp_path / CLAIMS).iterdir()] == [CARD]


def test_a_dead_owner_is_told_and_only_then(tmp_path: Path) -> None:
    with child(lambda: claim(tmp_path, "dead", CARD)) as pid:
        end(pid)
    path = str(tmp_path / CLAIMS / CARD)
    owner = read_owner(path)
    assert owner is not None
    assert owner.name == "dead"
    claims = take_claims(str(tmp_path), Owner("heir"), [CARD, SOUND])
    assert [c.left_by for c in claims] == ["dead", None]
    drop_claims(claims)  # not recovered: the dead one's name stays
    assert [p.name for p in (tmp_path / CLAIMS).iterdir()] == [CARD]
    claims = take_claims(str(tmp_path), Owner("heir"), [CARD, SOUND])
    assert [c.left_by for c in claims] == ["dead", None]
    claims = sign_claims(claims, Owner("heir"))
    heir = read_owner(path)
    assert heir is not None
    assert heir.name == "heir"
    drop_claims(claims, keep_files=True)
    (again,) = take_claims(str(tmp_path), Owner("heir"), [CARD])
    assert again.left_by is None  # one's own
    drop_claims([again])
    assert not Path(path).exists()


def test_one_of_many_gets_the_device(tmp_path: Path) -> None:
    def attempt(number: int) -> bool:
        claim(tmp_path, f"m{os.getpid()}", f"0000:{number + 16:02x}:00.0", CARD)
        return True

    assert contest(15, 6, attempt) == [1] * 15


@pytest.mark.parametrize("text", [b"", b"garbage", b"{}", b'{"name": 3}', b"\xff\0"])
def test_a_claim_that_says_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / CLAIMS).mkdir()
    path = tmp_path / CLAIMS / CARD
    path.write_bytes(text)
    assert read_owner(str(path)) is None
    (taken,) = take_claims(str(tmp_path), Owner("a"), [CARD])
    assert taken.left_by is None
    drop_claims([taken])
    assert read_owner(str(path)) is None


# -- run.json ---------------------------------------------------------------------------------


def test_info_is_written_whole_and_read_back(tmp_path: Path) -> None:
    plan = planned("[cpu]\ncores = 2\n[cpu.pin]\nvcpus = ['0', '1']\n", host())
    info = replace(
        info_of(plan, "/p.toml", 12.5, trusted=True), runtime_dir=str(tmp_path)
    )
    write_info(info)
    assert read_info(str(tmp_path)) == info
    assert (info.vcpus, info.memory, info.launcher) == (2, 2 << 30, os.getpid())
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600
    (tmp_path / "run.json").write_bytes(b'{"name": ')
    assert read_info(str(tmp_path)) is None
    assert read_info(str(tmp_path / "none")) is None


def test_machine_names(tmp_path: Path) -> None:
    for name in ("b", "a", ".claims"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a")
    assert machine_names(str(tmp_path)) == ["a", "b"]
    assert machine_names(str(tmp_path / "none")) == []


def qemu(runtime: Path, *words: str) -> subprocess.Popen[bytes]:
    """A process that looks like the machine's QEMU: it has the lock open, and says these words."""
    fd = os.open(runtime / "lock", os.O_RDONLY)
    program = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", *words]
    try:
        process = subprocess.Popen(program, pass_fds=[fd], stdout=subprocess.PIPE)
    finally:
        os.close(fd)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_qemu_is_who_has_the_lock_and_says_the_name(tmp_path: Path) -> None:
    runtime = tmp_path / "my vm"
    runtime.mkdir()
    where = str(runtime)
    assert (find_qemu(where), find_supervisor(where), is_alive(where)) == (None, None, False)
    with child(lambda: (try_lock(f"{where}/lock"), try_supervise(where))) as launcher:
        assert (is_alive(where), is_supervised(where)) == (True, True)
        assert (find_qemu(where), find_supervisor(where)) == (None, launcher)
        with (
            qemu(runtime, "-name", "guest=my vm,debug-threads=on") as ours,
            qemu(runtime, "-name", "guest=my vm2") as other,
            qemu(runtime, "-title", "guest=my vm") as third,
        ):
            try:
                assert find_qemu(where) == ours.pid
                end(launcher)
                assert (is_supervised(where), find_supervisor(where)) == (False, None)
                assert find_qemu(where) == ours.pid
                assert kill_qemu(where)
                assert ours.wait(30) == -signal.SIGKILL
                assert (find_qemu(where), kill_qemu(where)) == (None, False)
                assert was_killed(where, ours.pid)
                assert not was_killed(where, other.pid)
            finally:
                for process in (ours, other, third):
                    process.kill()
