"""Verbs for running machines, by a user whose machine root started: no password is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.users import UID, Stage
from tests.qemu.test_running import ECHO, png_size

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
name = "vm"
[machine]
memory = "64M"
accel = "tcg"
[display]
type = "vnc"
vga = "std"
[[disk]]
file = "disk.img"
boot = 0
[[serial]]
type = "socket"
[stop]
timeout = "1s"
"""
# sudo would ask: it may not be reached
NO_SUDO = ("mount -t tmpfs none /opt; mkdir /opt/bin; "
           "printf '#!/bin/sh\\necho ASKED; exit 9\\n' >/opt/bin/sudo; chmod +x /opt/bin/sudo; "
           "export PATH=/opt/bin:$PATH; ")
ASK = """
{start} run vm --detach >&2 || exit 1
u qmp vm query-name | tr -d ' \\n'; echo
u monitor vm info status
u pause vm 2>&1
u resume vm 2>&1
u screenshot vm picture.png 2>/dev/null; stat -c '%u %a' picture.png
u view vm --json
( echo typed; sleep 4 ) | timeout 5 bash -c "$(declare -f u); u console vm" | head -n 1
{start} stop vm --now >&2
u qmp vm query-name 2>&1 | head -n 1
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-user-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        made = Stage(directory)
        made.write("disk.img", ECHO.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
        made.write("vm.toml", MACHINE)
        yield made


@pytest.mark.parametrize("start", ["s", "u"])
def test_a_user_reaches_their_machine(stage: Stage, start: str) -> None:
    done = stage.run(NO_SUDO + ASK.format(start=start))
    lines = done.stdout.splitlines()
    assert "ASKED" not in done.stdout, done
    base = f"/run/qlaunch/.by-uid/{UID}/vm" if start == "s" else f"/run/user/{UID}/qlaunch/vm"
    assert lines[:5] == [
        '{"name":"vm"}', "VM status: running", "vm: paused", "vm: runs", f"{UID} 644"], done
    end = lines.index("}")
    view = json.loads("\n".join(lines[5 : end + 1]))
    assert view["vnc"] == f"{base}/vnc.sock"
    assert lines[end + 1] == "typed"
    assert "no machine vm runs" in lines[end + 2]
    assert png_size((stage.home / "picture.png").read_bytes()) in ((640, 480), (720, 400))


def test_figures_of_an_ordinary_user(stage: Stage) -> None:
    done = stage.run("u run vm --detach >&2; u pins vm; u top --once --interval 0.3; "
                     "u top vm --json --interval 0.3 | grep -c '\"vcpu 0\"'; u stop vm --now >&2")
    assert "nothing is pinned" in done.stdout, done
    assert any(line.startswith("vm ") and " running " in line
               for line in done.stdout.splitlines()), done.stdout
    assert int(done.stdout.splitlines()[-1]) >= 1
    through_root = stage.run(NO_SUDO + "s run vm --detach >&2; u top --once --interval 0.2; "
                             "u pins vm 2>/dev/null; s stop vm --now >&2")
    assert "and 1 through root: sudo " in through_root.stdout, through_root
    assert through_root.stdout.endswith("ASKED\n")  # the plan is root's to read


def test_roots_command_starts_the_viewer_as_the_user(stage: Stage) -> None:
    fake = ("printf '#!/bin/sh\\necho $(id -u) $HOME $DISPLAY $1\\nexit 3\\n' "
            ">/opt/bin/xtigervncviewer; chmod +x /opt/bin/xtigervncviewer; export DISPLAY=:9; ")
    done = stage.run(NO_SUDO + fake + "s run vm --detach >&2; s view vm 2>&1; echo $?; "
                     "u view vm 2>&1; echo $?; s stop vm --now >&2")
    shown = f"{UID} {stage.home} :9 /run/qlaunch/.by-uid/{UID}/vm/vnc.sock"
    assert done.stdout.splitlines() == [shown, "3", shown, "3"], done
