"""Every step of a run that changes all a run can change, and everything that may befall it there:
afterwards `recover` or the next run leaves the host as it was, in every bit that is compared.

The figure is told at the end of the tests' output. `--nightly` tries all cases, those that leave
something behind with both ways back.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qlaunch.plan.model import Plan
from qlaunch.plan.steps import STEP_KINDS, TakeDevice
from tests.fake.faults import (
    MOMENTS,
    WAYS,
    Fault,
    Moment,
    Way,
    count_changes,
    launch,
    put_back,
)
from tests.fake.whole import EVENT, FOREIGN, GPU, NIC, USB, WholeKernel

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

SHARE = 14  # one in so many cases in the short setting
Tell = Callable[[str, object], None]
Change = Callable[[WholeKernel], object]


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[WholeKernel]:
    """On tmpfs where there is one, as /run is."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        kernel = WholeKernel(Path(folder))
        kernel.fill()
        yield kernel
        kernel.release()


def compare(before: dict[str, Any], after: dict[str, Any], what: object) -> None:
    """Both hosts are the same; what differs is said in one line a place."""
    differ = {
        key: (before.get(key), after.get(key))
        for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    }
    assert not differ, f"{what}: {differ}"


def first_run(kernel: WholeKernel) -> dict[str, Any]:
    """The host after a run that went well: modules stay loaded, directories of locks are made."""
    untouched = kernel.state()
    assert launch(kernel, kernel.plan()) == 0
    state = kernel.state()
    new = {key for key in untouched.keys() | state.keys() if untouched.get(key) != state.get(key)}
    stays = ("sys/module", "sys/bus/pci/drivers", "run/qlaunch/.")
    assert [key for key in new if not key.startswith(stays)] == []
    assert [key for key in new if key.startswith("run/") and state[key][-1]] == []
    assert kernel.mdevs() == [FOREIGN]
    return state


def test_the_profile_has_every_kind_of_step(kernel: WholeKernel) -> None:
    """A new kind is added to the profile and the host of tests/fake/whole.py."""
    there = {type(step) for step in kernel.plan().steps}
    assert [kind.__name__ for kind in STEP_KINDS if kind not in there] == []


POLICY = "sys/devices/system/cpu/cpufreq/policy0"
PAGES = "sys/kernel/mm/hugepages/hugepages-2048kB"
PCI = f"sys/devices/pci0000:00/{GPU}"
SEEN: dict[str, Change] = {
    "driver link": lambda k: k.detach(GPU, "bochs"),
    "override": lambda k: text(k, f"{PCI}/driver_override", "vfio-pci\n"),
    "reset_method": lambda k: text(k, f"{PCI}/reset_method", "bus\n"),
    "power": lambda k: text(k, f"{PCI}/power/control", "auto\n"),
    "d3cold": lambda k: text(k, f"{PCI}/d3cold_allowed", "0\n"),
    "functions": lambda k: text(k, f"sys/devices/pci0000:00/{NIC}/sriov_numvfs", "2\n"),
    "mdev": lambda k: (k.root / "sys/bus/mdev/devices/x").symlink_to("y"),
    "node's mode": lambda k: (k.root / EVENT[1:]).chmod(0o600),
    "node's owner": lambda k: os.chown(k.root / EVENT[1:], 1, 1),
    "link": lambda k: link(k, "br7", {"kind": "bridge"}),
    "bridge's port": lambda k: link(k, "eno1", {"master": "br0"}),
    "MAC of a function": lambda k: link(k, "eno1", {"vfs": []}),
    "huge pages": lambda k: text(k, f"{PAGES}/nr_hugepages", "3\n"),
    "cgroup": lambda k: (k.root / "sys/fs/cgroup/x").mkdir(),
    "controllers": lambda k: text(k, "sys/fs/cgroup/cgroup.subtree_control", "memory\n"),
    "governor": lambda k: text(k, f"{POLICY}/scaling_governor", "performance\n"),
    "IRQ's mask": lambda k: text(k, "proc/irq/24/smp_affinity", "1\n"),
    "cpuset": lambda k: text(k, "sys/fs/cgroup/users/cgroup.subtree_control", "cpuset\n"),
    "workqueues' mask": lambda k: text(k, "sys/devices/virtual/workqueue/cpumask", "1\n"),
    "file in /run": lambda k: (k.root / "run/qlaunch/vm").mkdir(),
    "mode in /run": lambda k: (k.root / "run/qlaunch").chmod(0o777),
    "shared memory": lambda k: (k.root / "dev/shm/looking-glass").touch(),
    "forwarding": lambda k: text(k, "proc/sys/net/ipv4/ip_forward", "1\n"),
    "firewall": lambda k: (k.root / "nft/qlaunch-vm").touch(),
    "daemon": lambda k: k.put("proc/4242/cmdline", "dnsmasq"),
}


def text(kernel: WholeKernel, path: str, content: str) -> None:
    assert (kernel.root / path).read_text() != content
    (kernel.root / path).write_text(content)


def link(kernel: WholeKernel, name: str, changes: dict[str, Any]) -> None:
    file = kernel.root / "links.json"
    links = json.loads(file.read_text())
    links.setdefault(name, {}).update(changes)
    file.write_text(json.dumps(links))


def test_the_comparison_sees_all(kernel: WholeKernel) -> None:
    """Each kind of thing that a run changes, or might."""
    before = kernel.state()
    compare(before, before, "nothing")
    for what, change in SEEN.items():
        if what == "node's owner" and os.geteuid() != 0:
            continue
        change(kernel)
        after = kernel.state()
        with pytest.raises(AssertionError):
            compare(before, after, what)
        before = after


@pytest.mark.parametrize("moment", MOMENTS)
def test_some_steps(
    kernel: WholeKernel, moment: Moment, record_property: Tell, request: pytest.FixtureRequest
) -> None:
    """Each moment at some of the cases, others than the moment before."""
    if request.config.getoption("--nightly"):
        pytest.skip("all of them are tried")
    first = MOMENTS.index(moment) % SHARE

    def ways(number: int) -> tuple[Way, ...]:
        return (WAYS[(number // SHARE) % 2],) if number % SHARE == first else ()

    record_property("faults", run_matrix(kernel, moment, ways))


@pytest.mark.nightly
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_step(kernel: WholeKernel, moment: Moment, record_property: Tell) -> None:
    record_property("faults", run_matrix(kernel, moment, lambda _: WAYS))


def test_a_step_of_several_changes_is_killed_after_each(kernel: WholeKernel) -> None:
    """A device that is taken: its override, its unbind, its bind, and all of them back."""
    first_run(kernel)
    plan = kernel.plan()
    taken = next(k for k, s in enumerate(plan.steps)
                 if isinstance(s, TakeDevice) and s.address == USB)
    found = [(f.moment, f.change) for f in faults(kernel, plan, "killed in apply")
             if f.step == taken]
    assert found == [("killed in apply", n) for n in (1, 2, 3)]
    assert len([f for f in faults(kernel, plan, "killed in undo") if f.step == taken]) >= 3
    assert len(faults(kernel, plan, "refused")) == len(plan.steps)


def faults(kernel: WholeKernel, plan: Plan, moment: Moment) -> list[Fault]:
    """Each step in turn; where a step is cut short, each of its changes. One without a change is
    killed at its end."""
    counts = count_changes(kernel, plan)
    return [
        Fault(moment, k, change)
        for k in range(len(plan.steps)) for change in range(1, max(1, counts[k, moment]) + 1)
    ]


def run_matrix(
    kernel: WholeKernel, moment: Moment, ways: Callable[[int], tuple[Way, ...]]
) -> int:
    """The number of cases, all of which left the host as it was. A run that is not killed puts
    back what it did by itself: there is one way."""
    before = first_run(kernel)
    plan = kernel.plan()
    killed = moment.startswith("killed")
    tried = 0
    cases = faults(kernel, plan, moment)
    for number, fault in enumerate(cases):
        for way in ways(number)[: 2 if killed else 1]:
            case = f"{fault}: {plan.steps[fault.step]}; {way}"
            assert launch(kernel, plan, fault) == (-9 if killed else 1), case
            if killed:
                assert (kernel.root / "run/qlaunch/vm/journal").exists(), case
                assert put_back(kernel, plan, way) == 0, case
            compare(before, kernel.state(), case)
            tried += 1
    assert tried >= len(cases) // SHARE
    assert [*(kernel.root / "run/qlaunch/.claims").iterdir()] == []
    return tried
