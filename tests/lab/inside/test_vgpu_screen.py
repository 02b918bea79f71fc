"""What a vGPU's screen shows, read off a picture of its console with the kernel's own font: that of
a region of memory (mdpy); and the DMA buffer (mbochs) that a SPICE client is handed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake.guest import make_guest

from .machine import LINUX, ROOT, Run, uid_of, until
from .screen_text import read_font, screen_lines
from .slices import SAMPLES, ask, end

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("slices"),
    pytest.mark.usefixtures("samples", "nothing_left"),
]

CLIENT = ROOT / "tests/fake/spice_gl.py"
TEXT = "written by the guest on a vGPU"
SCRIPT = f"""
echo 0 > /sys/class/vtconsole/vtcon0/bind 2>/dev/null
printf '\\033[2J\\033[H{TEXT}\\n' > /dev/tty1
echo "guest: fb: $(cat /sys/class/graphics/fb0/name)"
sleep 1000
"""
PROFILE = LINUX + """
[[serial]]
type = "stdio"

[stop]
timeout = "1s"
"""
REGION = """
[[vgpu]]
kind = "mdev"
parent = "mdpy"
resolution = ">=640x480"
display = true
"""
# QEMU hands the buffer on as it is. To draw it (egl-headless) it would need a GPU: Mesa cannot map
# another's buffer through vgem (drm_gem_dumb_map_offset), and takes QEMU 7.2 down with it. Nobody
# can look into it either: mbochs exports it for reading, and maps only what may be written.
DMABUF = """
[display]
type = "spice"
gl = true
render_node = "{node}"

[[vgpu]]
type = "mbochs-medium"
display = true
ramfb = true
xres = 1024
yres = 768
"""


class Screen:
    """A machine's vGPU as it is looked at."""

    def __init__(self, run: Run, directory: Path) -> None:
        self.run = run
        self.picture = directory / "out/text.ppm"
        self.font = read_font(SAMPLES / "font_8x16.c")

    def lines(self) -> list[str]:
        ask(self.run.name, "screendump", filename=str(self.picture), device="vgpu0")
        return screen_lines(self.picture.read_bytes(), self.font)

    def wait_for(self, text: str) -> None:
        """Until this is on it, beginning in its first column."""
        lines: list[str] = []

        def is_there() -> bool:
            assert self.run.process.poll() is None, self.run.said
            lines[:] = self.lines()
            return any(line.startswith(text) for line in lines)

        until(is_there, lambda: "\n".join([*lines, self.run.said]), 60)


def handed_over(name: str) -> list[dict[str, Any]]:
    """The buffer that a SPICE client of this machine gets."""
    address = f"/run/qlaunch/.by-uid/{uid_of(name)}/{name}/spice.sock"
    done = subprocess.run(["/usr/bin/python3", str(CLIENT), address], check=False,
                          stdout=subprocess.PIPE, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def start(directory: Path, name: str, more: str, modules: tuple[str, ...] = ()) -> Run:
    """The Linux guest, once it has said that it has written."""
    guest = make_guest(directory, SCRIPT, modules, () if modules else (SAMPLES / "mdpy-fb.ko",))
    profile = directory / f"{name}.toml"
    profile.write_text(PROFILE.format(name=name, guest=guest) + more)
    run = Run([sys.executable, "-m", "qlaunch", "run", str(profile)], name)
    until(lambda: "guest: fb:" in run.said or run.process.poll() is not None, lambda: run.said)
    return run


@pytest.mark.nightly
def test_a_linux_guest_writes_on_a_region(open_directory: Path) -> None:
    run = start(open_directory, "labtext", REGION)
    try:
        assert "guest: fb: mdpy" in run.said, run.said
        Screen(run, open_directory).wait_for(TEXT)
        end(run)
    finally:
        run.end()


@pytest.fixture
def vgem() -> Iterator[Path]:
    """A GPU of the kernel's without hardware, for QEMU's own OpenGL."""
    nodes = set(Path("/dev/dri").glob("renderD*"))
    subprocess.run(["modprobe", "vgem"], check=True)
    if Path("/run/udev/control").exists():
        subprocess.run(["udevadm", "settle", "--timeout=60"], check=True)
    node = next(iter(set(Path("/dev/dri").glob("renderD*")) - nodes))
    node.chmod(0o666)
    yield node
    subprocess.run(["modprobe", "-r", "vgem"], check=True)


@pytest.mark.nightly
def test_a_dma_buffer_of_the_guests_is_handed_to_a_spice_client(
    vgem: Path, open_directory: Path
) -> None:
    run = start(open_directory, "labbuf", DMABUF.format(node=vgem), ("bochs",))
    try:
        assert "guest: fb: bochs" in run.said, run.said
        assert handed_over("labbuf") == [{
            "exporter": "mbochs", "bytes": 4 * 1024 * 768, "format": "XR24",
            "size": [1024, 768], "stride": 4 * 1024,
        }]
        end(run)
    finally:
        run.end()
