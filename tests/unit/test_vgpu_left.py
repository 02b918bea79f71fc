"""What a machine that died has left of slices does not keep itself from starting again, and tells
others who is to be recovered."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from qlaunch.cli import run as run_verb
from qlaunch.errors import HostError, Problem
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import LoadModule
from qlaunch.profile.tables import build
from qlaunch.run.claims import Owner, take_claims
from qlaunch.run.engine import Engine
from qlaunch.run.journal import create_journal, make_header
from qlaunch.run.locks import make_directory
from qlaunch.run.prepare import claim_name
from qlaunch.run.story import Story
from tests.fake.kernel_tree import snapshot
from tests.fake.kernel_vgpu import VgpuKernel
from tests.fake.plans import planned
from tests.fake.vgpu_hosts import GVT_TEXT
from tests.unit.test_run_on_fake_kernel import in_process
from tests.unit.test_vgpu_whole import ADA, INTEL, NVIDIA, _as_us, facts, faults

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

FULL = {"type": "NVIDIA RTX6000-Ada-16Q"}
LAST = {"type": "i915-GVTg_V5_4"}
UUID = "fff6f017-3417-4ad3-b05e-17ae3e1a4615"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[VgpuKernel]:
    kernel = VgpuKernel(tmp_path)
    kernel.add_driver("vfio-pci")
    kernel.add_device(INTEL, ids="8086:5917", driver="i915", group=1)
    kernel.add_parent(INTEL, {"i915-GVTg_V5_4": 2, "i915-GVTg_V5_8": 1}, pool=2, driver="i915",
                      text=GVT_TEXT.format(64, 384, "1024x768", 2))
    kernel.add_device(NVIDIA, ids="10de:26b1", driver="nvidia", group=40, methods="bus")
    kernel.add_sriov(NVIDIA, 2, offset=4, vf="26b1", matches="nvidia")
    kernel.write(kernel.device(NVIDIA) / "sriov_numvfs", b"2")
    kernel.add_nvidia(NVIDIA, ADA, pool=16)
    (tmp_path / "run").mkdir(exist_ok=True)
    yield kernel
    kernel.release()


def base(kernel: VgpuKernel) -> str:
    return str(kernel.root / "run/qlaunch")


def plan(kernel: VgpuKernel, name: str, *tables: dict[str, str]) -> Plan:
    return make_plan(build({"name": name, "vgpu": list(tables)}), facts(kernel))


def dies(kernel: VgpuKernel, made: Plan) -> None:
    """A launcher, and its guest with it, once everything is made."""

    def launch() -> None:
        runtime = f"{base(kernel)}/{made.name}"
        make_directory(runtime)
        claimed = [f.of for f in made.fds if f.kind == "claim"]
        take_claims(base(kernel), Owner(made.name), claimed)
        journal = create_journal(Path(runtime), make_header(kernel.host(), made.name))
        Engine(kernel.host(), journal, HANDLERS).apply(
            [_as_us(s) for s in made.steps if not isinstance(s, LoadModule)])
        os.kill(os.getpid(), signal.SIGKILL)

    assert faults(made) == []
    assert os.WIFSIGNALED(in_process(launch))


@pytest.mark.parametrize(
    "table", [FULL, LAST, LAST | {"uuid": UUID}], ids=["nvidia", "mdev", "uuid"])
def test_our_own_does_not_keep_us_from_starting(
    kernel: VgpuKernel, table: dict[str, str]
) -> None:
    """Stage 2 puts it back, before stage 3 plans with the last instance of all."""
    first = plan(kernel, "vm", table)
    before = snapshot(kernel.root)
    dies(kernel, first)
    assert snapshot(kernel.root) != before
    with contextlib.ExitStack() as stack:
        claim_name(base(kernel), "vm", stack, Story(quiet=True), kernel.host())
        again = plan(kernel, "vm", table)
        assert faults(again) == []
        assert again.vgpus == first.vgpus
        assert snapshot(kernel.root) == before


@pytest.mark.parametrize("table", [FULL, LAST], ids=["nvidia", "mdev"])
def test_anothers_is_told_by_name(kernel: VgpuKernel, table: dict[str, str]) -> None:
    made = plan(kernel, "dead", table)
    dies(kernel, made)
    [problem] = [p for p in plan(kernel, "late", table).problems if p.severity == "error"]
    assert f"{made.vgpus[0].name} was left behind by dead" in problem.found
    assert problem.hint == "sudo qlaunch recover 'dead'"
    with contextlib.ExitStack() as stack:
        claim_name(base(kernel), "dead", stack, Story(quiet=True), kernel.host())
    assert faults(plan(kernel, "late", table)) == []


def test_another_device_of_our_uuid(kernel: VgpuKernel) -> None:
    dies(kernel, plan(kernel, "dead", {"type": "i915-GVTg_V5_8", "uuid": UUID}))
    [problem] = plan(kernel, "late", {"type": "i915-GVTg_V5_4", "uuid": UUID}).problems
    assert "left behind by dead" in problem.found
    assert problem.hint == "sudo qlaunch recover 'dead'"


def test_who_cannot_see_whose_it_is_is_told_of_recovery(kernel: VgpuKernel) -> None:
    """Claims are root's to read."""
    dies(kernel, plan(kernel, "dead", FULL))
    dies(kernel, plan(kernel, "dead2", LAST))
    for path in (kernel.root / "run/qlaunch/.claims").iterdir():
        path.unlink()
    for table in (FULL, LAST):
        [problem] = plan(kernel, "late", table).problems
        assert "after a crash: sudo qlaunch recover --all" in problem.hint


def test_a_users_start_leaves_it_to_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only root can put it back, and it does so before it plans."""
    monkeypatch.setattr("qlaunch.plan.paths.runtime_root", lambda *_: str(tmp_path))
    made = planned('[[vgpu]]\ntype = "none-such"\n')
    made = replace(made, problems=(Problem("no instance is left", "vgpu[0]"),))
    assert not run_verb._left_behind(made), "nothing is there"
    (tmp_path / "vm").mkdir()
    assert run_verb._left_behind(made)
    for problems in ((), (*made.problems, Problem("no such file", "disk[0].file"))):
        assert not run_verb._left_behind(replace(made, problems=problems))
    asked: list[str] = []

    def become(name: str) -> None:
        asked.append(name)
        raise KeyboardInterrupt

    (tmp_path / "vm.toml").write_text('[[vgpu]]\ntype = "x"\n[[net]]\nuser = {}\nboot = 1\n')
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(run_verb, "plan_for", lambda *_, **__: (None, made))
    monkeypatch.setattr("qlaunch.cli.elevate.run_as_root", become)
    parser = argparse.ArgumentParser()
    run_verb.add_arguments(parser)
    with pytest.raises(KeyboardInterrupt):
        run_verb.run(parser.parse_args([str(tmp_path / "vm.toml")]))
    assert asked == ["vm"]
    assert "vm may have left something behind" in "".join(capsys.readouterr())
    (tmp_path / "vm").rmdir()
    with pytest.raises(HostError, match="no instance is left"):
        run_verb.run(parser.parse_args([str(tmp_path / "vm.toml")]))
