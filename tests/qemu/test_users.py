"""Who runs a machine: an ordinary user, root for a user who asked through sudo, root for itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.users import UID, Stage

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users"),
    pytest.mark.skipif(
        not shutil.which("setpriv")
        or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
        reason="needs mount namespaces",
    ),
]
TOP = Path(__file__).parents[2]
MACHINE = """\
name = "vm"
[machine]
memory = "64M"
accel = "tcg"
fw_cfg = { "opt/org.qlaunch/name" = "vm", "opt/org.qlaunch/seconds" = "SECONDS" }
[[disk]]
file = "disk.img"
boot = 0
[[net]]
user = {}
[[serial]]
type = "file"
file = "serial.log"
[stop]
timeout = "1s"
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Below /tmp, where a user can reach it: pytest's own directories are root's alone."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-user-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        made = Stage(directory)
        image = (TOP / "qlaunch/data/bootsector.bin").read_bytes().ljust(1 << 20, b"\0")
        made.write("disk.img", image)
        made.write("vm.toml", MACHINE.replace("SECONDS", "1"))
        made.write("long.toml", MACHINE.replace("SECONDS", "0").replace('"vm"', '"long"'))
        yield made


def owners(directory: Path) -> dict[str, tuple[int, str]]:
    """Every path below, with its owner and mode."""
    return {
        str(p.relative_to(directory)): (p.lstat().st_uid, f"{p.lstat().st_mode & 0o777:o}")
        for p in sorted(directory.rglob("*"))
    }


def test_an_ordinary_user_needs_nothing_of_roots(stage: Stage) -> None:
    done = stage.run("u run vm; echo $?; find /run/qlaunch /var/lib/qlaunch; ls -A "
                     f"/run/user/{UID}/qlaunch; u logs vm; u ps")
    assert "the guest powered off" in done.stderr, done.stderr
    assert done.stdout.startswith("0\n"), done
    assert "qlaunch: vm cpus=1 memory=64M" in (stage.home / "serial.log").read_text()
    assert "[11] done" in done.stdout
    assert done.stdout.endswith("no machine runs\n")
    assert "/run/qlaunch" not in done.stdout
    assert {uid for uid, _ in owners(stage.home).values()} == {UID}
    assert owners(stage.home)[".local/state/qlaunch/vm"] == (UID, "700")


def test_without_a_runtime_directory(stage: Stage) -> None:
    """pam_systemd's is found without the variable; without either nothing is touched."""
    done = stage.run('export RUNTIME=""; u run vm; echo $?')
    assert (done.stdout, "the guest powered off" in done.stderr) == ("0\n", True), done
    for word in ("", "relative", "/nonexistent"):
        gone = stage.run(f'rm -r /run/user/{UID}; export RUNTIME="{word}"; u run long; echo $?')
        assert gone.stdout == "1\n"
        assert gone.stderr.count("error: ") == 1
        assert "the directory cannot be made: Permission denied" in gone.stderr
        assert "hint: XDG_RUNTIME_DIR has to name a directory of yours" in gone.stderr
        assert "Traceback" not in gone.stderr
    assert ".local/state/qlaunch/long" not in owners(stage.home)


def test_home_is_what_the_user_says(stage: Stage) -> None:
    done = stage.run(f"mkdir other; chown {UID} other; "
                     'u() { env HOME="$PWD/other" XDG_RUNTIME_DIR=/run/user/54321 '
                     + "setpriv --reuid=54321 --regid=54321 --clear-groups "
                     "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search -- "
                     + '"$PYTHON" -m qlaunch "$@"; }; u run vm; echo $?',
                     PYTHON=sys.executable)
    assert done.stdout == "0\n", done
    assert "other/.local/state/qlaunch/vm" in owners(stage.home)


def test_root_is_asked_for_what_needs_it(stage: Stage) -> None:
    stage.write("bridged.toml", MACHINE.replace(
        "user = {}", 'bridge = "br9"\nmake_bridge = true'))
    tools = "export PATH=/opt/bin:$PATH; mount -t tmpfs none /opt; mkdir /opt/bin; "
    fake = "printf '#!/bin/sh\\necho \"$@\"\\n' >/opt/bin/sudo; chmod +x /opt/bin/sudo; "
    asked = stage.run(tools + fake + "u run bridged.toml --set cpu.cores=2; echo $?")
    assert asked.stderr == "vm needs root to make the bridge br9 (qlaunch plan)\n"
    assert asked.stdout.endswith("-I -m qlaunch run bridged.toml --set cpu.cores=2\n0\n")
    assert "--preserve-env=LANG -- /" in asked.stdout
    if not shutil.which("sudo"):
        refused = stage.run("u run bridged; echo $?; ls -A /run/qlaunch")
        assert refused.stdout == "1\n"
        assert "error: vm: there is neither sudo nor pkexec" in refused.stderr
        assert re.search("hint: as root: (/.*/)?qlaunch run bridged\n", refused.stderr)
    wrong = stage.run(tools + fake + "u run vm --set 'net=[{bridge=\"br8\"}]'; echo $?")
    assert wrong.stdout == "1\n"  # no password is asked for what cannot run
    assert "this host has no such bridge" in wrong.stderr


SUDO = """
s run long --detach >&2 || echo failed
pid=$(pgrep -f '[g]uest=long,')
grep -E '^(Uid|Gid|Groups):' /proc/$pid/status
setpriv --reuid=54321 --regid=54321 --clear-groups --inh-caps=-all --bounding-set=-all \
    /usr/bin/python3 -c '
import socket
for path in ("/run/qlaunch/.by-uid/54321/long/qmp.sock", "/run/qlaunch/long/control.sock"):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            print(s.recv(5))
        except OSError as error:
            print(error.strerror)
'
stat -c '%U %a %n' /run/qlaunch/long /run/qlaunch/.by-uid/54321 /run/qlaunch/.by-uid/54321/long
ls /var/lib/qlaunch 2>&1
s stop long --now >&2
find /run/qlaunch -name '*long*'
"""


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs a Python all may run")
def test_root_asked_through_sudo_runs_qemu_as_the_one_who_asked(stage: Stage) -> None:
    done = stage.run(SUDO)
    assert done.stdout.splitlines() == [
        f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}",
        f"Gid:\t{UID}\t{UID}\t{UID}\t{UID}",
        f"Groups:\t{UID} ",
        "b'{\"QMP'",
        "Permission denied",
        "root 700 /run/qlaunch/long",
        "tester 700 /run/qlaunch/.by-uid/54321",
        "tester 700 /run/qlaunch/.by-uid/54321/long",
        "ls: cannot access '/var/lib/qlaunch': No such file or directory",
    ], done
    found = owners(stage.home)
    assert found[".local/state/qlaunch/long"] == (UID, "700")
    assert {uid for uid, _ in found.values()} == {UID}
    assert {name.rpartition("/")[2] for name in found if "qlaunch/long/" in name} >= {
        "last", "qemu.log", "qlaunch.log",
    }


def test_a_user_may_not_have_roots_files_opened_by_asking(stage: Stage) -> None:
    """Also not through a link in their own state directory."""
    secret = stage.directory / "secret.img"
    secret.write_bytes(b"s" * (1 << 20))
    secret.chmod(0o600)
    done = stage.run(f"s run vm --set 'disk[0].file=\"{secret}\"'; echo $?")
    assert done.stdout == "1\n"
    assert "tester, who QEMU runs as, may not read and write this file" in done.stderr
    state = stage.home / ".local/state/qlaunch"
    state.mkdir(parents=True)
    (state / "vm").symlink_to("/etc")
    stage.give(*(p for p in (stage.home / ".local").rglob("*") if not p.is_symlink()),
               stage.home / ".local")
    before = owners(Path("/etc"))
    done = stage.run("s run vm; echo $?")
    assert done.stdout == "1\n"
    assert "the directory cannot be made: Not a directory" in done.stderr
    assert owners(Path("/etc")) == before


def test_root_for_itself_runs_qemu_as_a_uid_of_the_machines(stage: Stage) -> None:
    root = Path(tempfile.mkdtemp(dir=Path.home(), prefix=".qlaunch-test-"))
    try:
        shutil.copy(stage.home / "disk.img", root)
        text = MACHINE.replace("SECONDS", "1")
        (root / "vm.toml").write_text(text)
        done = stage.run(f"cd '{root}'; q run vm; echo $?; stat -c '%U %a' /var/lib/qlaunch/vm; "
                         "find /run/qlaunch -name vm; ls -A /run/qlaunch/.by-uid")
        assert done.stdout == "0\nroot 700\n", done
        assert "qlaunch: vm cpus=1" in (root / "serial.log").read_text()
    finally:
        shutil.rmtree(root)


def test_discs_are_opened_with_the_rights_of_the_machines_user(stage: Stage) -> None:
    """Root may read all files; a machine that it runs for a user is given the user's only."""
    disc = MACHINE.replace("SECONDS", "0") + "[[cdrom]]\n"
    stage.write("disc.toml", disc.replace('"vm"', '"disc"'))
    stage.write("own.iso", bytes(4096))
    script = (
        "umask 077; head -c 4096 /dev/zero >secret.iso; chown 0:0 secret.iso; "
        "s run disc --detach >/dev/null; s media disc change own.iso; echo $?; "
        "s media disc change secret.iso; echo $?; s media disc; s stop disc --now"
    )
    done = stage.run(script)
    assert done.stdout.splitlines()[:2] == ["0", "1"], done
    assert "secret.iso: the file cannot be opened: Permission denied" in done.stderr
    assert done.stdout.splitlines()[-1].endswith("own.iso")
    done = stage.run("u run disc --detach >/dev/null; u media disc change own.iso; echo $?; "
                     "u media disc eject; echo $?; u stop disc --now")
    assert done.stdout.splitlines() == ["0", "0"], done


def test_images_are_made_as_the_machines_user(stage: Stage) -> None:
    disks = (
        '[[disk]]\nfile = "made.qcow2"\nformat = "qcow2"\ncreate = { size = "8M" }\n'
        '[[disk]]\nfile = "base.img"\nthrowaway = true\n'
    )
    text = MACHINE.replace("SECONDS", "1") + disks
    stage.write("base.img", bytes(1 << 20))
    stage.write("makes.toml", text.replace('"vm"', '"makes"'))
    stage.write("closed.toml", text.replace('"vm"', '"closed"').replace("made.qcow2", "no/x.qcow2"))
    for who in ("u", "s"):
        done = stage.run(f"rm -f made.qcow2; {who} run makes; echo $?; ls -A /tmp/*.throwaway; "
                         "find /run/qlaunch /var/lib/qlaunch -type f")
        assert done.stdout == "0\n", done
        assert "making a qcow2 disk of 8M" in done.stderr
        assert owners(stage.home)["made.qcow2"] == (UID, "600")
        state = owners(stage.home / ".local/state/qlaunch/makes")
        assert set(state) == {"qlaunch.log", "qemu.log", "last"}
    done = stage.run("mkdir -m 755 no; chown 0:0 no; s run closed; echo $?; ls no")
    assert done.stdout == "1\n"
    assert "tester, who QEMU runs as, may not make a file here" in done.stderr
