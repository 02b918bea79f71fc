"""A profile that `qlaunch new` writes is a machine that a real QEMU builds, in every era."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from qlaunch.advise.answers import Answers
from qlaunch.advise.newprofile import profile_text
from qlaunch.facts.model import Wanted
from qlaunch.facts.probe import read_facts
from qlaunch.plan.make import make_plan
from qlaunch.profile.read import read_profile
from qlaunch.values import Program, Size, VmName
from tests.fake.loop import run
from tests.qemu.test_profiles import ask, facts_of, place, started

__all__ = ["place"]  # a fixture
pytestmark = pytest.mark.qemu
NIC = {"windows7": "e1000", "windows11": "e1000e", "linux": "virtio-net-pci", "other": "e1000"}


@pytest.mark.skipif(os.geteuid() != 0, reason="QEMU runs as nobody, in a directory of nobody's")
@pytest.mark.parametrize("guest", sorted(NIC))
def test_it_is_built_as_it_says(guest: str, both_qemus: str, place: Path) -> None:
    facts = read_facts(Wanted(qemu=None))
    (place / "cd.iso").write_bytes(bytes(1 << 20))
    answers = Answers(guest, None, 2, Size(256 << 20), Size(64 << 20), "user")
    file = place / "vm.toml"
    file.write_text(profile_text(VmName("vm"), answers, facts, ("cd.iso",)))
    written = read_profile(file, (), root_user=False).profile
    profile = msgspec.structs.replace(
        written, qemu=msgspec.structs.replace(written.qemu, binary=Program(both_qemus))
    )
    plan = make_plan(profile, facts_of(profile))
    assert [p for p in plan.problems if p.severity == "error"] == []
    with started(plan, place) as process:
        answer = run(ask(process, plan))
    assert answer["status"]["status"] == "prelaunch"
    assert len(answer["cpus"]) == 2
    assert answer["memory"]["base-memory"] == 256 << 20
    files = {Path(b["inserted"]["file"]).name for b in answer["block"] if b.get("inserted")}
    assert {"vm.qcow2", "cd.iso"} <= files
    kinds = {child["name"]: child["type"] for child in answer["devices"]}
    assert kinds["net0"] == f"child<{NIC[guest]}>"
    assert ("child<tpm-crb>" in kinds.values()) is (guest == "windows11")
    assert (place / "vm.qcow2").stat().st_uid == 65534
