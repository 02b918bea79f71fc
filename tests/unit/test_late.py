"""Every family that is loaded when a profile calls for it can be loaded, and only then is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import tomli

from qlaunch.argv import render
from qlaunch.codec import decode_value
from qlaunch.late import Family, load
from qlaunch.plan import make
from qlaunch.profile import check
from qlaunch.profile.profile import Profile
from qlaunch.profile.table import Table
from qlaunch.profile.tables import build, whole

ALL: tuple[Family, ...] = (*make.FAMILIES, *render.FAMILIES, *check.FAMILIES)
RARE = [("net",), ("serial",), ("tpm",), ("share",), ("vgpu",), ("audio",)]


@pytest.mark.parametrize("family", ALL, ids=lambda family: family[1])
def test_a_family_names_tables_and_a_function(family: Family) -> None:
    tables, target = family
    assert load(target)
    assert {table.partition(".")[0] for table in tables} <= set(Profile.__struct_fields__)


def test_a_machine_pays_only_for_what_it_has() -> None:
    code = (
        "import sys; from tests.fake.plans import planned; "
        "from qlaunch.argv.render import render_argv; render_argv(planned('')); "
        "print(*sorted(m for m in sys.modules if m.startswith('qlaunch.')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    absent = {target.partition(":")[0] for tables, target in ALL if tables in RARE}
    assert absent & set(loaded) == set()
    assert "qlaunch.plan.make" in loaded


# Slow to import, and nothing of it is needed to read a profile, look at a host and plan.
NOT_FOR_ARGV = {
    "ast", "asyncio", "dataclasses", "difflib", "http", "inspect", "json", "logging", "psutil",
    "pyroute2", "qemu", "shutil", "socket", "subprocess", "tempfile", "typing_extensions",
    "qlaunch.children", "qlaunch.profile.faults", "qlaunch.profile.schema", "qlaunch.plan.quirks",
    "qlaunch.profile.limits", "qlaunch.profile.pci", "qlaunch.profile.usb", "qlaunch.profile.vgpu",
}


def _imported(profile: Path, verb: str) -> set[str]:
    """By a verb that has shown a profile's command line, in a Python of its own."""
    code = (
        "import os, sys; from qlaunch.__main__ import main; "
        f"sys.argv = ['qlaunch', {verb!r}, {str(profile)!r}]; "
        "sys.stdout = open(os.devnull, 'w'); code = main(); "
        "sys.stderr.write(' '.join(['', *sys.modules])); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_a_command_line_needs_few_modules(tmp_path: Path) -> None:
    profile = tmp_path / "plain.toml"
    profile.write_text('[machine]\naccel = "tcg"\n[[disk]]\nfile = "disk.img"\n', encoding="utf-8")
    _imported(profile, "argv")  # QEMU's version is asked for once, and kept
    loaded = _imported(profile, "argv")
    assert "qlaunch.argv.storage" in loaded
    assert loaded & NOT_FOR_ARGV == set()


def test_types_of_keys_are_text_until_they_are_said() -> None:
    whole()
    tables = [table for table in Table.__subclasses__() if table.__module__.startswith("qlaunch.")]
    assert len(tables) > 40
    made = {
        f"{table.__name__}.{key}" for table in tables
        for key, kind in table.__annotations__.items() if not isinstance(kind, str)
    }
    assert made == set()


PROFILES = sorted((Path(__file__).parents[2] / "profiles").glob("*.toml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_keys_by_themselves_give_what_the_whole_type_gives(path: Path) -> None:
    whole()
    tree = tomli.loads(path.read_text(encoding="utf-8")) | {"name": "vm"}
    assert build(tree) == msgspec.convert(tree, Profile, dec_hook=decode_value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[disk]]\nfile = "a"\n[[disk]]\nfile = "b"\nbus = 3', "$.disk[1].bus"),
        ('[[disk]]\nfile = "a"\nfile_ = "b"', "unknown key - at `$.disk[0].file_`"),
        ("[[disk]]\nformat = 'raw'\n[disk.create]\nformat = 'raw'", "$.disk[0].create"),
        ('[cpu.pin]\nvcpus = ["x"]', "$.cpu.pin.vcpus[0]"),
        ("cpu = 3", "$.cpu"),
        ("disk = 3", "$.disk"),
        ("disk = [3]", "$.disk[0]"),
        ("[cpu]\npin = 'none'", "$.cpu.pin"),
        ("[kernel]", "$.kernel"),
    ],
)
def test_a_refused_value_is_named(text: str, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        build(tomli.loads(text) | {"name": "vm"})
    assert said in str(caught.value)
