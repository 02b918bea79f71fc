"""CPUs of a guest's own, on a real kernel: tasks and interrupts leave them, and come back whoever
ends first, and however.

The lab's init is not systemd, so this is about the groups that qlaunch narrows itself; at night a
systemd in namespaces of its own is asked, which tests/unit/test_isolation.py has a model of.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake.systemd import booted

from .machine import ROOT, Run, qemu_of, qlaunch, threads, until

pytestmark = [
    pytest.mark.lab, pytest.mark.topology("numa"), pytest.mark.usefixtures("nothing_left")
]

GROUP = Path("/sys/fs/cgroup/somebody")
IRQS = Path("/proc/irq")
WORK = Path("/sys/devices/virtual/workqueue/cpumask")
EVERY = set(range(8))

PROFILE = """\
name = "{name}"

[machine]
memory = "64M"
fw_cfg = {{ "opt/org.qlaunch/name" = "{name}", "opt/org.qlaunch/seconds" = "600" }}

[cpu]
isolate = true
pin = {{ vcpus = ["{cpu}"] }}

[[disk]]
file = "{disk}"
read_only = true
boot = 0
"""


class Somebody:
    """Two processes in a group of their own at the top; one of them is pinned."""

    def __init__(self) -> None:
        GROUP.mkdir()
        self.processes = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]
        for process in self.processes:
            (GROUP / "cgroup.procs").write_text(str(process.pid))
        os.sched_setaffinity(self.pinned, {1, 5})

    @property
    def free(self) -> int:
        return self.processes[0].pid

    @property
    def pinned(self) -> int:
        return self.processes[1].pid

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        GROUP.rmdir()


@pytest.fixture
def somebody() -> Iterator[Somebody]:
    found = Somebody()
    yield found
    found.end()


def affinities() -> dict[str, str]:
    """Where each interrupt may go, the default as a mask."""
    found = {"default": (IRQS / "default_smp_affinity").read_text().strip()}
    for path in IRQS.glob("[0-9]*/smp_affinity_list"):
        found[path.parent.name] = path.read_text().strip()
    return found


def cpus_of(text: str) -> set[int]:
    ends = [part.split("-") for part in text.split(",") if part]
    return {cpu for end in ends for cpu in range(int(end[0]), int(end[-1]) + 1)}


def can_move(irq: str) -> bool:
    """Whether the kernel lets anybody set it: what it has is written again."""
    path = IRQS / irq / "smp_affinity_list"
    try:
        path.write_text(path.read_text())
    except OSError as error:
        assert error.errno in (errno.EIO, errno.EPERM), error
        return False
    return True


def is_without(somebody: Somebody, gone: set[int]) -> None:
    """Nothing of the host's is on these CPUs any more."""
    left = EVERY - gone
    effective = (GROUP / "cpuset.cpus.effective").read_text().strip()
    assert cpus_of(effective) == left
    assert os.sched_getaffinity(somebody.free) == left
    assert os.sched_getaffinity(somebody.pinned) == {1, 5}
    assert int(WORK.read_text().replace(",", ""), 16) == sum(1 << cpu for cpu in left)
    shown = affinities()
    assert int(shown.pop("default"), 16) & 0xFF == sum(1 << cpu for cpu in left)
    on_them = [irq for irq, text in shown.items() if cpus_of(text) & gone]
    assert [irq for irq in on_them if can_move(irq)] == []
    assert len(on_them) < len(shown)


def start(directory: Path, disk: Path, name: str, cpu: int) -> Run:
    profile = directory / f"{name}.toml"
    profile.write_text(PROFILE.format(name=name, cpu=cpu, disk=disk))
    run = Run([sys.executable, "-m", "qlaunch", "run", str(profile)], name)
    run.wait_for(f"{name}: the guest runs")
    return run


def is_on(name: str, cpu: int) -> None:
    """Its vCPU, and nothing else of QEMU's."""
    pid = qemu_of(name)
    assert Path(f"/proc/{pid}/cgroup").read_text().strip() == f"0::/qlaunch-{name}"
    seen = threads(pid)
    assert seen.pop("CPU 0/TCG") == {cpu}
    assert cpu not in set().union(*seen.values())


def test_two_machines_of_which_the_first_is_killed(
    somebody: Somebody, tmp_path: Path, boot_disk: Path
) -> None:
    irqs, work = affinities(), WORK.read_text()
    assert any(2 in cpus_of(text) for irq, text in irqs.items() if irq != "default")
    first = start(tmp_path, boot_disk, "labalone", 2)
    second = None
    try:
        is_without(somebody, {2})
        is_on("labalone", 2)
        second = start(tmp_path, boot_disk, "labbeside", 3)
        is_without(somebody, {2, 3})
        is_on("labalone", 2)
        is_on("labbeside", 3)
        first.process.kill()
        first.wait()
        pid = qemu_of("labalone")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), "QEMU has not ended")
        done = qlaunch("recover", "labalone")
        assert done.returncode == 0, done.stderr
        is_without(somebody, {3})
        is_on("labbeside", 3)
        second.process.send_signal(signal.SIGUSR1)  # stop --now
        assert second.wait() == 0, second.said
    finally:
        for run in (first, second):
            if run is not None:
                run.end()
    assert not (GROUP / "cpuset.cpus").exists()  # the controller is off again
    assert os.sched_getaffinity(somebody.free) == EVERY
    assert os.sched_getaffinity(somebody.pinned) == {1, 5}
    after = affinities()
    assert {irq: text for irq, text in after.items() if irqs.get(irq, text) != text} == {}
    assert WORK.read_text() == work


ASKED = """
import json, os, subprocess, time
from pathlib import Path

from qlaunch.host.cpuset import IsolateCpusHandler
from qlaunch.host.handler import Host
from qlaunch.plan.cpu_steps import IsolateCpus
from qlaunch.values import CpuSet

top = Path("/sys/fs/cgroup")
procs = top / "system.slice/asleep.service/cgroup.procs"

def said(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout

def seen():
    groups = {path.parent.name: path.read_text().strip() for path in top.glob("*/cpuset.cpus")}
    unit = said("systemctl", "show", "-p", "AllowedCPUs", "--value", "system.slice").strip()
    return [groups, unit, sorted(os.sched_getaffinity(int(procs.read_text())))]

said("systemd-run", "--unit=asleep", "sleep", "1000")
for name in ("docker", "qlaunch-a"):
    (top / name).mkdir()
host, handler = Host(), IsolateCpusHandler()
a, b = (IsolateCpus(machine=name, cpus=CpuSet((cpu,))) for name, cpu in (("a", 2), ("b", 3)))
found = [seen()]
handler.apply(host, a, {})
found.append(seen())
said("systemctl", "daemon-reload")
handler.apply(host, b, {})
handler.undo(host, a, {})
found.append(seen())
handler.undo(host, b, {})
for name in ("docker", "qlaunch-a"):
    (top / name).rmdir()
print(json.dumps([*found, seen(), os.listdir("/run/qlaunch")]))
"""


@pytest.mark.nightly
def test_systemd_is_asked_and_does_it() -> None:
    """Two machines; it reads its units anew meanwhile, and turns the controller off at the end."""
    control = Path("/sys/fs/cgroup/cgroup.subtree_control")
    before = control.read_text().split()
    wanted = ("cpuset", "memory", "pids")
    control.write_text(" ".join(f"+{name}" for name in wanted))
    try:
        with booted() as systemd:
            if isinstance(systemd, str):
                pytest.skip(systemd)
            for procs in control.parent.glob("systemd-*/cgroup.procs"):
                for pid in procs.read_text().split():  # else no group in it can be limited
                    (control.parent / "cgroup.procs").write_text(pid)
            done = systemd.run(sys.executable, "-c", ASKED, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr
    finally:
        if off := [f"-{name}" for name in wanted if name not in before]:
            control.write_text(" ".join(off))
    first, one, other, last, notes = json.loads(done.stdout)
    assert first == last == [{}, "", list(range(8))]
    left = "0-1,3-7"
    assert one == [
        {"docker": left, "init.scope": left, "qlaunch-a": "", "system.slice": left},
        left.replace(",", " "), [0, 1, 3, 4, 5, 6, 7],
    ]
    left = "0-2,4-7"
    assert other[0] == {
        "docker": left, "init.scope": left, "qlaunch-a": "", "system.slice": left
    }
    assert notes == []
