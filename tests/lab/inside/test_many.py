"""Five machines want the same device at the same moment: one gets it, the others say who has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .host import NETWORK
from .machine import press_key, qlaunch, until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("nothing_left"), pytest.mark.nightly]

NAMES = [f"rival{n}" for n in range(1, 6)]
PROFILE = """\
name = "{name}"

[machine]
memory = "64M"
fw_cfg = {{ "opt/org.qlaunch/name" = "{name}", "opt/org.qlaunch/seconds" = "600" }}

[[disk]]
file = "{disk}"
read_only = true
boot = 0

[[pci]]
device = "{network}"

[stop]
timeout = "3s"
"""


class Rival:
    """One of the launchers, with what it says in a file."""

    def __init__(self, directory: Path, name: str, disk: Path) -> None:
        self.name = name
        self.profile = directory / f"{name}.toml"
        self.profile.write_text(PROFILE.format(name=name, disk=disk, network=NETWORK.address))
        self.errors = directory / f"{name}.txt"
        with self.errors.open("wb") as sink:
            argv = [sys.executable, "-m", "qlaunch", "run", str(self.profile)]
            self.process = subprocess.Popen(argv, stdout=sink, stderr=sink, cwd="/")

    @property
    def said(self) -> str:
        return self.errors.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None


@pytest.mark.parametrize("time_round", range(3))
def test_five_at_once_over_one_device(tmp_path: Path, boot_disk: Path, time_round: int) -> None:
    rivals = [Rival(tmp_path, name, boot_disk) for name in NAMES]
    told = "\n".join
    try:
        until(lambda: sum(r.ended for r in rivals) >= 4, lambda: told(r.said for r in rivals))
        winners = [r for r in rivals if not r.ended]
        assert len(winners) == 1, told(r.said for r in rivals)
        winner = winners[0]
        until(lambda: "the guest runs" in winner.said or winner.ended, lambda: winner.said)
        assert not winner.ended, winner.said
        assert NETWORK.driver == "vfio-pci"
        for loser in rivals:
            if loser is not winner:
                assert loser.process.returncode == 1, loser.said
                assert winner.name in loser.said, loser.said
                assert NETWORK.address in loser.said, loser.said
        listed = qlaunch("ps").stdout
        assert [name for name in NAMES if name in listed] == [winner.name]
        press_key(winner.name)
        assert winner.process.wait(120) == 0, winner.said
        assert f"{NETWORK.address} is back on e1000e" in winner.said
        assert qlaunch("ps").stdout.count("rival") == 0
    finally:
        for rival in rivals:
            rival.process.kill()
            rival.process.wait()
            if Path("/run/qlaunch", rival.name).exists():
                qlaunch("stop", rival.name, "--force")
