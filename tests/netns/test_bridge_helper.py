"""QEMU's own setuid helper, asked by an ordinary user: a copy of it, and an /etc of the test's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.facts.network import read_network
from qlaunch.host.tap import ask_bridge_helper
from tests.fake.trees import Tree
from tests.fake.users import AS_USER
from tests.netns.space import fresh, out, sh

HELPER = Path("/usr/lib/qemu/qemu-bridge-helper")
pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not HELPER.exists(), reason="needs qemu-bridge-helper"),
]

ASK = """
import os, sys
from qlaunch.errors import HostError
from qlaunch.host.tap import ask_bridge_helper
try:
    fd = ask_bridge_helper(sys.argv[1], sys.argv[2])
    assert not os.get_inheritable(fd)
    os.system("ip -o link show type tun")
except HostError as error:
    print(error)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may look into, with a setuid copy of the helper."""
    with fresh(), tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        copy = Path(shutil.copy(HELPER, place))
        copy.chmod(0o4755)
        (place / "etc/qemu").mkdir(parents=True)
        (place / "etc/qemu/bridge.conf").write_text("allow qtbr0\n")
        (place / "ask.py").write_text(ASK)
        sh("ip link add qtbr0 type bridge", "ip link add qtbr1 type bridge")
        yield place


def ask(place: Path, bridge: str) -> str:
    """What happens to an ordinary user who asks."""
    # The setuid helper needs capabilities that AS_USER bounds away.
    asks = [word for word in AS_USER if not word.startswith("--bounding")]
    command = (
        f"mount -t overlay overlay -o lowerdir={place}/etc:/etc /etc && "
        f"exec {' '.join(asks)} {sys.executable} "
        f"{place}/ask.py {place}/{HELPER.name} {bridge}"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_user_gets_a_tap_on_an_allowed_bridge(place: Path) -> None:
    said = ask(place, "qtbr0")
    assert "master qtbr0" in said, said
    assert "UP" in said
    assert out("ip -o link show type tun") == ""  # gone with the fd


def test_others_are_refused_in_its_words(place: Path) -> None:
    said = ask(place, "qtbr1")
    assert "QEMU's bridge helper gives no tap on qtbr1" in said
    assert "denied" in said
    assert "hint: allow qtbr1 in /etc/qemu/bridge.conf" in said


def test_a_helper_that_says_nothing(tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec sleep 30\n")
    mute.chmod(0o755)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError, match="gives no tap"):
        ask_bridge_helper(str(mute), "br0", patience=0.2)
    with pytest.raises(HostError, match="not installed"):
        ask_bridge_helper(str(tmp_path / "none"), "br0")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_where_it_is_and_whom_it_serves(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    path = tree.write("usr/libexec/qemu-bridge-helper")
    tree.write("etc/qemu/bridge.conf", "# allow x\nallow br0\nallow  br1\ndeny br1\n")
    state = read_network(tree.root)
    assert (state.helper, state.allowed) == ("", ())
    path.chmod(0o4755)
    state = read_network(tree.root)
    assert (state.helper, state.allowed) == (str(path), ("br0",))
    tree.write("etc/qemu/bridge.conf", "deny all\nallow br0\n")
    assert read_network(tree.root).allowed == ()
