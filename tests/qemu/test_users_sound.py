"""Sound of a machine that root starts for a user: heard by the real sound server of their session.

The server is started by hand in a runtime directory that only the test sees, without hardware: who
is connected to it is asked of the server itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.users import AS_USER, UID, Stage
from tests.qemu.test_users import MACHINE, TOP

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users"),
]
NAME = f"sound{os.getpid()}"
SOUND = """
[audio]
model = "{model}"
backend = "{backend}"
[qemu]
binary = "{qemu}"
"""
# `t` is a program of tester's session; the sound server and the machine both end with the test.
SESSION = f"""
# Either ends by itself if the test does not come to its end.
t() {{ exec env HOME="$PWD" XDG_RUNTIME_DIR=/run/user/{UID} {' '.join(AS_USER)} "$@"; }}
until_there() {{
    for try in $(seq 600); do [ -S "$1" ] && return; sleep 0.05; done
    echo "no $1" >&2
}}
"""
PULSE = """
t timeout 120 pulseaudio -n --daemonize=no --use-pid-file=no --exit-idle-time=-1 \\
    --disable-shm=yes -L module-null-sink \\
    -L module-native-protocol-unix 2>server.log >&2 & server=$!
until_there /run/user/54321/pulse/native
s run vm.toml --detach; echo "started $?"
for try in $(seq 200); do
    (t pactl list sink-inputs) >said; grep -q 'application.process.binary' said && break; sleep 0.1
done
cat said
(t pactl list clients) | grep -c qemu-system
"""
PIPEWIRE = """
t timeout 120 pipewire 2>server.log >&2 & server=$!
until_there /run/user/54321/pipewire-0
s run vm.toml --detach; echo "started $?"
for try in $(seq 200); do
    (t pw-cli ls Client) >said; grep -q qemu-system said && break; sleep 0.1
done
cat said
"""
END = f"""
grep -E '^(Uid|Seccomp|CapEff)' /proc/$(pgrep -o -f '^[^ ]*qemu-system.*guest={NAME},')/status
s stop {NAME} --now; echo "stopped $?"
kill $server
ls -A /run/qlaunch
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-user-") as name:
        Path(name).chmod(0o755)
        made = Stage(Path(name))
        image = (TOP / "qlaunch/data/bootsector.bin").read_bytes()
        made.write("disk.img", image.ljust(1 << 20, b"\0"))
        yield made


def heard(stage: Stage, script: str, **words: str) -> str:
    """What the server says of who is connected; QEMU is the user's, confined as always."""
    machine = MACHINE.replace("SECONDS", "0").replace('"vm"', f'"{NAME}"')
    stage.write("vm.toml", machine + SOUND.format(**words))
    done = stage.run(SESSION + script + END)
    log = stage.home / "server.log"
    told = f"{done.stdout}\n{done.stderr}\n{log.read_text() if log.exists() else ''}"
    assert "started 0" in done.stdout, told
    assert "stopped 0" in done.stdout, told
    assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}" in done.stdout, told
    assert "CapEff:\t0000000000000000" in done.stdout, told
    assert "Seccomp:\t2" in done.stdout, told
    return told


@pytest.mark.skipif(not shutil.which("pulseaudio"), reason="needs pulseaudio")
@pytest.mark.parametrize("backend", ["auto", "pulse"])
def test_pulseaudio_of_the_users_session(stage: Stage, both_qemus: str, backend: str) -> None:
    said = heard(stage, PULSE, model="ich9", backend=backend, qemu=both_qemus)
    assert "qemu-system" in said.partition("application.process.binary")[2].splitlines()[0], said


@pytest.mark.skipif(not shutil.which("pipewire"), reason="needs pipewire")
def test_pipewire_of_the_users_session(stage: Stage, both_qemus: str) -> None:
    """QEMU has it since 8.1; an older one is told to be silent."""
    drivers = subprocess.run(
        [both_qemus, "-audiodev", "help"], capture_output=True, text=True, check=True
    )
    if "pipewire" not in drivers.stdout:
        stage.write("vm.toml", MACHINE + SOUND.format(model="ich9", backend="auto",
                                                      qemu=both_qemus))
        (stage.home / "pipewire-0").touch()
        done = stage.run('cp pipewire-0 /run/user/54321/; s check vm.toml')
        assert "the machine has a sound card, and nobody to play it" in done.stderr, done
        assert "pipewire, and a QEMU with" in done.stderr, done
        return
    said = heard(stage, PIPEWIRE, model="ich9", backend="auto", qemu=both_qemus)
    assert "qemu-system" in said
