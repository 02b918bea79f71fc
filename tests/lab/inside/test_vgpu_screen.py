"""What a vGPU's screen shows, read off a picture of its console with the kernel's own font: that of
a region of memory (mdpy). That of a DMA buffer (mbochs) needs a GPU: QEMU dies in Mesa on vgem.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fake.guest import make_guest

from .machine import LINUX, Run, until
from .screen_text import read_font, screen_lines
from .slices import SAMPLES, ask, end

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("slices"),
    pytest.mark.usefixtures("samples", "nothing_left"),
]

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
