"""A machine's own network on the fake kernel: each request fails in turn, each moment is a kill."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import (
    MakeBridge,
    MakeMacvtap,
    NftTable,
    RunDnsmasq,
    SetForwarding,
    Step,
)
from qlaunch.run.engine import Engine
from qlaunch.run.journal import Record, create_journal, make_header
from qlaunch.values import Ipv4Network, MacAddress
from tests.fake.failing import each_write_fails
from tests.fake.kernel_tree import snapshot as tree_of
from tests.fake.network import FakeNetwork
from tests.fake.scripted import MemoryLog
from tests.unit.test_run_on_fake_kernel import Killer, in_process, recover

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

NETWORK, MAC = Ipv4Network("192.168.77.0/24"), MacAddress("52:54:00:00:00:01")
STEPS: list[Step] = [
    MakeMacvtap(name="qlmv0", parent="eth0", mode="bridge", mac=MAC),
    MakeBridge(name="qlnat0", address="192.168.77.1/24"),
    SetForwarding(machine="win7", directory="/run/qlaunch/.forwarding"),
    NftTable(table="qlaunch_win7", bridge="qlnat0", network=NETWORK, guest="192.168.77.2"),
    RunDnsmasq(bridge="qlnat0", directory="/run/qlaunch/win7", network=NETWORK, mac=MAC,
               guest="192.168.77.2"),
]  # fmt: skip


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeNetwork]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        kernel = FakeNetwork(Path(folder))
        (kernel.root / "run/qlaunch/win7").mkdir(parents=True)
        yield kernel


def snapshot(root: Path) -> dict[str, object]:
    """The trees, the links, the tables and what lies in /run."""
    rest = [p for top in ("nft", "run") for p in (root / top).rglob("*")]
    return {
        **tree_of(root), "links": (root / "links.json").read_text(),
        **{str(p.relative_to(root)): p.is_file() and p.read_text() for p in rest},
    }


def test_there_and_back(kernel: FakeNetwork) -> None:
    before = snapshot(kernel.root)
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply(STEPS)
    assert (kernel.root / "proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
    assert engine.undo_all().sentences == (
        "dnsmasq on qlnat0 has ended", "the firewall table ip qlaunch_win7 is removed",
        "IPv4 forwarding is off again", "the bridge qlnat0 is removed",
        "the macvtap qlmv0 is removed",
    )  # fmt: skip
    assert snapshot(kernel.root) == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_every_request_of_the_apply_fails_in_turn(kernel: FakeNetwork, moment: str) -> None:
    # two a link, the switch, the table, the daemon
    assert each_write_fails(kernel, moment, STEPS, snapshot) == 7


def launch(kernel: FakeNetwork, folder: Path, killer: Killer) -> None:
    """Apply and undo, as a session does; dies on the way."""
    killer.launcher = os.getpid()
    kernel.before_write = kernel.after_write = killer.hit
    journal = create_journal(folder, make_header(kernel.host(), "win7"))

    class Hit:
        def write(self, record: Record) -> None:
            journal.write(record)
            killer.hit()

    engine = Engine(kernel.host(), Hit(), HANDLERS)
    engine.apply(STEPS)
    engine.undo_all().check()


def test_killed_at_every_moment_a_new_process_puts_the_host_back(kernel: FakeNetwork) -> None:
    before = snapshot(kernel.root)
    for n in range(1, 100):
        folder = kernel.root / f".model/run-{n}"
        folder.mkdir()
        killer = Killer(folder, n)
        status = in_process(lambda f=folder, k=killer: launch(kernel, f, k))  # type: ignore[misc]
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        assert in_process(lambda f=folder: recover(kernel, f / "journal")) == 0, n  # type: ignore[misc]
        assert snapshot(kernel.root) == before, f"killed at event {n}"
    assert n > 40
    assert snapshot(kernel.root) == before


def test_recover_killed_as_well(kernel: FakeNetwork) -> None:
    before = snapshot(kernel.root)
    for n in range(1, 40):
        folder = kernel.root / f".model/again-{n}"
        folder.mkdir()
        middle = Killer(folder, 23)  # all but the daemon's record is written
        assert os.WIFSIGNALED(in_process(lambda f=folder, k=middle: launch(kernel, f, k)))  # type: ignore[misc]
        killer = Killer(kernel.root / ".model", n)

        def dying(folder: Path = folder, killer: Killer = killer) -> None:
            killer.launcher = os.getpid()
            kernel.before_write = kernel.after_write = killer.hit
            recover(kernel, folder / "journal")

        status = in_process(dying)
        if os.WIFSIGNALED(status):
            assert in_process(lambda f=folder: recover(kernel, f / "journal")) == 0  # type: ignore[misc]
        assert snapshot(kernel.root) == before, f"recovery killed at event {n}"
        if not os.WIFSIGNALED(status):
            return
    raise AssertionError("the recovery never ended by itself")


def test_the_last_machine_turns_forwarding_off(kernel: FakeNetwork) -> None:
    before = snapshot(kernel.root)
    steps = [SetForwarding(machine=m, directory="/run/qlaunch/.forwarding") for m in "abc"]
    engines = []
    for step in steps:
        engines.append(Engine(kernel.host(), MemoryLog(), HANDLERS))
        engines[-1].apply([step])
    switch = kernel.root / "proc/sys/net/ipv4/ip_forward"
    for engine in engines[:2]:
        assert engine.undo_all().sentences == ()
        assert switch.read_text() == "1\n"
    assert engines[2].undo_all().sentences == ("IPv4 forwarding is off again",)
    assert snapshot(kernel.root) == before  # vpn0 forwards by itself, as before


def test_somebody_turned_it_off_meanwhile(kernel: FakeNetwork) -> None:
    before = snapshot(kernel.root)
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply(STEPS[2:3])
    kernel.write(kernel.root / "proc/sys/net/ipv4/ip_forward", b"0")
    assert engine.undo_all().sentences == ()
    vpn = "proc/sys/net/ipv4/conf/vpn0/forwarding"
    after = snapshot(kernel.root)
    assert {k for k in before if after.get(k) != before[k]} == {vpn}  # theirs, not ours
    assert set(after) == set(before)


def test_a_machine_that_starts_after_a_kill_in_the_midst_of_putting_back(
    kernel: FakeNetwork,
) -> None:
    before = snapshot(kernel.root)
    one, two = (
        SetForwarding(machine=m, directory="/run/qlaunch/.forwarding") for m in ("one", "two")
    )
    log = MemoryLog()
    Engine(kernel.host(), log, HANDLERS).apply([one])

    def die(path: str, _: str) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    kernel.after_write = die
    assert Engine.resume(kernel.host(), MemoryLog(), HANDLERS, log.records).undo_all().left
    kernel.after_write = None
    later = Engine(kernel.host(), MemoryLog(), HANDLERS)
    later.apply([two])
    assert Engine.resume(kernel.host(), MemoryLog(), HANDLERS, log.records).undo_all().left == ()
    assert later.undo_all().left == ()
    assert snapshot(kernel.root) == before
