"""Every command line that the golden files hold is one that a real QEMU accepts and understands.

Host devices cannot be there, so the passed-through functions are left out; everything else is
started with -S as planned, and QEMU is asked what machine it has built.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.facts.model import Wanted
from qlaunch.facts.probe import read_facts
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.profile.profile import Profile
from qlaunch.profile.read import read_profile
from qlaunch.run.handover import opened
from qlaunch.values import HostPath, Size
from qlaunch.vm.process import QemuProcess, last_words
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.spawn import start_qemu
from tests.fake.loop import run

pytestmark = pytest.mark.qemu
TOP = Path(__file__).parents[2]
PROFILES = sorted((TOP / "profiles").glob("*.toml"))


def standing_in(profile: Profile, directory: Path) -> Profile:
    """The profile with files that exist, no host devices, and TCG."""

    def file(name: str) -> HostPath:
        path = directory / name
        path.write_bytes(bytes(1 << 20))
        path.chmod(0o666)
        return HostPath(path)

    def changed(table: Any, **fields: Any) -> Any:
        return msgspec.structs.replace(table, **fields)

    disks = tuple(changed(d, file=file(f"disk{i}")) for i, d in enumerate(profile.disk))
    cdroms = tuple(changed(c, file=file(f"cd{i}")) for i, c in enumerate(profile.cdrom))
    serial = tuple(changed(s, type="file", file=HostPath(directory / "s")) for s in profile.serial)
    nets = tuple(changed(n, tap="qlgolden0") if n.bridge else n for n in profile.net)
    return changed(  # type: ignore[no-any-return]
        profile, disk=disks, cdrom=cdroms, pci=(), serial=serial, net=nets,
        machine=changed(profile.machine, accel="tcg", memory=Size(256 << 20)),
        display=changed(profile.display, type="none"),
    )


def placed(plan: Plan, directory: Path) -> Plan:
    """The plan with its runtime files in a directory of the test's."""
    place = str(directory)
    return msgspec.structs.replace(
        plan, runtime_dir=place, socket_dir=place, state_dir=place, account=None, steps=()
    )


@contextlib.contextmanager
def started(plan: Plan, directory: Path) -> Any:
    """A QEMU on the plan's own command line."""
    log = directory / "log"
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    with log.open("ab") as stderr, opened(plan, lock, []) as handover:
        process = start_qemu(render_argv(plan), fds=handover.fds, stderr_fd=stderr.fileno())
    os.close(lock)
    try:
        yield process
    finally:
        process.send(9)
        process.wait(30)
        process.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="opens a tap")
@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_command_line_is_accepted_and_means_what_it_says(path: Path, tmp_path: Path) -> None:
    profile = standing_in(read_profile(path, (), root_user=False).profile, tmp_path)
    plan = placed(make_plan(profile, read_facts(Wanted(pci=False, iommu=False))), tmp_path)
    with started(plan, tmp_path) as process:
        answers = run(ask(process, plan))
    assert answers["status"]["status"] == "prelaunch"
    found = {
        f"{d['slot']:02x}.{d['function']}": d["qdev_id"]
        for bus in answers["pci"] for d in bus["devices"] if bus["bus"] == 0
    }
    wanted = {str(d.place.addr): d.id for d in plan.disks if d.place.addr}
    wanted |= {str(n.place.addr): f"net{n.index}" for n in plan.nics}
    wanted |= {str(p.addr): p.id for p in plan.ports}
    wanted |= {str(p.addr): name for name, p in plan.places.items() if p.addr}
    assert {slot: found.get(slot) for slot in wanted} == wanted
    nodes = {block["qdev"].split("/")[-1]: block for block in answers["block"] if block["qdev"]}
    for disk in plan.disks:
        block = next(b for name, b in nodes.items() if disk.id in b["qdev"])
        assert block["inserted"]["file"].endswith(Path(disk.file).name)
        assert block["inserted"]["ro"] is disk.read_only
    assert len(answers["cpus"]) == profile.cpu.count
    assert answers["memory"]["base-memory"] == profile.machine.memory


async def ask(process: QemuProcess, plan: Plan) -> dict[str, Any]:
    monitor = await wait_ready(
        f"{plan.runtime_dir}/control.sock", process, timeout=60,
        last_words=lambda: last_words(f"{plan.runtime_dir}/log"),
    )
    async with monitor:
        questions = {
            "status": "query-status", "pci": "query-pci", "block": "query-block",
            "cpus": "query-cpus-fast", "memory": "query-memory-size-summary",
        }
        return {name: await monitor.execute(command) for name, command in questions.items()}
