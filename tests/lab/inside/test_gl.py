"""OpenGL without a window, drawn on a render node: the kernel's virtual one (vgem), with Mesa's
software pipe behind it. QEMU opens it as its own account, and the screen it draws can be read.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import Run, qemu_of, qlaunch

pytestmark = [pytest.mark.lab, pytest.mark.topology("numa")]

NODE = Path("/dev/dri/renderD128")
PROFILE = """\
name = "labgl"

[machine]
memory = "64M"
fw_cfg = {{ "opt/org.qlaunch/name" = "labgl", "opt/org.qlaunch/seconds" = "600" }}

[[disk]]
file = "{disk}"
read_only = true
boot = 0

[display]
vga = "virtio-gl"
{display}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Path]:
    """A GPU's node that everybody may use, as udev's rule for render nodes has it."""
    if subprocess.run(["modprobe", "vgem"], check=False).returncode != 0:
        pytest.skip("this kernel has no vgem")
    if Path("/run/udev/control").exists():  # it has rules for the node's mode
        subprocess.run(["udevadm", "settle", "--timeout=60"], check=True)
    NODE.chmod(0o666)
    yield NODE
    subprocess.run(["modprobe", "-r", "vgem"], check=True)


@pytest.mark.parametrize("display", ['type = "spice"\ngl = true', 'type = "egl-headless"'])
def test_a_screen_is_drawn_on_a_render_node(
    node: Path, boot_disk: Path, tmp_path: Path, nothing_left: None, display: str
) -> None:
    profile = tmp_path / "labgl.toml"
    profile.write_text(PROFILE.format(disk=boot_disk, display=display))
    run = Run([sys.executable, "-m", "qlaunch", "run", str(profile)], "labgl")
    try:
        run.wait_for("the guest runs")
        opened = {p.readlink() for p in Path(f"/proc/{qemu_of('labgl')}/fd").iterdir()}
        assert node in opened
        picture = tmp_path / "screen.png"
        assert qlaunch("screenshot", "labgl", str(picture)).returncode == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert qlaunch("stop", "labgl", "--now").returncode == 0
        assert run.wait() == 0, run.said
    finally:
        run.end()
