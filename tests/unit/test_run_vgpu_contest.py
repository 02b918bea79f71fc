"""Starts that plan at the same moment: each gets a slice of its own while there are enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.errors import HostError
from qlaunch.facts.model import HostFacts
from qlaunch.facts.probe import read_snapshot
from qlaunch.facts.vgpu import read_vgpu
from qlaunch.host.handler import Host
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import SetVgpuType
from qlaunch.profile.profile import Profile
from qlaunch.profile.tables import build
from qlaunch.run.claims import Owner, drop_claims, take_claims
from qlaunch.run.prepare import claim_devices
from qlaunch.run.story import Story
from tests.fake.races import child, contest

DATA = Path(__file__).parents[1] / "data/facts"
FUNCTIONS = [f"0000:41:{n >> 3:02x}.{n & 7}" for n in range(5, 12)]  # 00.4 has a vGPU


def profile(name: str) -> Profile:
    return build({"name": name, "vgpu": [{"type": "557"}]})


def planner(root: Path, name: str) -> Callable[[bool], Plan]:
    """What `run` does: look, plan; refuse what cannot be."""
    facts = read_snapshot(DATA / "ada-server.json")

    def looked() -> HostFacts:
        assert facts.vgpu is not None
        return replace(facts, vgpu=replace(facts.vgpu, claims=read_vgpu(root).claims))

    def plan(_holders: bool) -> Plan:
        made = make_plan(profile(name), looked())
        faults = [p for p in made.problems if p.severity == "error"]
        if faults:
            raise HostError(faults)
        return made

    return plan


def base(root: Path) -> str:
    directory = root / "run/qlaunch"
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    return str(directory)


def start(root: Path, name: str, first: Plan | None = None) -> tuple[Plan, list[Any]]:
    """Stages 3 and 4; the plan that was carried on with, and the claims."""
    again, claims = planner(root, name), list[Any]()
    plan = claim_devices(
        base(root), first or again(True), claims, Story(quiet=True), Host(), again
    )
    return plan, claims


def test_one_that_came_later_takes_the_next(tmp_path: Path) -> None:
    stale = planner(tmp_path, "late")(True)
    assert stale.vgpus[0].name == FUNCTIONS[0]
    with child(lambda: start(tmp_path, "first")):
        plan, claims = start(tmp_path, "late", stale)
        assert plan.vgpus[0].name == FUNCTIONS[1]
        assert [c.device for c in claims] == [FUNCTIONS[1]]
        assert [s.address for s in plan.steps if isinstance(s, SetVgpuType)] == [FUNCTIONS[1]]
        drop_claims(claims)


def test_the_last_one_is_refused_by_name(tmp_path: Path) -> None:
    stale = planner(tmp_path, "late")(True)
    with (
        child(lambda: take_claims(base(tmp_path), Owner("other"), FUNCTIONS)),
        pytest.raises(HostError, match="no virtual function can be given this type"),
    ):
        start(tmp_path, "late", stale)


def test_one_that_is_named_is_not_exchanged(tmp_path: Path) -> None:
    """Nothing else is chosen for what the profile says by address."""
    fixed = make_plan(
        build({"name": "late", "vgpu": [{"type": "557", "parent": FUNCTIONS[2]}]}),
        read_snapshot(DATA / "ada-server.json"),
    )
    with (
        child(lambda: take_claims(base(tmp_path), Owner("other"), [FUNCTIONS[2]])),
        pytest.raises(HostError, match="in use by the machine other"),
    ):
        claim_devices(base(tmp_path), fixed, [], Story(quiet=True), Host(), lambda _: fixed)


def test_all_at_once(tmp_path: Path) -> None:
    """Eight starts, all with the same plan in hand, seven functions: one is refused."""
    stale = planner(tmp_path, "m")(True)

    def attempt(_round: int) -> bool:
        name = f"m{os.getpid()}"
        _, claims = start(tmp_path, name, replace(stale, name=name))
        return len(claims) == 1

    assert contest(1, 8, attempt) == [7]
