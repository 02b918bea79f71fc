"""The rules of [[vgpu]] tables: the exact words of a few, and that each is said at its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlaunch.errors import ProfileError
from qlaunch.profile.read import read_profile
from qlaunch.profile.vgpu import least_bytes, least_pixels

BOOT = '[[disk]]\nfile = "a"\n'
UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"


def problems(directory: Path, text: str) -> list[tuple[str, str]]:
    """(key, message) of a profile's faults."""
    path = directory / "vm.toml"
    path.write_text(text + BOOT, encoding="utf-8")
    try:
        read_profile(path)
    except ProfileError as error:
        return [(p.where.rpartition(": ")[2], p.message) for p in error.problems]
    return []


def table(*lines: str) -> str:
    return "\n".join(["[[vgpu]]", *lines, ""])


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (table('memory = "512M"'), "vgpu[0].memory", "this is not understood"),
        (table('memory = ">=0M"'), "vgpu[0].memory", "this is not understood"),
        (table('type = "x"', 'resolution = ">= 1080p"'), "vgpu[0].resolution",
         "this is not understood"),
        (table('type = "../../evil"'), "vgpu[0].type", "this is not understood"),
        (table('type = "x/../../y"'), "vgpu[0].type", "this is not understood"),
        (table('type = "x"', 'parent = "a/b"'), "vgpu[0].parent", "this is not understood"),
        (table('type = "x"', 'uuid = "fff6f017"'), "vgpu[0].uuid", "this is not understood"),
        (table('any = [{type = "a\\nb"}]'), "vgpu[0].any[0].type", "this is not understood"),
        (table('any = [{type = "x", vf = "8086:56c0"}]'), "vgpu[0].any[0]",
         "a wish is for one thing"),
        (table("any = [{}]"), "vgpu[0].any[0]", "a wish is for one thing"),
        (table('any = [{type = "x"}]', 'type = "y"'), "vgpu[0].type",
         "a table with a list of wishes does not say this as well"),
        (table('any = [{type = "x"}]', 'kind = "mdev"'), "vgpu[0].kind",
         "a table with a list of wishes does not say this as well"),
        (table(), "vgpu[0]", "a slice of what?"),
        (table('kind = "mdev"', 'parent = "00:02.0"'), "vgpu[0]", "of which type?"),
        (table('kind = "vf"', 'parent = "8086:56c0"', 'type = "x"'), "vgpu[0].type",
         'this is not for kind = "vf"'),
        (table('kind = "mdev"', 'type = "x"', 'mac = "52:54:00:00:00:01"'), "vgpu[0].mac",
         'this is not for kind = "mdev"'),
        (table('kind = "nvidia-vf"', 'type = "x"', f'uuid = "{UUID}"'), "vgpu[0].uuid",
         'this is not for kind = "nvidia-vf"'),
        (table('type = "x"', "vfs = 2"), "vgpu[0].vfs",
         "this is for virtual functions, and those have no type"),
        (table('memory = ">=1G"', "vlan = 0"), "vgpu[0].vlan",
         "this is for virtual functions, and those have no type"),
        (table('kind = "vf"', 'parent = "8086:56c0"', "display = true"), "vgpu[0].display",
         'this is not for kind = "vf"'),
        (table('type = "x"', "ramfb = true"), "vgpu[0].ramfb", "this needs the vGPU's screen"),
        (table('type = "x"', "display = true", "xres = 800"), "vgpu[0].xres",
         "a width and a height go together"),
        (table('type = "x"', f'uuid = "{UUID}"') + table('type = "x"', f'uuid = "{UUID.upper()}"'),
         "vgpu[1].uuid", "vgpu[0] has the same"),
        (table('kind = "vf"', 'parent = "8086:10fb"', 'mac = "52:54:00:00:00:01"') * 2,
         "vgpu[1].mac", "vgpu[0] has the same"),
        (table('kind = "vf"', 'parent = "8086:10fb"', 'mac = "52:54:00:AB:00:01"')
         + '[[net]]\nuser = {}\nmac = "52:54:00:ab:00:01"\n',
         "vgpu[0].mac", "net[0] has the same MAC address"),
        (table('type = "x"', "display = true", "ramfb = true") * 2, "vgpu[1].ramfb",
         "vgpu[0] shows the firmware's text already"),
        (table('type = "x"', "display = true", "ramfb = true") + '[display]\nvga = "ramfb"\n',
         "vgpu[0].ramfb", "the card ramfb shows the firmware's text already"),
        (table('type = "x"', "boot = 1") * 2, "vgpu[1].boot",
         "vgpu[0] has the same place in the boot order"),
        (table('type = "x"', 'addr = "14"') * 2, "vgpu[1].addr",
         "vgpu[0] is in the same guest slot"),
    ],
)
def test_a_contradiction_is_said_at_its_key(
    tmp_path: Path, text: str, key: str, message: str
) -> None:
    assert (key, message) in problems(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        table('parent = "00:02.0"', 'type = "i915-GVTg_V5_4"', "display = true", "ramfb = true",
              "igd_opregion = true", "rom = false", "xres = 1920", "yres = 1080"),
        table('memory = ">=512M"'), table('memory = ">= 02GiB"', 'resolution = ">= 1920x1080"'),
        table('kind = "vf"', 'parent = "8086:56c0"', 'mac = "52:54:00:00:00:01"', "vlan = 7",
              "vfs = 4"),
        table('parent = "mtty"', 'type = "mtty-1"', f'uuid = "{UUID}"'),
        table('any = [{pci = "10de:2684"}, {type = "i915-GVTg_V5_4"}, {memory = ">=1G"}, '
              '{vf = "8086:56c0"}, {virtio = "venus"}]', "display = true"),
        table('type = "NVIDIA RTX6000-Ada-8Q"'),
        table('type = "x"', "display = true", "ramfb = true") + '[display]\nvga = "std"\n',
        table('type = "x"') + '[display]\nvga = "ramfb"\n',
    ],
)
def test_nothing_against(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == []


def test_a_virtual_function_may_be_what_is_booted(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(table('kind = "vf"', 'parent = "1b36:0010"', "boot = 1"), encoding="utf-8")
    assert read_profile(path).profile.vgpu[0].boot == 1


@pytest.mark.parametrize(
    ("line", "hint"),
    [('memory = "512M"', 'write memory = ">=512M"'), ('memory = "> 1G"', 'write memory = ">=1G"'),
     ('resolution = "1920x1080"', 'write resolution = ">=1920x1080"'),
     ('memory = "much"', "")],
)
def test_a_bare_amount_is_told_how_to_write_it(tmp_path: Path, line: str, hint: str) -> None:
    (tmp_path / "vm.toml").write_text(table(line) + BOOT, encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        read_profile(tmp_path / "vm.toml")
    assert caught.value.problems[0].hint == hint


def test_what_the_forms_mean() -> None:
    assert least_bytes(">=512M") == 512 << 20
    assert least_bytes(">= 2GiB") == 2 << 30
    assert least_pixels(">= 1920x1080") == (1920, 1080)
