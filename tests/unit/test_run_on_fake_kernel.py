"""A whole run's steps on the fake kernel: every write fails in turn, every moment is a SIGKILL."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qlaunch import children
from qlaunch.errors import NotRestoredError, QlaunchError
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import (
    HoldPower,
    LoadModule,
    OwnGroup,
    ReserveHugePages,
    ResetDevices,
    Step,
    TakeDevice,
)
from qlaunch.run.engine import Engine
from qlaunch.run.journal import (
    Journal,
    Record,
    Stuck,
    create_journal,
    make_header,
    open_journal,
    read_journal,
)
from qlaunch.values import PciAddress, PciId
from tests.fake.failing import each_write_fails
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import HANG, Fault, snapshot
from tests.fake.scripted import MemoryLog

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

GPU, AUDIO = PciAddress("0000:01:00.0"), PciAddress("0000:01:00.1")
STEPS: list[Step] = [
    LoadModule(module="vfio_pci"),
    HoldPower(address=GPU),
    TakeDevice(address=GPU, id=PciId("1234:1111")),
    TakeDevice(address=AUDIO, id=PciId("8086:2668")),
    ResetDevices(addresses=(GPU, AUDIO), method="pm"),
    OwnGroup(address=GPU, group=1, uid=os.geteuid(), gid=os.getegid()),
    ReserveHugePages(size=2 << 20, count=4),
]


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    """On tmpfs where there is one, as /run is: hundreds of fsyncs would wait for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        kernel = FakeKernel(Path(folder))
        yield from fill(kernel)


def fill(kernel: FakeKernel) -> Iterator[FakeKernel]:
    kernel.run(["modprobe", "--", "vfio_pci"])
    kernel.add_device(GPU, driver="bochs", methods="flr pm", nodes="drm/card")
    kernel.add_device(
        AUDIO, ids="8086:2668", driver="snd_hda_intel", methods="pm", nodes="sound/card"
    )
    kernel.add_hugepages(2, 1, limit=50)
    yield kernel
    kernel.release()


def test_there_and_back(kernel: FakeKernel) -> None:
    before = snapshot(kernel.root)
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply(STEPS)
    assert kernel.driver_of(GPU) == kernel.driver_of(AUDIO) == "vfio-pci"
    outcome = engine.undo_all()
    assert outcome.sentences == (
        "3 huge pages of 2048 KiB given back",
        "0000:01:00.0 was reset (pm); 0000:01:00.1 was reset (pm)",
        "0000:01:00.1 is back on snd_hda_intel",
        "0000:01:00.0 is back on bochs",
    )
    assert snapshot(kernel.root) == before


def watch_power(kernel: FakeKernel, address: str) -> Path:
    """A file that tells of each write after which VFIO has the device and it may go to D3cold."""
    told = kernel.root / ".model/cold"
    told.touch()

    def look(path: str, text: str) -> None:
        if kernel.driver_of(address) != "vfio-pci":  # it may be off the bus
            return
        if kernel.read(address, "d3cold_allowed") != "0":
            with told.open("a") as file:
                file.write(f"{path} {text}\n")

    kernel.after_write = look
    return told


def test_a_card_is_never_free_to_go_to_d3cold_while_vfio_has_it(kernel: FakeKernel) -> None:
    """It idles there before QEMU opens it and after QEMU has let go."""
    cold = watch_power(kernel, GPU)
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply(STEPS)
    assert engine.undo_all().left == ()
    assert cold.read_text() == ""
    mine = {f"devices/{GPU}/d3cold_allowed", f"devices/{GPU}/reset"} | {
        f"drivers/{driver}/{way}bind" for driver in ("bochs", "vfio-pci") for way in ("", "un")}
    lines = [line.removeprefix("sys/bus/pci/") for line in kernel.log()]
    kinds = [line for line in lines if line.split()[0] in mine and AUDIO not in line]
    assert kinds == [
        f"devices/{GPU}/d3cold_allowed 0",
        f"drivers/bochs/unbind {GPU}", f"drivers/vfio-pci/bind {GPU}",
        f"devices/{GPU}/reset 1",
        f"drivers/vfio-pci/unbind {GPU}", f"drivers/bochs/bind {GPU}",
        f"devices/{GPU}/d3cold_allowed 1",
    ]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_every_write_of_the_apply_fails_in_turn(kernel: FakeKernel, moment: str) -> None:
    """EIO with nothing done, and EIO with everything done: a half-applied step is undone too."""
    # 3 a device, 2 reset methods, d3cold, pages
    assert each_write_fails(kernel, moment, STEPS, snapshot) == 10


def test_a_hanging_unbind_returns_all_others(kernel: FakeKernel) -> None:
    before = snapshot(kernel.root)
    kernel.faults = [Fault("*/snd_hda_intel/unbind", HANG)]
    late = kernel.root / ".model/late"
    kernel.after_write = lambda path, _: late.touch() if "snd_hda_intel" in path else None
    log = MemoryLog()
    with pytest.raises(NotRestoredError, match=r"0000:01:00\.1"):
        Engine(kernel.host(deadline=2), log, HANDLERS).apply(STEPS)
    assert kernel.driver_of(GPU) == "bochs"
    assert [r.k for r in log.records if isinstance(r, Stuck)] == [3, 3]
    kernel.release()
    kernel.faults = []
    while not late.exists():
        time.sleep(0.01)
    engine = Engine.resume(kernel.host(), MemoryLog(), HANDLERS, log.records)
    assert engine.undo_all().sentences == ("0000:01:00.1 is back on snd_hda_intel",)
    assert snapshot(kernel.root) == before


def test_a_hanging_reset_gets_no_second_write(kernel: FakeKernel) -> None:
    engine = Engine(kernel.host(deadline=2), MemoryLog(), HANDLERS)
    engine.apply(STEPS)
    kernel.faults = [Fault(f"*/{AUDIO}/reset", HANG)]
    outcome = engine.undo_all()
    # nor does the other function of the card, which stays out of D3cold
    assert {type(item.step) for item in outcome.left} == {ResetDevices, TakeDevice, HoldPower}
    assert kernel.read(GPU, "d3cold_allowed") == "0"
    assert kernel.log()[-1] == f"sys/bus/pci/devices/{AUDIO}/reset 1"
    kernel.release()
    kernel.faults = []
    assert engine.undo_all().left == ()
    assert kernel.driver_of(AUDIO) == "snd_hda_intel"


def test_a_card_in_use_keeps_its_driver_and_the_rest_goes_back(kernel: FakeKernel) -> None:
    before = snapshot(kernel.root)
    engine = Engine(kernel.host(), MemoryLog(), HANDLERS)
    engine.apply(STEPS)
    kernel.open_group(1)
    outcome = engine.undo_all()
    assert len(outcome.left) == 3
    assert kernel.driver_of(GPU) == kernel.driver_of(AUDIO) == "vfio-pci"
    kernel.close_group(1)
    assert engine.undo_all().left == ()
    assert snapshot(kernel.root) == before


class Killer:
    """Kills the launcher at the n-th event; events are counted over all its children."""

    def __init__(self, folder: Path, n: int) -> None:
        self.count = folder / f"events-{n}"
        self.n = n
        self.launcher = 0

    def hit(self, *_: object) -> None:
        with self.count.open("a") as file:
            file.write(".")
        if self.count.stat().st_size == self.n:
            os.kill(self.launcher, signal.SIGKILL)
            os._exit(1)  # a guarded child does nothing more either


class SlowKiller(Killer):
    """Leaves the launcher's child alive, in the middle of its write, until somebody waits for it
    (or until the recovery is over). The kernel ends no write because its asker has died."""

    def __init__(self, folder: Path, n: int) -> None:
        super().__init__(folder, n)
        self.child, self.go = folder / "child", folder / "go"

    def hit(self, *_: object) -> None:
        with self.count.open("a") as file:
            file.write(".")
        if self.count.stat().st_size != self.n:
            return
        if os.getpid() != self.launcher:
            self.child.write_text(str(os.getpid()))
        os.kill(self.launcher, signal.SIGKILL)
        wait_for(self.go.exists)

    def waits(self, what: str, _: float) -> None:
        """For a Host's `on_wait`."""
        if "dead process" in what:
            self.go.touch()

    def end(self) -> None:
        """Have the child go on, and wait for its end."""
        self.go.touch()
        if self.child.exists():
            stat = Path(f"/proc/{self.child.read_text()}/stat")
            wait_for(lambda: not stat.exists() or ") Z " in stat.read_text())


def wait_for(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.002)


def in_process(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its wait status."""
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            work()
            code = 0
        except QlaunchError as error:
            os.write(2, str(error).encode())
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def launch(
    kernel: FakeKernel, folder: Path, killer: Killer, steps: Sequence[Step] = STEPS
) -> None:
    """Apply and undo, as a session does; dies on the way."""
    killer.launcher = os.getpid()
    kernel.before_write = kernel.after_write = killer.hit
    if isinstance(killer, SlowKiller):
        kernel.amid_write = killer.hit
    host = kernel.host(deadline=60.0)
    journal = HitJournal(create_journal(folder, make_header(host, "win7")), killer)
    engine = Engine(host, journal, HANDLERS)
    engine.apply(steps)
    engine.undo_all().check()


class HitJournal(Journal):
    """Each record is an event, too."""

    def __init__(self, journal: Journal, killer: Killer) -> None:
        super().__init__(journal._fd, journal.path)
        self.killer = killer

    def write(self, record: Record) -> None:
        super().write(record)
        self.killer.hit()


def recover(kernel: FakeKernel, path: Path, **changes: Any) -> None:
    """What `qlaunch recover` does with a dead run's journal."""
    contents = read_journal(path)
    assert contents.unreadable == ()
    journal, host = open_journal(path), kernel.host(**changes)
    Engine.resume(host, journal, HANDLERS, contents.records).undo_all().check()


def test_killed_at_every_moment_a_new_process_puts_the_host_back(kernel: FakeKernel) -> None:
    before = snapshot(kernel.root)
    killed = 0
    for n in range(1, 200):
        folder = kernel.root / f".model/run-{n}"
        folder.mkdir()
        killer = Killer(folder, n)
        status = in_process(lambda f=folder, k=killer: launch(kernel, f, k))  # type: ignore[misc]
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        killed += 1
        assert in_process(lambda f=folder: recover(kernel, f / "journal")) == 0, n  # type: ignore[misc]
        assert snapshot(kernel.root) == before, f"killed at event {n}"
    assert killed > 60
    assert snapshot(kernel.root) == before


def killed_but_not_the_child(kernel: FakeKernel, steps: Sequence[Step]) -> int:
    """How often the launcher was killed in a write that its child then made all the same, while
    a recovery began at once. Asserts that the host is as it was each time."""
    before = snapshot(kernel.root)
    orphans = 0
    for n in range(1, 300):
        folder = kernel.root / f".model/slow-{n}"
        folder.mkdir()
        killer = SlowKiller(folder, n)

        def work(folder: Path = folder, killer: SlowKiller = killer) -> None:
            launch(kernel, folder, killer, steps)

        status = in_process(work)
        if not os.WIFSIGNALED(status):
            assert status == 0
            return orphans
        orphans += killer.child.exists()

        def work(folder: Path = folder, killer: SlowKiller = killer) -> None:
            recover(kernel, folder / "journal", deadline=60.0, on_wait=killer.waits)

        status = in_process(work)
        killer.end()
        assert status == 0, n
        assert snapshot(kernel.root) == before, f"killed at event {n}"
    raise AssertionError("the run never ended by itself")


def test_a_dead_launchers_child_that_goes_on_is_waited_for(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "PROGRESS_FIRST", 0.01)
    # override, unbind, bind there and back: most are seen before and after, and a bind within
    take = next(step for step in STEPS if isinstance(step, TakeDevice))
    assert killed_but_not_the_child(kernel, [take]) >= 14


def test_recover_killed_as_well(kernel: FakeKernel) -> None:
    """Two launches deep: the recovery dies at every moment too, and a third process ends it."""
    before = snapshot(kernel.root)
    for n in range(1, 60):
        folder = kernel.root / f".model/again-{n}"
        folder.mkdir()
        middle = Killer(folder, 24)  # somewhere after the devices were taken
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


def test_handlers_take_what_json_gives_back(kernel: FakeKernel) -> None:
    """Captured values come from a journal in `recover`: nothing but JSON may be in them."""
    import json

    host = kernel.host()
    for step in STEPS:
        handler: Any = HANDLERS[type(step)]
        captured = handler.capture(host, step)
        handler.apply(host, step, captured)
        assert json.loads(json.dumps(captured)) == captured
