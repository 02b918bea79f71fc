"""An entry whose machine needs root: the real pkexec, polkitd and an agent ask in our policy's
words, and the window is the desktop user's, by the cookie that only they can read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.screen import screen
from tests.fake.users import UID, Stage

TOP = Path(__file__).parents[2]
TOOLS = ("pkexec", "pkttyagent", "pkaction", "dbus-daemon", "Xvfb", "xwininfo", "setpriv",
         "openssl")
pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users"),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)) or not Path("/usr/share/polkit-1/actions").is_dir()
        or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
        reason="needs mount namespaces, polkitd, pkexec, dbus-daemon, xvfb, x11-utils, openssl",
    ),
]
MACHINE = """\
name = "asked"
[machine]
memory = "64M"
accel = "tcg"
fw_cfg = { "opt/org.qlaunch/name" = "vm", "opt/org.qlaunch/seconds" = "0" }
[cpu]
nice = -1
[[disk]]
file = "disk.img"
boot = 0
[display]
type = "gtk"
vga = "std"
[stop]
timeout = "1s"
"""
TOOL = '#!/bin/sh\nprintf "%s\\n" "$@" >>"$HOME/told"\n'
# A qlaunch of the whole system, as a package would install it, with its policy; a system bus, which
# starts polkitd; and a password for root.
WORLD = r"""
mkdir -p /run/over/up /run/over/work /run/dbus
mount -t overlay none -o lowerdir=/usr/bin,upperdir=/run/over/up,workdir=/run/over/work /usr/bin
cat >/usr/bin/qlaunch <<EOF
#!$PYTHON
import sys
sys.path.insert(0, "$PYTHONPATH")
from qlaunch.cli.main import main
sys.exit(main())
EOF
chmod 755 /usr/bin/qlaunch
for place in /usr/share/polkit-1/actions /etc/polkit-1/rules.d /usr/share/polkit-1/rules.d; do
    [ -d "$place" ] && mount -t tmpfs -o mode=755 none "$place"
done
cp "$PYTHONPATH/contrib/polkit/org.qlaunch.policy" /usr/share/polkit-1/actions/
sed "s|^root:[^:]*:|root:$(openssl passwd -6 s3cret):|" /etc/shadow >/run/shadow
mount --bind /run/shadow /etc/shadow
dbus-daemon --system --nofork --nopidfile 2>/dev/null &
bus=$!
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
tester() {
    env -u PYTHONPATH HOME="$PWD" XDG_RUNTIME_DIR=/run/user/54321 PATH="$PWD/bin:$PATH" \
        setpriv --reuid=54321 --regid=54321 --clear-groups \
        --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search -- "$@" </dev/null
}
agent() { tester "$PYTHON" "$PYTHONPATH/tests/fake/agent.py" s3cret "$@"; }
shown() { tester xwininfo -root -tree | grep -q 'QEMU (asked'; }
niceness() { ps -L -o ni= -p "$(pgrep -f '[g]uest=asked,')" 2>/dev/null | sort -u | xargs; }
"""
RUN = r"""
pkaction --verbose --action-id org.qlaunch.run
tester qlaunch desktop start asked 2>/dev/null
echo "without an agent: $?"
agent qlaunch desktop start asked >start.log &
start=$!
until shown && niceness | grep -q -- -1 || ! kill -0 $start; do sleep 0.5; done
echo "window of $(stat -c %u "/proc/$(pgrep -f '[g]uest=asked,')") at niceness $(niceness)"
agent qlaunch desktop stop asked >stop.log
echo "stop: $?"
wait $start
echo "start: $?"
shown && echo 'still there'
[ -e /run/qlaunch/asked ] && q stop asked --force
kill $bus
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="qlaunch-user-") as name:
        Path(name).chmod(0o755)
        made = Stage(Path(name))
        image = (TOP / "qlaunch/data/bootsector.bin").read_bytes().ljust(1 << 20, b"\0")
        made.write("disk.img", image)
        made.write("asked.toml", MACHINE)
        yield made


def test_root_is_asked_for_in_a_window(stage: Stage) -> None:
    tools = stage.home / "bin"
    tools.mkdir()
    for name in ("notify-send", "zenity", "kdialog"):
        (tools / name).write_text(TOOL)
        (tools / name).chmod(0o755)
    with screen(stage.directory, UID) as shown:
        done = stage.run(WORLD + RUN, PYTHON=sys.executable, **shown.env)
    told, said = (stage.home / "told").read_text(), done.stdout
    assert "implicit active:   auth_admin\n" in said, done
    assert "exec.path -> /usr/bin/qlaunch\n" in said
    assert "without an agent: 127\n" in said, (done, told)
    assert "root was not given" in told
    assert "at a terminal: qlaunch run asked" in told
    (line,) = [li for li in said.splitlines() if li.startswith("window of ")]
    assert line.startswith(f"window of {UID} at niceness "), (done, told)
    assert "-1" in line.split()  # that of the threads which are the guest's CPUs
    assert said.endswith("stop: 0\nstart: 0\n"), (done, told)
    for log in ("start.log", "stop.log"):
        text = (stage.home / log).read_text()
        assert "AUTHENTICATING FOR org.qlaunch.run" in text
        assert "to hand devices of this computer to a virtual machine" in text
        assert "AUTHENTICATION COMPLETE" in text
    assert "asked needs root to obey cpu.nice (qlaunch plan)\n" in told
    assert "asked was started through root\n" in told
    assert "asked: ended" in told
