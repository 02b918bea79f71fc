"""Many runs on one host: at once, of one machine, of one card, of all different ones; and again
and again in one process. The right ones win, nothing waits for ever, nothing grows.

All sessions are real, with locks, claims and journals, on the fake kernel; what QEMU and the
programs leave is in tests/qemu/test_faults.py.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from qlaunch.errors import QlaunchError
from qlaunch.plan.model import Plan
from qlaunch.values import VmName
from tests.fake.faults import start
from tests.fake.kernel import FakeKernel
from tests.fake.kernel_tree import snapshot
from tests.fake.plans import device, host, planned, said

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
MANY = 20
COUNT = pytest.mark.parametrize("count", [5, pytest.param(MANY, marks=pytest.mark.nightly)])


@dataclass
class Cards(FakeKernel):
    """A host with many cards, each in a group of its own."""

    guest: Callable[[], object] = int  # what a guest does while it runs

    def fill(self) -> None:
        for n in range(MANY):
            self.add_device(address(n), driver="bochs", group=n + 1, methods="pm")
        (self.root / "run/qlaunch").mkdir(parents=True)

    def plan(self, name: str, card: int) -> Plan:
        facts = host(*(device(address(n)[5:], "1234:1111", driver="bochs", group=n + 1)
                       for n in range(MANY)))
        plan = planned(f'[[pci]]\ndevice = "{address(card)}"\nreset = "pm"\n', facts)
        assert said(plan) == []
        base = str(self.root / "run/qlaunch" / name)
        steps = tuple(s for s in plan.steps if os.geteuid() == 0 or not hasattr(s, "uid"))
        return replace(
            plan, name=name, profile=replace(plan.profile, name=VmName(name)), account=None,
            runtime_dir=base, socket_dir=base, steps=steps,
            state_dir=str(self.root / ".model/state" / name),
        )

    def state(self) -> dict[str, Any]:
        """Without what the first run leaves: modules, their driver, the directory of claims."""
        runtime = sorted(str(p) for p in (self.root / "run").rglob("*") if ".host" not in p.name)
        tree = {k: v for k, v in snapshot(self.root).items()
                if not k.startswith(("sys/module", "sys/bus/pci/drivers"))}
        return {**tree, "run": [p for p in runtime if not p.endswith(".claims")]}

    def qemu_takes_usb(self) -> None:
        """Of a run in tests/fake/faults.py: the guest runs."""
        self.guest()


def address(n: int) -> str:
    return f"0000:{n + 1:02x}:00.0"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Cards]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        kernel = Cards(Path(folder))
        kernel.fill()
        yield kernel
        kernel.release()


def at_once(kernel: Cards, plans: Sequence[Plan]) -> list[tuple[int, str]]:
    """All start at the same moment, and guests run until every start is decided; the exit code
    and the words of each."""
    go_reader, go = os.pipe()
    news, tell = os.pipe()
    end_reader, end = os.pipe()
    pids = []

    def guest() -> None:
        os.write(tell, b"r")
        os.read(end_reader, 1)

    for n, plan in enumerate(plans):
        pid = os.fork()
        if pid == 0:
            for fd in (go, news, end):
                os.close(fd)
            os.dup2(os.open(kernel.root / f".model/said{n}", os.O_WRONLY | os.O_CREAT), 2)
            kernel.guest = guest
            os.read(go_reader, 1)
            code = 99
            try:
                code = start(kernel, plan)  # type: ignore[arg-type]
            except QlaunchError as error:
                os.write(2, str(error).encode())
                code = error.exit_code
            finally:
                os.write(tell, b"e")
                os._exit(code)
        pids.append(pid)
    for fd in (go_reader, tell, end_reader, go):
        os.close(fd)
    decided = b""
    while len(decided) < len(plans) and (more := os.read(news, 1)):
        decided += more
    os.close(end)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.close(news)
    return [(code, (kernel.root / f".model/said{n}").read_text()) for n, code in enumerate(codes)]


@COUNT
def test_one_machine(kernel: Cards, count: int) -> None:
    before = kernel.state()
    ended = at_once(kernel, [kernel.plan("vm", 0)] * count)
    assert sorted(code for code, _ in ended) == [0] + [1] * (count - 1), ended
    assert all("vm is running" in text for code, text in ended if code), ended
    assert kernel.state() == before


@COUNT
def test_one_card(kernel: Cards, count: int) -> None:
    before = kernel.state()
    ended = at_once(kernel, [kernel.plan(f"vm{n}", 0) for n in range(count)])
    assert sorted(code for code, _ in ended) == [0] + [1] * (count - 1), ended
    (winner,) = (f"vm{n}" for n, (code, _) in enumerate(ended) if code == 0)
    for code, text in ended:
        assert not code or f"{address(0)} is in use by the machine {winner}" in text, text
    assert kernel.state() == before


@COUNT
def test_different_ones(kernel: Cards, count: int) -> None:
    before = kernel.state()
    ended = at_once(kernel, [kernel.plan(f"vm{n}", n) for n in range(count)])
    assert [code for code, _ in ended] == [0] * count, ended
    assert kernel.state() == before


@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.nightly)])
def test_rounds_in_one_process(kernel: Cards, rounds: int) -> None:
    """As `selftest` does: no fd, thread, child, file or memory more than after the first ones."""
    me = psutil.Process()

    def here() -> tuple[int, int, list[psutil.Process], dict[str, Any]]:
        return me.num_fds(), threading.active_count(), me.children(recursive=True), kernel.state()

    plan = kernel.plan("vm", 0)
    for _ in range(3):
        assert start(kernel, plan) == 0  # type: ignore[arg-type]
    (kernel.root / ".model/log").unlink()
    first, memory = here(), me.memory_info().rss
    for _ in range(rounds):
        assert start(kernel, plan) == 0  # type: ignore[arg-type]
        assert kernel.driver_of(address(0)) == "bochs"
    assert here() == first
    gc.collect()
    assert me.memory_info().rss - memory < 4 << 20
