"""Profiles → plans, one option a line, compared with recorded files.

`QLAUNCH_GOLDEN=write pytest tests/golden` records them anew; review the difference as you would
code. `$TOP` stands for the checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qlaunch.argv.render import plan_options
from qlaunch.cli.common import Made, plan_for
from qlaunch.cli.plan import reason
from qlaunch.profile.read import read_profile

TOP = Path(__file__).parents[2]
FACTS = TOP / "tests/data/facts"
PROFILES = sorted((TOP / "profiles").glob("*.toml"))
HOSTS = ("fx8120", "plain")
# Profiles for hardware of which one of these has none.
HOSTS_OF = {
    "win10-gvtg": ("gvt-laptop",), "vgpu-ada": ("ada-server",), "win11": ("tower",),
    "single-gpu": ("tower",), "linux-vulkan": ("tower", "fx8120"), "win7-xen-hd7870": ("hd7870",),
}
CASES = [(p, h) for p in PROFILES for h in HOSTS_OF.get(p.stem, HOSTS)]


def recorded(profile: Path, host: str) -> str:
    """The golden text of a profile on a recorded host."""
    loaded = read_profile(profile, (), root_user=False)
    facts, plan = plan_for(loaded, str(FACTS / f"{host}.json"), holders=False)
    made = Made(loaded, facts, plan)
    lines = [f"{p.severity}: {p.where}: {p.message}" for p in plan.problems]
    lines += [f"step {step}  # {reason(step.why, made)}" for step in plan.steps]
    lines += [f"fd {f.number}: {f.kind} {f.of}".rstrip() for f in plan.fds]
    lines += [" ".join(o.words) + f"  # {reason(o.why, made)}" for o in plan_options(plan)]
    return "\n".join(lines).replace(str(TOP), "$TOP") + "\n"


@pytest.mark.parametrize(
    ("profile", "host"), CASES, ids=[f"{p.stem}-{h}" for p, h in CASES]
)
def test_plan_is_as_recorded(profile: Path, host: str) -> None:
    golden = Path(__file__).parent / f"{profile.stem}.{host}.txt"
    text = recorded(profile, host)
    if os.environ.get("QLAUNCH_GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


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
