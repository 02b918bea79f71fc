"""`qlaunch host setup` on the roots of several distributions, compared with recorded diffs.

`QLAUNCH_GOLDEN=write pytest tests/golden` records them anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qlaunch.cli.host import setup_text
from qlaunch.setup.make import make_setup
from qlaunch.setup.model import Pages, Wishes
from qlaunch.setup.read import read_setup
from qlaunch.values import PciAddress, Size
from tests.fake.distros import DISTROS, MORE, make_root

WISHES = {
    "plain": Wishes(),
    "all": Wishes(
        early=(PciAddress("0000:01:00.0"), PciAddress("0000:01:00.1")),
        hugepages=(Pages(size=Size(2 << 20), count=4096), Pages(size=Size(1 << 30), count=8)),
        user="anna", memlock=Size(20 << 30),
    ),
}


@pytest.mark.parametrize("wishes", WISHES)
@pytest.mark.parametrize("name", [*DISTROS, *MORE])
def test_the_diff_is_as_recorded(name: str, wishes: str, tmp_path: Path) -> None:
    make_root(name, tmp_path)
    setup = make_setup(read_setup(tmp_path, WISHES[wishes], None), WISHES[wishes], None)
    text = "".join(f"{p}\n" for p in setup.problems) + setup_text(setup, tmp_path, idle=False)
    golden = Path(__file__).parent / "host" / f"{name}.{wishes}.txt"
    if os.environ.get("QLAUNCH_GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
