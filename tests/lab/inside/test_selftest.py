"""`qlaunch selftest`: the devices of a profile go to a guest and back, round by round."""

from __future__ import annotations

import json
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
"""


def test_two_rounds_and_their_table(tmp_path: Path) -> None:
    path = tmp_path / "self7.toml"
    path.write_text(PROFILE)
    images = set(Path("/tmp").glob("qlaunch-selftest-*"))
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


def test_a_device_in_use_is_refused_and_told(tmp_path: Path) -> None:
    path = tmp_path / "self7.toml"
    path.write_text(PROFILE)
    with next(Path("/dev/dri").glob("card*")).open("rb"):
        refused = qlaunch("selftest", str(path))
    assert refused.returncode == 1
    assert "is in use" in refused.stderr
