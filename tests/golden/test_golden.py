"""Profiles → plans, one option a line, compared with recorded files.

The shipped profiles, and one for each family of keys (`families/`): together they set every key
there is. `QLAUNCH_GOLDEN=write pytest tests/golden` records them anew; review the difference as you
would code. `$TOP` stands for the checkout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli
from msgspec import inspect as mi

from qlaunch.argv.render import plan_options
from qlaunch.cli.common import Made, plan_for
from qlaunch.cli.plan import reason
from qlaunch.facts.probe import read_snapshot
from qlaunch.plan.install import for_installing, with_window
from qlaunch.plan.make import make_plan
from qlaunch.profile.read import Loaded, read_profile
from qlaunch.profile.tables import whole
from tests.fake.fitted import fitted
from tests.unit.test_man import struct_keys

TOP = Path(__file__).parents[2]
FACTS = TOP / "tests/data/facts"
HERE = Path(__file__).parent
PROFILES = sorted((TOP / "profiles").glob("*.toml"))
FAMILIES = sorted((HERE / "families").glob("*.toml"))
HOSTS = ("fx8120", "plain")
# Profiles for hardware of which one of these has none.
HOSTS_OF = {
    "win10-gvtg": ("gvt-laptop",), "vgpu-ada": ("ada-server",), "win11": ("tower",),
    "single-gpu": ("tower",), "linux-vulkan": ("tower", "fx8120"), "win7-xen-hd7870": ("hd7870",),
}
CASES = [(p, h) for p in PROFILES for h in HOSTS_OF.get(p.stem, HOSTS)]
# A family is planned for QEMU 10.0 and for 7.2, where its devices are on one host only for that.
FAMILY_HOSTS = ("tower", "fx8120")
FAMILY_HOSTS_OF = {
    "pci": ("tower",), "vgpu": ("gvt-laptop",), "vgpu-any": ("gvt-laptop",), "vgpu-net": ("tower",),
}
FAMILY_CASES = [(p, h) for p in FAMILIES for h in FAMILY_HOSTS_OF.get(p.stem, FAMILY_HOSTS)]
# Keys that no golden profile can set, and why.
UNSET: dict[str, str] = {}


def made_of(loaded: Loaded, host: str) -> Made:
    """What a profile comes to on a recorded host."""
    facts = fitted(loaded.profile.name, read_snapshot(FACTS / f"{host}.json"))
    profile = with_window(loaded.profile, facts) if loaded.by else loaded.profile
    return Made(loaded, facts, make_plan(profile, facts))


def installing(loaded: Loaded) -> Loaded:
    """The same with --install."""
    profile, keys, changes = for_installing(loaded.profile)
    return loaded.changed(profile, keys, "--install", "; ".join(changes))


def recorded(made: Made) -> str:
    """The golden text of a profile on a recorded host."""
    plan = made.plan
    lines = [f"{p.severity}: {p.where}: {p.message}" for p in plan.problems]
    lines += [f"step {step}  # {reason(step.why, made)}" for step in plan.steps]
    lines += [f"fd {f.number}: {f.kind} {f.of}".rstrip() for f in plan.fds]
    lines += [" ".join(o.words) + f"  # {reason(o.why, made)}" for o in plan_options(plan)]
    return "\n".join(lines).replace(str(TOP), "$TOP") + "\n"


def compare(golden: Path, text: str) -> None:
    """With what is recorded, or record it."""
    if os.environ.get("QLAUNCH_GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("profile", "host"), [*CASES, *FAMILY_CASES],
    ids=[f"{p.stem}-{h}" for p, h in (*CASES, *FAMILY_CASES)],
)
def test_plan_is_as_recorded(profile: Path, host: str) -> None:
    place = HERE / "families" if profile in FAMILIES else HERE
    loaded = read_profile(profile, (), root_user=False)
    compare(place / f"{profile.stem}.{host}.txt", recorded(made_of(loaded, host)))


@pytest.mark.parametrize("host", FAMILY_HOSTS)
@pytest.mark.parametrize("name", [
    path.stem for path in FAMILIES if "install" in tomli.loads(path.read_text())
])
def test_installation_is_as_recorded(name: str, host: str) -> None:
    loaded = installing(read_profile(HERE / f"families/{name}.toml", (), root_user=False))
    compare(HERE / f"families/{name}.{host}.install.txt", recorded(made_of(loaded, host)))


def test_no_record_is_of_nothing() -> None:
    names = {f"{p.stem}.{h}" for p, h in (*CASES, *FAMILY_CASES)}
    for place in (HERE, HERE / "families"):
        assert {p.stem.removesuffix(".install") for p in place.glob("*.txt")} <= names


@pytest.mark.parametrize("profile", FAMILIES, ids=lambda p: p.stem)
def test_every_family_can_run_somewhere(profile: Path) -> None:
    hosts = FAMILY_HOSTS_OF.get(profile.stem, FAMILY_HOSTS)
    faults = [[p for p in made_of(read_profile(profile, (), root_user=False), host).plan.problems
               if p.severity == "error"] for host in hosts]
    assert [] in faults, faults


def said_keys(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a profile's text, spelled as `struct_keys` does."""
    for key, value in table.items():
        yield prefix + key
        inner = value if isinstance(value, list) else [value]
        below = f"{prefix}{key}[]." if isinstance(value, list) else f"{prefix}{key}."
        for one in inner:
            if isinstance(one, dict):
                yield from said_keys(one, below)


def test_every_key_is_in_a_golden_file() -> None:
    kind = whole()
    assert isinstance(kind, mi.StructType)
    bases = (HERE / "families/base").glob("*.toml")
    texts = [tomli.loads(p.read_text(encoding="utf-8")) for p in (*PROFILES, *FAMILIES, *bases)]
    said = {key for text in texts for key in said_keys(text)}
    assert sorted(set(struct_keys(kind)) - said) == sorted(UNSET)


SEED = """\
-device ioh3420,bus=pcie.0,addr=1c.0,multifunction=on,port=1,chassis=1,id=root
-device ahci,bus=pcie.0,id=ahci
-device virtio-balloon-pci,id=balloon0,bus=pcie.0,addr=0x6
-device virtio-blk-pci,bus=pcie.0,addr=0x5,bootindex=2
-device ide-cd,bus=ide.1,unit=0,bootindex=1
-device ide-cd,bus=ide.2,unit=0
-device virtio-net-pci,mac=52:54:00:26:7F:96,id=net0
-device vfio-pci,host=00:12.0,bus=pcie.0
-device vfio-pci,host=00:12.2,bus=pcie.0
-device vfio-pci,host=03:00.0,bus=root,addr=00.0,multifunction=on,x-vga=on
-device vfio-pci,host=03:00.1,bus=root,addr=00.1
"""


def properties(line: str) -> tuple[str, dict[str, str]]:
    """Driver and properties of a -device line, in one spelling."""
    driver, *pairs = line.removeprefix("-device ").split(",")
    found = dict(pair.split("=", 1) for pair in pairs)
    if "addr" in found:
        slot, _, function = found["addr"].removeprefix("0x").partition(".")
        found["addr"] = f"{int(slot, 16):02x}.{function or 0}"
    if "mac" in found:
        found["mac"] = found["mac"].lower()
    if "host" in found and found["host"].count(":") == 1:
        found["host"] = f"0000:{found['host']}"
    return driver, found


def test_win7_is_the_machine_of_its_source_device_for_device() -> None:
    loaded = read_profile(TOP / "profiles/win7.toml", (), root_user=False)
    _, plan = plan_for(loaded, str(FACTS / "fx8120.json"), holders=False)
    ours = [
        properties(" ".join(o.words)) for o in plan_options(plan) if o.words[0] == "-device"
    ]
    theirs = [properties(line) for line in SEED.splitlines()]
    assert [driver for driver, _ in ours] == [driver for driver, _ in theirs]
    for (driver, have), (_, wanted) in zip(ours, theirs, strict=True):
        assert {k: have.get(k) for k in wanted} == wanted, driver
    words = [" ".join(o.words) for o in plan_options(plan)]
    for wanted_words in (
        "-m size=1G", "-cpu host", "-rtc base=localtime", "-boot menu=on", "-accel kvm",
        "-smp 1,sockets=1,cores=1,threads=1", "-vga none", "-display none",
    ):
        assert wanted_words in words
    assert not any(p.severity == "error" for p in plan.problems), plan.problems
