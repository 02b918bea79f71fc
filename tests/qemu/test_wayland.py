"""Wayland by environment: QEMU, as the desktop's user, is who knocks at the compositor's socket."""

from __future__ import annotations

import os
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
MACHINE = """\
[machine]
memory = "64M"
accel = "tcg"
[[disk]]
file = "disk.img"
boot = 0
[display]
type = "auto"
vga = "std"
"""
# Says who has come and what it wants of the display, object 1; and shuts the door.
COMPOSITOR = """\
import os, socket, struct, sys
with socket.socket(socket.AF_UNIX) as door:
    door.bind(sys.argv[1])
    os.chown(sys.argv[1], 54321, 54321)
    door.listen()
    print("ready", flush=True)
    guest, _ = door.accept()
    who = struct.unpack("3i", guest.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    name = open(f"/proc/{who[0]}/comm").read().strip()
    print(who[1], struct.unpack("I", guest.recv(4096)[:4])[0], name, flush=True)
"""
SCRIPT = """
mkdir -p $PLACE; chown 54321:54321 $PLACE; chmod 700 $PLACE
export RUNTIME=$PLACE XDG_RUNTIME_DIR=$PLACE
timeout 60 "$PYTHON" -c "$COMPOSITOR" $PLACE/wayland-7 >said &
until grep -q ready said || ! kill -0 $!; do sleep 0.1; done
export WAYLAND_DISPLAY=$SCREEN
$WHO run vm
kill $! 2>/dev/null
cat said
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-user-") as name:
        Path(name).chmod(0o755)
        made = Stage(Path(name))
        made.write("disk.img", bytes(1 << 20))
        made.write("vm.toml", MACHINE)
        yield made


@pytest.mark.parametrize(("who", "place", "screen"), [
    ("u", f"/run/user/{UID}", "wayland-7"),
    ("s", "/run/elsewhere", "wayland-7"),  # through sudo, where there is no pam_systemd
    ("s", f"/run/user/{UID}", f"/run/user/{UID}/wayland-7"),
])  # fmt: skip
def test_who_comes(stage: Stage, who: str, place: str, screen: str) -> None:
    done = stage.run(SCRIPT, WHO=who, PLACE=place, SCREEN=screen, PYTHON=sys.executable,
                     COMPOSITOR=COMPOSITOR)
    assert done.stdout.splitlines()[:2] == ["ready", f"{UID} 1 qemu-system-x86"], done
    assert "gtk initialization failed" in done.stderr  # the door was shut
    assert "no screen here" not in done.stderr
