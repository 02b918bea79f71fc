"""The boot sector in the tree is the one its source describes.

The binary is checked in so that a guest can be started without an assembler; this is what keeps it
from drifting away from the source, and from growing into something that is no longer a boot sector.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "qlaunch/data/bootsector.bin"


def test_image_is_a_fresh_build(tmp_path: Path) -> None:
    fresh = tmp_path / "bootsector.bin"
    subprocess.run([ROOT / "contrib/bootsector/build", fresh], check=True)
    assert fresh.read_bytes() == IMAGE.read_bytes(), "run contrib/bootsector/build and commit"


def test_image_is_whole_sectors_and_bootable() -> None:
    image = IMAGE.read_bytes()
    assert len(image) <= 2048
    assert len(image) % 512 == 0
    assert image[510:512] == b"\x55\xaa"
