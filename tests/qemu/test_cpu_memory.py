"""Processors and memory of a real QEMU, of 7.2 and of today, are what the profile says."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.errors import HostError
from qlaunch.facts.model import HostFacts
from qlaunch.facts.probe import read_facts
from qlaunch.host.handler import Host
from qlaunch.host.memory import ReserveHugePagesHandler
from qlaunch.plan.eras import hyperv_set
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import ReserveHugePages
from qlaunch.plan.wanted import facts_wanted
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.pin import read_threads
from qlaunch.vm.process import QemuProcess, last_words
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.sched import schedule
from tests.fake.loop import run
from tests.fake.plans import profile
from tests.qemu.test_profiles import placed, started

pytestmark = pytest.mark.qemu
MIB = 1 << 20
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def same(plan: Plan) -> Plan:
    """The plan as it is."""
    return plan


class Bench:
    """A QEMU built from a few lines, and questions to it."""

    def __init__(self, directory: Path, binary: str) -> None:
        self.directory = directory
        self.binary = binary
        self.plan: Plan
        self.facts: HostFacts
        self.process: QemuProcess

    @contextlib.contextmanager
    def machine(
        self, text: str, machine: str = 'memory = "64M"', change: Callable[[Plan], Plan] = same,
    ) -> Iterator[Bench]:
        """Planned on this host, and started without a guest's instruction."""
        made = profile(
            f'[machine]\naccel = "tcg"\n{machine}\n[qemu]\nbinary = "{self.binary}"\n{text}'
        )
        self.facts = read_facts(facts_wanted(made, holders=False, trusted=True))
        self.plan = change(placed(make_plan(made, self.facts), self.directory))
        assert [str(p) for p in self.plan.problems if p.severity == "error"] == []
        with started(self.plan, self.directory) as self.process:
            yield self

    def ask(self, command: str, **arguments: Any) -> Any:
        """The answer to one QMP command."""
        return self.with_monitor(lambda monitor: monitor.execute(command, arguments))

    def with_monitor(self, use: Callable[[Monitor], Any]) -> Any:
        async def asked() -> Any:
            monitor = await wait_ready(
                f"{self.plan.runtime_dir}/control.sock", self.process, timeout=60,
                last_words=lambda: last_words(f"{self.plan.state_dir}/qemu.log"),
            )
            async with monitor:
                return await use(monitor)

        return run(asked())

    def cpus(self) -> list[dict[str, int]]:
        """Where each vCPU is, by index."""
        found = self.ask("query-cpus-fast")
        return [c["props"] for c in sorted(found, key=lambda c: int(c["cpu-index"]))]

    def cpu(self, name: str) -> Any:
        """A property of the first vCPU."""
        path = self.ask("query-cpus-fast")[0]["qom-path"]
        return self.ask("qom-get", path=path, property=name)


@pytest.fixture
def bench(both_qemus: str, tmp_path: Path) -> Bench:
    return Bench(tmp_path, both_qemus)


def test_topology_with_dies(bench: Bench) -> None:
    with bench.machine("[cpu]\nsockets = 2\ndies = 2\ncores = 1\nthreads = 2\n"):
        cpus = bench.cpus()
    where = [(c["socket-id"], c["die-id"], c["core-id"], c["thread-id"]) for c in cpus]
    assert where == [(s, d, 0, t) for s in (0, 1) for d in (0, 1) for t in (0, 1)]


def with_hyperv(plan: Plan) -> Plan:
    """The enlightenments of a machine with KVM. 7.2 ends without KVM when it has vpindex."""
    names, _ = hyperv_set(plan.profile.guest, plan.profile.cpu.hyperv)
    if plan.qemu_version < (8,):
        names = tuple(n for n in names if n != "vpindex")
    return replace(plan, cpu=replace(plan.cpu, hyperv=names))


def test_features_and_enlightenments(bench: Bench) -> None:
    """The set of the third source, with what QEMU refuses it without under KVM."""
    text = (
        '[cpu]\nmodel = "qemu64"\nflags = ["+aes", "-svm"]\nhide_kvm = true\n'
        'hyperv = ["relaxed", "vapic", "spinlocks", "runtime", "synic", "stimer"]\n'
        'hyperv_spinlocks = 4095\nvendor_id = "0123456789ab"\ntsc_frequency = 2_000_000_000\n'
        'cache = "none"\nphys_bits = 42\npmu = true\n'
    )
    wanted = {
        "aes": True, "svm": False, "kvm": False, "hv-relaxed": True,
        "hv-vapic": True, "hv-spinlocks": 4095, "hv-runtime": True, "hv-synic": True,
        "hv-stimer": True, "hv-time": True, "hv-reset": False,
        "hv-vendor-id": "0123456789ab", "tsc-frequency": 2_000_000_000, "l3-cache": False,
        "phys-bits": 42, "pmu": True,
    }
    with bench.machine(text, change=with_hyperv):
        found = {name: bench.cpu(name) for name in wanted}
        assert bench.cpu("hv-vpindex") is (bench.plan.qemu_version > (8,))
    assert found == wanted


def test_every_enlightenment_is_known(bench: Bench) -> None:
    """To the binary's own list, which the plan compares with."""
    from typing import get_args

    from qlaunch.profile.cpu import Enlightenment

    names = get_args(Enlightenment)
    text = f"[cpu]\nhyperv = {list(names)!r}\n".replace("'", '"')
    with bench.machine(text, change=with_hyperv):
        found = {n for n in names if bench.cpu(f"hv-{n}") in (True, 8191, "on")}
    assert set(names) - found <= {"vpindex"}
    assert bench.facts.qemu is not None
    known = bench.facts.qemu.properties["max-x86_64-cpu"]
    assert {f"hv-{n}" for n in names} <= set(known)
    assert "Haswell" in bench.facts.qemu.cpus


def test_caches_of_the_host(bench: Bench) -> None:
    with bench.machine('[cpu]\ncache = "passthrough"\nphys_bits = "host"\nmigratable = false\n'):
        found = {n: bench.cpu(n) for n in ("host-cache-info", "l3-cache", "host-phys-bits")}
        assert bench.cpu("migratable") is False
    assert found == {"host-cache-info": True, "l3-cache": False, "host-phys-bits": True}


def test_guest_nodes(bench: Bench) -> None:
    text = (
        "[cpu]\ncores = 4\n"
        '[[numa]]\ncpus = "0,2"\nmemory = "64M"\nhost_nodes = "0"\n'
        '[[numa]]\ncpus = ["1", "3"]\nmemory = "32M"\n'
    ).replace('["1", "3"]', '"1,3"')
    with bench.machine(text, 'memory = "96M"'):
        assert [c["node-id"] for c in bench.cpus()] == [0, 1, 0, 1]
        memory = {m["id"]: m for m in bench.ask("query-memdev")}
        told = bench.ask("human-monitor-command", **{"command-line": "info numa"})
        assert bench.ask("query-memory-size-summary") == {
            "base-memory": 96 * MIB, "plugged-memory": 0}
        assert bench.ask("query-memory-devices") == []  # all of it is the board's
    assert "node 0 size: 64 MB" in told
    assert "node 1 size: 32 MB" in told
    assert (memory["ram0"]["size"], memory["ram0"]["policy"]) == (64 * MIB, "bind")
    assert memory["ram0"]["host-nodes"] == [0]
    assert (memory["ram1"]["policy"], memory["ram1"]["host-nodes"]) == ("default", [])


def test_shared_memory_with_its_marks(bench: Bench) -> None:
    text = (
        "[memory]\nshare = true\nmerge = false\ndump = false\nprealloc = true\n"
        'prealloc_threads = 2\nhost_nodes = "0"\npolicy = "preferred"\n'
    )
    with bench.machine(text):
        (memory,) = bench.ask("query-memdev")
        maps = Path(f"/proc/{bench.process.pid}/smaps").read_text()
    assert {key: memory[key] for key in ("share", "merge", "dump", "prealloc", "policy")} == {
        "share": True, "merge": False, "dump": False, "prealloc": True, "policy": "preferred",
    }
    region = maps.partition("memory-backend-memfd")[2].split("\n")
    assert next(line for line in region if line.startswith("Rss:")).split()[1] == "65536"


def test_private_memory_of_a_file(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        Path(place).chmod(0o777)
        with bench.machine(f'[memory]\npath = "{place}"\nshare = false\n'):
            (memory,) = bench.ask("query-memdev")
            maps = Path(f"/proc/{bench.process.pid}/maps").read_text()
            assert list(Path(place).iterdir()) == []  # QEMU unlinks it
    assert memory["share"] is False
    assert f"{place}/" in maps


@root_only
def test_locked_memory(bench: Bench) -> None:
    with bench.machine('[memory]\nlock = true\nbackend = "anonymous"\n'):
        assert bench.ask("query-memdev")[0]["id"] == "ram"
        status = Path(f"/proc/{bench.process.pid}/status").read_text()
    locked = next(line for line in status.splitlines() if line.startswith("VmLck"))
    assert int(locked.split()[1]) >= 65536
    assert bench.plan.memlock == 64 * MIB + (1 << 30)


def test_the_balloon_gives_back(bench: Bench) -> None:
    with bench.machine("[balloon]\nfree_page_reporting = true\ndeflate_on_oom = true\n"):
        path = "/machine/peripheral/balloon0"
        for name in ("free-page-reporting", "deflate-on-oom"):
            assert bench.ask("qom-get", path=path, property=name) is True


@root_only
def test_huge_pages_are_reserved_used_and_given_back(bench: Bench) -> None:
    before = int((POOL / "nr_hugepages").read_text())
    step = ReserveHugePages(size=2 * MIB, count=32, node=0)
    handler, here = ReserveHugePagesHandler(), Host()
    captured = handler.capture(here, step)
    try:
        try:
            handler.apply(here, step, captured)
        except HostError as error:
            pytest.skip(f"no room for huge pages here: {error}")
        text = '[memory]\nhost_nodes = "0"\n'
        with bench.machine(text, 'memory = "64M"\nhugepages = "2M"'):
            assert bench.plan.steps == ()
            (memory,) = bench.ask("query-memdev")
            maps = Path(f"/proc/{bench.process.pid}/smaps").read_text()
        assert (memory["prealloc"], memory["policy"]) == (True, "bind")
        region = maps.partition("/memfd:memory-backend-memfd")[2].split("\n")
        sizes = [r.split()[1] for r in region if r.startswith(("KernelPageSize", "Shared_Huge"))]
        assert sizes[0] == "2048"
    finally:
        handler.undo(here, step, captured)
    assert int((POOL / "nr_hugepages").read_text()) == before


@root_only
@pytest.mark.parametrize(
    ("keys", "policy", "priority", "nice"),
    [
        ('sched = "fifo"\npriority = 7', os.SCHED_FIFO, 7, 0),
        ('sched = "rr"', os.SCHED_RR, 1, 0),
        ('sched = "batch"\nnice = 5', os.SCHED_BATCH, 0, 5),
        ("nice = -3", os.SCHED_OTHER, 0, -3),
    ],
)
def test_scheduling_of_the_vcpus_alone(
    bench: Bench, keys: str, policy: int, priority: int, nice: int
) -> None:
    with bench.machine(f"[cpu]\ncores = 2\n{keys}\n"):
        pins = bench.plan.pins
        assert pins is not None
        threads = bench.with_monitor(lambda m: read_threads(m, bench.process.pid))
        schedule(threads.vcpus, pins)
        for tid in threads.vcpus:
            assert os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK == policy
            assert os.sched_getparam(tid).sched_priority == priority
            assert os.getpriority(os.PRIO_PROCESS, tid) == nice
        for tid in threads.emulator:
            assert os.sched_getscheduler(tid) == os.SCHED_OTHER
            assert os.getpriority(os.PRIO_PROCESS, tid) == 0
