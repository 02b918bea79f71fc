"""Every golden profile is a machine that a real QEMU, of 7.2 and of today, builds and ends.

The files, taps and ports that a profile names are the test's, and what a test machine does not have
is left out: tests/fake/standin.py lists both, and a test holds the lists to what is changed. With
that, the shipped profiles and those of the families of keys are planned for this host, as root
plans them for nobody; of the host steps only the making of shared memory is carried out. QEMU is
started with -S on that plan's command line, its helpers too; it is asked what machine it has built,
its threads are pinned, and it is told to quit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qlaunch.argv.render import plan_options, render_argv
from qlaunch.facts.model import HostFacts, Invoker
from qlaunch.facts.probe import read_facts
from qlaunch.host.handler import Host
from qlaunch.host.shared import MakeSharedHandler
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.paths import Paths
from qlaunch.plan.steps import MakeShared, Step
from qlaunch.plan.wanted import facts_wanted
from qlaunch.profile.profile import Profile
from qlaunch.profile.read import read_profile
from qlaunch.run.handover import opened
from qlaunch.run.helpers import helped
from qlaunch.run.makes import make_files
from qlaunch.run.story import QEMU_LOG
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.pin import pin_threads, read_threads
from qlaunch.vm.process import Exit, QemuProcess, last_words
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.sched import schedule
from qlaunch.vm.spawn import start_qemu
from tests.fake.loop import run
from tests.fake.screen import screen
from tests.fake.standin import STANDS_IN, Here, differing, has_screen, standing_in

pytestmark = pytest.mark.qemu
TOP = Path(__file__).parents[2]
GOLDEN = TOP / "tests/golden"
PROFILES = [*sorted((TOP / "profiles").glob("*.toml")),
            *sorted((GOLDEN / "families").glob("*.toml"))]
# What QEMU 7.2, or Debian's QEMU, lacks, and the plan says so.
NEEDS = {
    "linux-vulkan": {"this QEMU has no device virtio-sound-pci"},
    "gfxstream": {"this QEMU has no device virtio-vga-rutabaga"},
    "input": {"this QEMU has no device virtio-multitouch-pci"},
    "iothreads": {"this QEMU cannot spread the queues of virtio-blk-pci over threads",
                  "this QEMU cannot spread the queues of virtio-scsi-pci over threads"},
    # of the virtiofsd that is in QEMU 7.2
    "virtiofsd": {"this virtiofsd cannot share a directory for reading only",
                  "this virtiofsd cannot do without its sandbox"},
}
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


@pytest.fixture(scope="module")
def windows() -> Iterator[dict[str, str] | None]:
    """The environment of who opens windows on an X server of ours; None without one."""
    if not has_screen():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="qlaunch-screen-") as name:
        Path(name).chmod(0o755)
        with screen(Path(name), NOBODY.uid) as shown:
            yield shown.env


@pytest.fixture
def here(place: Path, windows: dict[str, str] | None) -> Iterator[Here]:
    with contextlib.ExitStack() as end:
        yield Here.look(place, NOBODY.uid, end, windows)


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
            if handover.terminal is not None:
                stack.callback(handover.terminal.close)
            process = start_qemu(
                render_argv(plan), fds=handover.fds, stderr_fd=log, account=plan.account,
                memlock=plan.memlock if plan.account else None,  # root may lock all
                env=plan.profile.qemu.env,
            )
        os.close(lock)
        try:
            yield process
        finally:
            process.send(9)
            process.wait(30)
            process.close()


@contextlib.contextmanager
def shared(steps: Sequence[Step]) -> Iterator[None]:
    """The memory below /dev/shm that a plan makes."""
    handler, host = MakeSharedHandler(), Host()
    with contextlib.ExitStack() as stack:
        for step in steps:
            if isinstance(step, MakeShared):
                captured = handler.capture(host, step)
                stack.callback(handler.undo, host, step, captured)
                handler.apply(host, step, captured)
        yield


def stood_in(path: Path, here: Here, qemu: str) -> tuple[Profile, Profile]:
    """The profile as it is, and as it is started here."""
    profile = read_profile(path, (), root_user=False).profile
    return profile, standing_in(profile, here, qemu)


@pytest.mark.skipif(os.geteuid() != 0, reason="opens a tap")
@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_command_line_is_accepted_and_means_what_it_says(
    path: Path, both_qemus: str, here: Here
) -> None:
    said, profile = stood_in(path, here, both_qemus)
    assert set(differing(said, profile)) <= {*STANDS_IN, *here.lacking()}
    facts = facts_of(profile)
    plan = make_plan(profile, facts)
    taps = {f"net[{n.index}].tap" for n in plan.nics}  # which are not there yet
    errors = {p.message for p in plan.problems if p.severity == "error" and p.where not in taps}
    if errors:
        assert errors <= NEEDS.get(path.stem, set())
        return
    assert not any("no screen here" in p.message for p in plan.problems)
    steps, plan = plan.steps, msgspec.structs.replace(plan, steps=())
    with shared(steps), started(plan, here.place) as process:
        answers = run(ask(process, plan))
    assert answers["status"]["status"] == "prelaunch"
    found = {
        f"{d['slot']:02x}.{d['function']}": d["qdev_id"]
        for bus in answers["pci"] for d in bus["devices"] if bus["bus"] == 0
    }
    wanted = {str(d.place.addr): d.id for d in plan.disks if d.place.addr}
    wanted |= {str(n.place.addr): f"net{n.index}" for n in plan.nics}
    wanted |= {str(p.addr): p.id for p in plan.ports}
    wanted |= {str(p.addr): n for n, p in plan.places.items() if p.addr and p.bus in ROOTS}
    assert {slot: found.get(slot) for slot in wanted} == wanted
    # Ports are kept for host devices that may be plugged in later, and serial ones have no id.
    named = {n for n in plan.places if not n.startswith("usbdev") and not n.endswith("-usb")}
    assert named <= {child["name"] for child in answers["devices"]}
    for option, names in idents(plan).items():
        assert names <= {one[NAMES[option]] for one in answers[option]}, option
    for disk in plan.disks:
        block = next(b for b in answers["block"] if disk.id in b["qdev"].split("/"))
        if disk.file and disk.overlay is None:
            assert Path(disk.file).name in block["inserted"]["image"]["filename"]
            assert block["inserted"]["ro"] is disk.read_only
    assert len(answers["cpus"]) == profile.cpu.count
    assert answers["memory"]["base-memory"] == profile.machine.memory


ROOTS = ("pci.0", "pcie.0")
# Options that make something with an id, and what it is called in the answer about such.
NAMES = {"-device": "name", "-object": "name", "-chardev": "label", "-blockdev": "node-name"}


def idents(plan: Plan) -> dict[str, set[str]]:
    """Option → the ids that are given with it."""
    found: dict[str, set[str]] = defaultdict(set)
    for option in plan_options(plan):
        name, *rest = option.words
        if name not in NAMES or not rest:
            continue
        text = rest[0]
        if text.startswith("{"):
            pairs = msgspec.json.decode(text)
        else:
            pairs = dict(pair.partition("=")[::2] for pair in text.replace(",,", " ").split(","))
        ident = pairs.get("node-name" if name == "-blockdev" else "id")
        if ident:
            found[name].add(ident)
    return found


async def ask(process: QemuProcess, plan: Plan) -> dict[str, Any]:
    """What it has built; then its threads are pinned, and it is told to quit, which it does."""
    monitor = await wait_ready(
        f"{plan.runtime_dir}/control.sock", process, timeout=60,
        last_words=lambda: last_words(f"{plan.state_dir}/{QEMU_LOG}"),
    )
    async with monitor:
        questions = {
            "status": "query-status", "pci": "query-pci", "block": "query-block",
            "cpus": "query-cpus-fast", "memory": "query-memory-size-summary",
            "-chardev": "query-chardev", "-blockdev": "query-named-block-nodes",
        }
        answers = {name: await monitor.execute(command) for name, command in questions.items()}
        for name, path in (("devices", "/machine/peripheral"), ("-object", "/objects")):
            answers[name] = await monitor.execute("qom-list", {"path": path})
        await pin(monitor, process, plan)
        await monitor.execute("quit")
    assert await asyncio.to_thread(process.wait, 60) == Exit(code=0)
    return {**answers, "-device": answers["devices"]}


async def pin(monitor: Monitor, process: QemuProcess, plan: Plan) -> None:
    """As a run does."""
    if plan.pins is not None:
        threads = await read_threads(monitor, process.pid)
        pin_threads(threads, plan.pins)
        schedule(threads.vcpus, plan.pins)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of nobody's")
def test_the_lists_tell_what_is_changed(place: Path) -> None:
    """No more and no less, on a machine that has nothing and on one that has all."""
    for has in (False, True):
        with contextlib.ExitStack() as end:
            here = Here(place, NOBODY.uid, end, {"DISPLAY": ":9"} if has else None, *(has,) * 4)
            changed = {key for path in PROFILES for key in differing(*stood_in(path, here, "qemu"))}
        listed = {*STANDS_IN, *here.lacking()} - ({"qemu.env"} if not has else set())
        assert (sorted(changed - listed), sorted(listed - changed)) == ([], [])
