"""Devices that VFIO has already: when an ordinary user may run without root, and what lacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.facts.cgroup_model import Limits
from qlaunch.facts.model import HostFacts, HostFile, Kernel, PciDevice, Wanted
from qlaunch.facts.probe import read_facts
from qlaunch.plan.steps import LoadModule, TakeDevice
from qlaunch.plan.wanted import facts_wanted
from qlaunch.run.session import _locks
from tests.fake.plans import AUDIO, NET, ROOT, USER, device, host, planned, profile, said
from tests.fake.trees import Tree

GIB = 1 << 30
CARD = device("03:00.0", group=8, driver="vfio-pci", reset_methods=("bus",))
SOUND = device("03:00.1", "10de:0e0c", AUDIO, group=8, driver="vfio-pci")
NIC = device("04:00.0", "15b3:1018", NET, group=9, driver="mlx5-vfio-pci",
             vfio_driver="mlx5-vfio-pci")
BOTH = '[[pci]]\ndevice = "03:00.0"\nfunctions = "all"\n'
ONE = '[[pci]]\ndevice = "04:00.0"\n'
NODES = ("/dev/vfio/vfio", "/dev/vfio/8", "/dev/vfio/9")
SETUP = "qlaunch host setup --user user --apply"


def lent(*devices: PciDevice, closed: tuple[str, ...] = (), memlock: int | None = None,
         modules: tuple[str, ...] = ("vfio", "vfio_iommu_type1", "vfio_pci")) -> HostFacts:
    """A host whose keeper has bound these early and lent VFIO's nodes to the user."""
    files = [HostFile(path=p, kind="char", readable=p not in closed, writable=p not in closed)
             for p in NODES]
    facts = host(*devices, invoker=USER, limits=Limits(memlock=memlock),
                 kernel=Kernel(release="6.1.0", modules=modules))
    return replace(facts, files=(*facts.files, *files))


def test_nothing_is_done_to_the_host() -> None:
    plan = planned(BOTH + ONE, lent(CARD, SOUND, NIC, memlock=17 * GIB))
    assert (plan.steps, plan.needs_root, plan.account) == ((), False, None)
    assert plan.runtime_dir == "/run/user/1000/qlaunch/vm"
    assert plan.memlock is not None and plan.memlock <= 17 * GIB
    assert _locks(plan)  # the soft limit is raised to it
    assert [f.of for f in plan.fds if f.kind == "claim"] == [
        "0000:03:00.0", "0000:03:00.1", "0000:04:00.0"
    ]
    assert (said(plan), said(plan, "warning")) == ([], [])
    (note,) = said(plan, "note")
    assert note.startswith(
        "pci[0].device: VFIO has 0000:03:00.0, 0000:03:00.1, 0000:04:00.0 already"
    )
    assert note.endswith("and nothing keeps a card out of D3cold")
    (note,) = said(planned(ONE, lent(NIC)), "note")
    assert note.endswith("VFIO does the resets, at opening and closing")


def test_root_does_all_of_it_as_ever() -> None:
    facts = lent(CARD, SOUND)
    assert planned(BOTH, replace(facts, invoker=ROOT)) == planned(BOTH, host(CARD, SOUND,
        kernel=facts.kernel, limits=facts.limits, files=facts.files))
    assert planned(BOTH, replace(facts, invoker=ROOT)).steps


@pytest.mark.parametrize(
    ("text", "facts", "words", "hint"),
    [
        (ONE, lent(NIC, closed=("/dev/vfio/9",)), "user may not open /dev/vfio/9", SETUP),
        (ONE, lent(NIC, closed=("/dev/vfio/vfio",)), "user may not open /dev/vfio/vfio", SETUP),
        (ONE, lent(NIC, memlock=8 << 20), "user may lock 8M of memory and this machine locks",
         f"{SETUP}, and then log in again"),
        (ONE, lent(NIC, modules=("vfio",)), "vfio_iommu_type1 is not loaded",
         "qlaunch host setup --apply, or for now: sudo modprobe vfio_iommu_type1"),
        (BOTH + 'reset = "bus"', lent(device("03:00.0", group=8, driver="vfio-pci")),
         'reset = "bus" is root\'s', 'reset = "auto" is VFIO\'s'),
        (ONE + 'rebar = "256M"', lent(NIC), "rebar is root's", "drop rebar"),
        (ONE + 'return_to = "mlx5_core"', lent(NIC), 'return_to = "mlx5_core" is root\'s',
         "drop return_to"),
    ],
)
def test_what_lacks_is_told_with_the_remedy(
    text: str, facts: HostFacts, words: str, hint: str
) -> None:
    plan = planned(text, facts)
    assert plan.needs_root and plan.account is not None
    (note,) = [p for p in plan.problems if p.severity == "note"]
    assert "already, and this would need no root, but " in note.message
    assert words in note.message
    assert note.hint == hint
    by_root = planned(text, replace(facts, invoker=ROOT))
    assert said(by_root, "note") == []
    assert plan.steps == by_root.steps


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (ONE, lent(replace(NIC, driver="mlx5_core"))),  # the host's still
        (ONE, lent(replace(NIC, driver=None))),
        (BOTH, lent(CARD, replace(SOUND, driver="snd_hda_intel"))),  # one of two
        (ONE, lent(NIC, closed=NODES, memlock=8 << 20)),  # nobody has set this user up
        (ONE + "[[net]]\nbridge = \"br0\"\nmake_bridge = true\n",
         lent(NIC, memlock=8 << 20)),  # root's for another reason
    ],
)
def test_otherwise_it_is_roots_and_nothing_is_said(text: str, facts: HostFacts) -> None:
    plan = planned(text, facts)
    assert plan.needs_root
    assert said(plan, "note") == []


def test_another_need_of_root_takes_the_devices_as_root() -> None:
    plan = planned(ONE + "[[net]]\nbridge = \"br0\"\nmake_bridge = true\n", lent(NIC))
    kinds = {type(step) for step in plan.steps}
    assert plan.needs_root and {LoadModule, TakeDevice} <= kinds
    assert said(plan, "note") == []


def test_the_rest_of_the_group_has_to_be_vfios_too() -> None:
    text = BOTH.replace('"all"', '"one"\ngroup = "take"')
    assert planned(text, lent(CARD, SOUND)).steps == ()
    other = replace(SOUND, driver="snd_hda_intel")
    assert planned(text, lent(CARD, other)).needs_root


def test_facts_tell_of_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of devices that VFIO has, for an ordinary user; the limit on locked memory with them."""
    wanted = facts_wanted(profile(ONE), holders=False)
    assert (wanted.limits, facts_wanted(profile(""), holders=False).limits) == (True, False)
    tree = Tree(tmp_path)
    tree.pci("0000:03:00.0", "10de:1200", 0x030000, driver="vfio-pci", group=8)
    tree.pci("0000:04:00.0", "8086:10d3", 0x020000, driver="e1000e", group=9)
    for name, mode in (("vfio", 0o666), ("8", 0o600), ("9", 0o666)):
        tree.write(f"dev/vfio/{name}").chmod(mode)
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    other = replace(USER, uid=os.geteuid() + 70000, gid=70000, groups=())
    for who, nodes in ((other, {"/dev/vfio/vfio": True, "/dev/vfio/8": False}), (ROOT, {})):
        monkeypatch.setattr("qlaunch.facts.invoker.read_invoker", lambda *_, w=who, **__: w)
        found = read_facts(Wanted(qemu=None), tmp_path)
        seen = {f.path: f.readable and f.writable for f in found.files if "vfio" in f.path}
        assert seen == nodes
