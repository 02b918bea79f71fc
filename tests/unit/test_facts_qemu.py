"""Asking a QEMU binary: stand-ins that misbehave, the cache and its enemies, and the real one."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.facts import qemu_ask
from qlaunch.facts.model import Invoker
from qlaunch.facts.qemu import find_binary, read_qemu

QEMU = find_binary("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="no QEMU here")
SAYS = r"""#!/bin/sh
echo run >> "$0.runs"
case "$*" in
    *help*) printf 'Available display backend types:\nnone\ngtk\n\nMore: x\nsdl\n'; exit;;
esac
cat > /dev/null
cat << 'END'
{"QMP": {"version": {}}}
{"return": {}, "id": "hello"}
{"return": {"qemu": {"major": 9, "minor": 1, "micro": 2}}, "id": "version"}
{"return": [{"name": "pc-q35-9.1", "alias": "q35"}, {"name": "none"}], "id": "machines"}
{"return": "PCI:\r\nname \"a\", alias \"b\", desc \"x\"\r\nname \"c\", no-user\r\n", "id": "qdm"}
{"return": [{"name": "kvm-accel"}, {"name": "accel"}], "id": "accels"}
{"error": {"class": "DeviceNotFound"}, "id": "of igb"}
{"return": [{"name": "x-vga"}, {"name": "host"}], "id": "of vfio-pci"}
{"event": "SHUTDOWN", "data": {}}
{"return": {}, "id": "bye"}
END
"""


def stand_in(directory: Path, script: str) -> Path:
    directory.chmod(0o755)
    binary = directory / "qemu"
    binary.write_text(script)
    binary.chmod(0o755)
    return binary


def alive(pid: str) -> bool:
    """A zombie is not: who reaps an orphan, and when, is not ours to say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def runs(binary: Path) -> int:
    return len(Path(f"{binary}.runs").read_text().splitlines())


def test_what_it_says(tmp_path: Path) -> None:
    binary = stand_in(tmp_path, SAYS)
    found = read_qemu(str(binary), cache=tmp_path / "cache")
    assert found is not None
    assert found.path == str(binary)
    assert found.version == (9, 1, 2)
    assert found.machines == ("pc-q35-9.1", "q35")
    assert found.devices == ("a", "b")  # c may not be created by a user
    assert found.properties == {"vfio-pci": ("host", "x-vga")}
    assert found.displays == ("gtk", "none")
    assert found.accels == ("kvm",)


def test_asked_once(tmp_path: Path) -> None:
    binary = stand_in(tmp_path, SAYS)
    first = read_qemu(str(binary), cache=tmp_path / "cache")
    before = runs(binary)
    assert read_qemu(str(binary), cache=tmp_path / "cache") == first
    assert runs(binary) == before
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    later = binary.stat().st_mtime_ns + 1
    os.utime(binary, ns=(later, later))  # an upgrade
    read_qemu(str(binary), cache=tmp_path / "cache")
    assert runs(binary) == 2 * before


@pytest.mark.parametrize("spoil", ["garbage", "empty", "binary", "writable", "link"])
def test_a_cache_that_cannot_be_trusted_is_ignored(tmp_path: Path, spoil: str) -> None:
    binary = stand_in(tmp_path, SAYS)
    first = read_qemu(str(binary), cache=tmp_path / "cache")
    before = runs(binary)
    (file,) = (tmp_path / "cache").iterdir()
    if spoil == "writable":
        file.chmod(0o622)
    elif spoil == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_bytes({"garbage": b"{", "empty": b"", "binary": b"\xff\xfe"}[spoil])
    assert read_qemu(str(binary), cache=tmp_path / "cache") == first
    assert runs(binary) == 2 * before
    assert not list((tmp_path / "cache").glob(".*"))  # no drafts left


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_foreign_cache_is_ignored(tmp_path: Path) -> None:
    binary = stand_in(tmp_path, SAYS)
    read_qemu(str(binary), cache=tmp_path / "cache")
    before = runs(binary)
    (file,) = (tmp_path / "cache").iterdir()
    os.chown(file, 12345, 12345)
    read_qemu(str(binary), cache=tmp_path / "cache")
    assert runs(binary) == 2 * before


def test_no_cache_is_no_matter(tmp_path: Path) -> None:
    binary = stand_in(tmp_path, SAYS)
    (tmp_path / "file").touch()
    assert read_qemu(str(binary), cache=tmp_path / "file/cache") is not None


def test_a_missing_binary_is_none(tmp_path: Path) -> None:
    assert read_qemu(str(tmp_path / "none")) is None
    assert read_qemu("qemu-that-is-not-there") is None
    (tmp_path / "plain").touch(mode=0o644)
    assert read_qemu(str(tmp_path / "plain")) is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo early >&2; echo 'lib.so: not found' >&2; exit 127", "lib.so: not found"),
        ("kill -SEGV $$", "killed by signal 11"),
        ("echo I am a shell", "I am a shell"),
        ("exit 0", "exit code 0"),
        ("""echo '{"return": {}, "id": "bye"}'""", "an answer of another shape"),
        ("""echo '{"return": 1, "id": "version"}'; echo '{"return": {}, "id": "bye"}'""",
         "another shape"),
    ],
)
def test_a_broken_binary_is_told_with_its_last_words(
    tmp_path: Path, script: str, said: str
) -> None:
    binary = stand_in(tmp_path, f"#!/bin/sh\n{script}\n")
    with pytest.raises(HostError) as caught:
        read_qemu(str(binary), cache=tmp_path / "cache")
    (problem,) = caught.value.problems
    assert said in problem.found
    assert str(binary) in problem.message
    assert not (tmp_path / "cache").exists()


def test_a_hanging_binary_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_ask, "DEADLINE", 0.2)
    script = '#!/bin/sh\necho waiting >&2\nsleep 60 & echo $$ $! >> "$0.pids"; wait\n'
    binary = stand_in(tmp_path, script)
    started = time.monotonic()
    with pytest.raises(HostError, match="no answer within") as caught:
        read_qemu(str(binary), cache=tmp_path / "cache")
    assert caught.value.problems[0].found == "waiting"
    assert time.monotonic() - started < 5
    pids = Path(f"{binary}.pids").read_text().split()
    assert len(pids) == 6  # the three runs and what they had started
    while time.monotonic() - started < 5 and any(alive(pid) for pid in pids):
        time.sleep(0.01)
    assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
def test_root_lets_the_account_run_it() -> None:
    account = Invoker(root=True, uid=12345, gid=12346, name="x", groups=(12346, 27))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        binary = stand_in(directory, "#!/bin/sh\nid -u -r >&2; id -G >&2; exit 1\n")
        before = os.getgroups()
        os.setgroups([27, 28])
        try:
            with pytest.raises(HostError) as caught:
                read_qemu(str(binary), account=account, cache=directory / "cache")
        finally:
            os.setgroups(before)
        assert caught.value.problems[0].found == "12346"  # no group of root's, nor any other
        with pytest.raises(HostError) as caught:
            read_qemu(str(binary), cache=directory / "cache")
        assert caught.value.problems[0].found != "12346"


def test_a_directory_on_path_that_cannot_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root, whom no mode stops, one whose name no file system takes."""
    binary = stand_in(tmp_path, SAYS)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    monkeypatch.setenv("PATH", f"{closed}:/{'x' * 300}:{tmp_path}")
    assert find_binary("qemu") == str(binary)
    assert find_binary(f"/{'x' * 300}/qemu") is None


@pytest.mark.qemu
@needs_qemu
def test_the_real_one(tmp_path: Path) -> None:
    found = read_qemu("qemu-system-x86_64", cache=tmp_path / "cache")
    assert found is not None
    assert found.version >= (6, 2, 0)
    assert {"q35", "pc"} <= set(found.machines)
    assert found.has("vfio-pci", "x-vga")
    assert not found.has("vfio-pci", "x-vgaa")
    assert found.has("ioh3420")
    assert found.has("ahci")  # an alias
    assert not found.has("mch")  # q35's own, not for users
    assert "tcg" in found.accels
    assert {"none", "vnc"} <= set(found.displays)
    started = time.perf_counter()
    assert read_qemu("qemu-system-x86_64", cache=tmp_path / "cache") == found
    assert time.perf_counter() - started < 0.05
