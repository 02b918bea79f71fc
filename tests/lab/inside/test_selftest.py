"""`qlaunch selftest`: the devices of a profile go to a guest and back, round by round; one of them
by way of a removal from the bus, with which the kernel forgets all that was set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .host import AUDIO, GRAPHICS, NETWORK
from .machine import ROM, qlaunch

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("nothing_left")]

PROFILE = f"""\
name = "self7"
guest = "windows7"

[machine]
memory = "2G"

[[disk]]
file = "/nonexistent/the-guests-own.qcow2"

[[net]]
bridge = "br-not-there"

[[pci]]
device = "{GRAPHICS.address}"
functions = "all"
x_vga = true
rom = "{ROM}"

[[pci]]
device = "{NETWORK.address}"
reset = "rescan"
"""
CHOSEN = {"driver_override": "e1000e", "d3cold_allowed": "0"}  # by the host's owner


@pytest.fixture
def chosen() -> Iterator[None]:
    """What a device that is found anew does not have by itself."""
    before = {name: NETWORK.read(name) for name in CHOSEN}
    for name, text in CHOSEN.items():
        NETWORK.write(name, text)
    yield
    for name, text in before.items():
        NETWORK.write(name, "\n" if text == "(null)" else text)


def test_two_rounds_and_their_table(tmp_path: Path, chosen: None) -> None:
    path = tmp_path / "self7.toml"
    path.write_text(PROFILE)
    images = set(Path("/tmp").glob("qlaunch-selftest-*"))
    found_at_boot = NETWORK.path.stat().st_ino
    links = {link.name for link in (NETWORK.path / "net").iterdir()}
    done = qlaunch("selftest", str(path), "--rounds", "2", "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["failed"] == ""
    assert [one["number"] for one in said["rounds"]] == [1, 2]
    for one in said["rounds"]:
        assert one["changed"] == []
        assert one["end"] == "the guest powered off"
        assert all(one[k] > 0 for k in ("take", "start", "run", "give_back"))
    assert done.stderr.count("0000:01:00.0 is back on bochs-drm") == 2
    assert done.stderr.count("0000:02:00.0 is back on e1000e") == 2
    assert (GRAPHICS.driver, AUDIO.driver) == ("bochs-drm", "snd_hda_intel")
    assert set(Path("/tmp").glob("qlaunch-selftest-*")) == images
    assert done.stderr.count("0000:02:00.0: removed from the bus and found again") == 2
    assert NETWORK.path.stat().st_ino != found_at_boot  # sysfs gives no number twice
    assert {name: NETWORK.read(name) for name in CHOSEN} == CHOSEN
    assert NETWORK.alive
    assert {link.name for link in (NETWORK.path / "net").iterdir()} == links


def test_a_device_in_use_is_refused_and_told(tmp_path: Path) -> None:
    path = tmp_path / "self7.toml"
    path.write_text(PROFILE)
    with next(Path("/dev/dri").glob("card*")).open("rb"):
        refused = qlaunch("selftest", str(path))
    assert refused.returncode == 1
    assert "is in use" in refused.stderr
