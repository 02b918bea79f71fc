"""Every command line that the golden files hold is one that a real QEMU accepts and understands.

Host devices cannot be there, so the passed-through functions are left out; everything else is
started with -S as planned, its helpers too, and QEMU is asked what machine it has built.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.facts.model import HostFacts, Invoker
from qlaunch.facts.probe import read_facts
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.paths import Paths
from qlaunch.plan.wanted import facts_wanted
from qlaunch.profile.profile import Profile
from qlaunch.profile.read import read_profile
from qlaunch.run.handover import opened
from qlaunch.run.helpers import helped
from qlaunch.run.makes import make_files
from qlaunch.run.story import QEMU_LOG
from qlaunch.values import HostPath, Program, Size
from qlaunch.vm.process import QemuProcess, last_words
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.spawn import start_qemu
from tests.fake.loop import run

pytestmark = pytest.mark.qemu
TOP = Path(__file__).parents[2]
PROFILES = sorted((TOP / "profiles").glob("*.toml"))
NEEDS = {"linux-vulkan": {"virtio-sound-pci"}}  # which QEMU 7.2 lacks, and the plan says so
NOBODY = Invoker(root=True, uid=65534, gid=65534, name="nobody", home="/", asked=65534)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of nobody's, in which all paths of a machine are."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-golden-") as name:
        os.chown(name, NOBODY.uid, NOBODY.gid)
        monkeypatch.setattr(
            "qlaunch.plan.draft.machine_paths", lambda *_: Paths(name, name, f"{name}/state")
        )
        yield Path(name)


def standing_in(profile: Profile, directory: Path, qemu: str) -> Profile:
    """The profile with files that exist or can be made, no host devices, this QEMU, and TCG."""

    def file(name: str) -> HostPath:
        path = directory / name
        path.write_bytes(bytes(1 << 20))
        path.chmod(0o666)
        return HostPath(path)

    def changed(table: Any, **fields: Any) -> Any:
        return msgspec.structs.replace(table, **fields)

    disks = tuple(
        changed(d, file=HostPath(directory / f"disk{i}") if d.create else file(f"disk{i}"))
        for i, d in enumerate(profile.disk)
    )
    cdroms = tuple(changed(c, file=file(f"cd{i}")) for i, c in enumerate(profile.cdrom))
    shares = tuple(changed(s, path=HostPath(directory)) for s in profile.share)
    serial = tuple(changed(s, type="file", file=HostPath(directory / "s")) for s in profile.serial)
    nets = tuple(
        changed(n, tap="qlgolden0", bridge=None, nat=None) if n.bridge or n.nat else n
        for n in profile.net
    )
    screen = type(profile.display)(
        type="spice" if profile.display.type == "spice" else "none",  # its channels need it
        vga="none" if profile.display.vga == "none" else "std",
    )
    return changed(  # type: ignore[no-any-return]
        profile, disk=disks, cdrom=cdroms, pci=(), vgpu=(), serial=serial, net=nets, display=screen,
        share=shares, machine=changed(
            profile.machine, accel="tcg", memory=Size(256 << 20), hugepages=False,
        ),
        cpu=changed(profile.cpu, pin=None),
        input=tuple(i for i in profile.input if i.evdev is None),
        qemu=changed(profile.qemu, binary=Program(qemu)),
    )


def facts_of(profile: Profile) -> HostFacts:
    """This host's, as root looks for nobody."""
    wanted = facts_wanted(profile, holders=False, trusted=True)
    nobody = msgspec.structs.replace(wanted, user=NOBODY.name)
    return msgspec.structs.replace(read_facts(nobody), invoker=NOBODY)


def placed(plan: Plan, directory: Path) -> Plan:
    """The plan of a machine of our own, with its runtime files in a directory of the test's."""
    place = str(directory)
    return msgspec.structs.replace(
        plan, runtime_dir=place, socket_dir=place, state_dir=place, account=None, steps=()
    )


@contextlib.contextmanager
def started(plan: Plan, directory: Path) -> Iterator[QemuProcess]:
    """A QEMU on the plan's own command line, with what it keeps made and its helpers started."""
    state = Path(plan.state_dir)
    state.mkdir(exist_ok=True)
    if plan.account is not None:
        os.chown(state, plan.account.uid, plan.account.gid)
    make_files(plan, print)
    log = os.open(state / QEMU_LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, log)
        with opened(plan, lock, []) as handover:
            stack.enter_context(helped(plan, log, handover, pytest.fail))
            process = start_qemu(
                render_argv(plan), fds=handover.fds, stderr_fd=log, account=plan.account
            )
        os.close(lock)
        try:
            yield process
        finally:
            process.send(9)
            process.wait(30)
            process.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="opens a tap")
@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_command_line_is_accepted_and_means_what_it_says(
    path: Path, both_qemus: str, place: Path
) -> None:
    profile = standing_in(read_profile(path, (), root_user=False).profile, place, both_qemus)
    facts = facts_of(profile)
    plan = msgspec.structs.replace(make_plan(profile, facts), steps=())
    errors = [p for p in plan.problems if p.severity == "error" and "tap" not in p.where]
    assert facts.qemu is not None
    if lacking := NEEDS.get(path.stem, set()) - set(facts.qemu.devices):
        assert [p.message for p in errors] == [f"this QEMU has no device {d}" for d in lacking]
        return
    assert errors == []
    with started(plan, place) as process:
        answers = run(ask(process, plan))
    assert answers["status"]["status"] == "prelaunch"
    found = {
        f"{d['slot']:02x}.{d['function']}": d["qdev_id"]
        for bus in answers["pci"] for d in bus["devices"] if bus["bus"] == 0
    }
    wanted = {str(d.place.addr): d.id for d in plan.disks if d.place.addr}
    wanted |= {str(n.place.addr): f"net{n.index}" for n in plan.nics}
    wanted |= {str(p.addr): p.id for p in plan.ports}
    wanted |= {str(p.addr): n for n, p in plan.places.items() if p.addr and p.bus == "pcie.0"}
    assert {slot: found.get(slot) for slot in wanted} == wanted
    assert set(plan.places) <= {child["name"] for child in answers["devices"]}
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
        last_words=lambda: last_words(f"{plan.state_dir}/{QEMU_LOG}"),
    )
    async with monitor:
        questions = {
            "status": "query-status", "pci": "query-pci", "block": "query-block",
            "cpus": "query-cpus-fast", "memory": "query-memory-size-summary",
        }
        answers = {name: await monitor.execute(command) for name, command in questions.items()}
        devices = await monitor.execute("qom-list", {"path": "/machine/peripheral"})
        return {**answers, "devices": devices}
