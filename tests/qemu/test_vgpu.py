"""The options of slices mean something to a real QEMU: it gets as far as looking for the device.

A property that it does not know is refused before that, in other words.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qlaunch.argv.render import plan_options
from qlaunch.facts.probe import read_snapshot
from tests.fake.plans import planned, said

pytestmark = pytest.mark.qemu
DATA = Path(__file__).parents[1] / "data/facts"
ALL = (
    '[[vgpu]]\ntype = "GVTg_V5_4"\ndisplay = true\nramfb = true\nigd_opregion = true\n'
    "rom = false\nxres = 1920\nyres = 1080\nboot = 1\n[display]\ntype = \"spice\"\n"
)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        (ALL, "gvt-laptop"),
        (ALL.replace("ramfb = true\n", "").replace("boot = 1\n", ""), "gvt-laptop"),
        ('[[vgpu]]\nmemory = ">=1M"\nigd_opregion = false\nrom = true\n', "gvt-laptop"),
        ('[[vgpu]]\ntype = "NVIDIA RTX6000-Ada-8Q"\nboot = 0\n', "ada-server"),
        ('[[vgpu]]\ntype = "557"\ndisplay = true\nramfb = true\n', "ada-server"),
        (ALL.replace('type = "GVTg', 'any = [{type = "GVTg', 1).replace('"\n', '"}]\n', 1),
         "gvt-laptop"),
        (ALL.replace('type = "GVTg_V5_4"', 'any = [{type = "GVTg_V5_4"}, {type = "557"}]', 1),
         "ada-server"),
    ],
)
def test_every_property_is_known(both_qemus: str, text: str, host: str) -> None:
    plan = planned(text, read_snapshot(DATA / f"{host}.json"))
    assert said(plan) == []
    [option] = [o for o in plan_options(plan) if "vfio-pci" in o.words[-1][:16]]
    done = subprocess.run(
        [both_qemus, "-M", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S",
         *option.words],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 1
    assert "not found" not in done.stderr
    assert "no such host device" in done.stderr or "No such file or directory" in done.stderr
