"""Whatever stands in a file or behind --set: in some seconds a profile, or ProfileError or
UsageError, which name a place."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qlaunch.argv.render import render_argv
from qlaunch.errors import ProfileError, UsageError
from qlaunch.facts.model import HostFacts
from qlaunch.facts.probe import read_snapshot
from qlaunch.plan.make import make_plan
from qlaunch.profile.faults import find_faults
from qlaunch.profile.profile import Profile
from qlaunch.profile.read import read_profile
from qlaunch.profile.tables import build, whole
from tests.fake.grown import profiles
from tests.fake.plans import host
from tests.fake.timed import check_told, within

DATA = Path(__file__).parents[1] / "data/facts"

WORDS = [*Profile.__struct_fields__]
WORDS += ["file", "bus", "boot", "addr", "user", "bridge", "mac", "vcpus", "pin", "memory",
          "device", "args", "set", "env", "before", "fw_cfg", "acpi_tables", "cores", "hyperv"]
TEXTS = st.sampled_from(
    ["virtio", "03:00.0", "10de:1200", "1c.0", "8G", "60s", "0,4-6", "../x", "~", "${HOME}",
     "${NO_SUCH_VARIABLE}", "", "\0", "\n", "opt/x", "52:54:00:26:7f:96", "-daemonize", "stdio"]
) | st.text(max_size=6)
VALUES = st.recursive(
    TEXTS | st.integers(-2, 300) | st.booleans() | st.floats() | st.dates() | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
TREES = st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), VALUES, max_size=6)


def toml(value: Any) -> str:
    """One value as TOML, for files whose trees hypothesis made."""
    if isinstance(value, str):
        escaped = "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08X}" for c in value)
        return f'"{escaped}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    return str(value)


def document(tree: dict[str, Any]) -> str:
    return "".join(f"{toml(key)} = {toml(value)}\n" for key, value in tree.items())


def read(data: bytes, *overrides: str) -> None:
    """Read; anything but the two errors goes through and fails the test."""
    with within(), tempfile.TemporaryDirectory() as name:
        path = Path(name) / "vm.toml"
        path.write_bytes(data)
        try:
            loaded = read_profile(path, overrides)
        except UsageError as error:
            assert error.problems
            check_told(error.problems)
            for problem in error.problems:
                assert problem.message.isprintable()
                assert problem.found.isprintable()
        else:
            assert loaded.origin("name") in ("", "vm.toml:1", "--set") or loaded.sources
            assert isinstance(loaded.warnings, tuple)


def tree_test(tree: dict[str, Any]) -> None:
    text = document(tree)
    with contextlib.suppress(UnicodeEncodeError):
        read(text.encode())


def faults_agree(tree: dict[str, Any]) -> None:
    """The walk of the error path finds a fault exactly when msgspec refuses."""
    tree = {"name": "x", **tree}
    with within():
        try:
            build(tree)
        except msgspec.ValidationError:
            assert find_faults(tree, whole())
        else:
            assert find_faults(tree, whole()) == []


QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=20000, deadline=None, suppress_health_check=list(HealthCheck))
SAFE_TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


@given(TREES)
@QUICK
@example({"disk": [{"file": "a"}], "cpu": {"pin": {"vcpus": [[]]}}})
def test_any_tree(tree: dict[str, Any]) -> None:
    tree_test(tree)


@given(st.binary(max_size=200))
@QUICK
def test_any_bytes(data: bytes) -> None:
    read(data)


@given(TREES)
@QUICK
def test_the_two_paths_agree(tree: dict[str, Any]) -> None:
    faults_agree(tree)


@given(st.lists(SAFE_TEXTS | st.builds("{}={}".format, st.sampled_from(
    ["cpu.cores", "disk[0].file", "disk[1]", "net[0].user", "name", "qemu.args", "cdrom", "x.y"]
), SAFE_TEXTS), max_size=3))
@QUICK
def test_any_override(texts: list[str]) -> None:
    read(b"[[cdrom]]\nfile = 'a.iso'\n", *texts)


@pytest.mark.nightly
@given(TREES)
@LONG
def test_any_tree_nightly(tree: dict[str, Any]) -> None:
    tree_test(tree)
    faults_agree(tree)


@pytest.mark.nightly
@given(st.binary(max_size=2000))
@LONG
def test_any_bytes_nightly(data: bytes) -> None:
    read(data)


# -- profiles of the right form, further: what the reader takes can be planned -------------------


@functools.cache
def hosts() -> tuple[HostFacts, ...]:
    """Recorded machines, and one at which nobody looked."""
    names = ("fx8120", "plain", "gvt-laptop", "ada-server")
    return (*(read_snapshot(DATA / f"{name}.json") for name in names), host())


def grown_test(tree: dict[str, Any], number: int) -> None:
    """Read, and planned and rendered when it can be: refused with words, or a command line."""
    text = document(tree)
    read(text.encode())
    faults_agree(tree)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "vm.toml"
        path.write_text(text)
        try:
            profile = read_profile(path).profile
        except UsageError:
            return
    facts = hosts()[number]
    with within():
        plan = make_plan(profile, facts)
        check_told(plan.problems)
        if not any(p.severity == "error" for p in plan.problems):
            assert all(isinstance(word, str) and "\0" not in word for word in render_argv(plan))


GROWN = given(profiles(), st.integers(0, 4))


@GROWN
@QUICK
def test_any_grown_profile(tree: dict[str, Any], number: int) -> None:
    grown_test(tree, number)


@pytest.mark.nightly
@GROWN
@LONG
def test_any_grown_profile_nightly(tree: dict[str, Any], number: int) -> None:
    grown_test(tree, number)


def test_undecodable_arguments() -> None:
    read(b"[[cdrom]]\nfile = 'a.iso'\n", "cpu.model=\udcff")
    with pytest.raises(ProfileError):
        read_profile("/no/\udcff/file.toml")


def test_a_megabyte_of_faults_ends() -> None:
    read(b"".join(b"a%d = 1\n" % n for n in range(30000)))
    read(b"[[net]]\nboot = 1\n" * 2000)
    read(b"[[disk]]\nfile = '${NO_SUCH_VARIABLE}'\n" * 5000)
