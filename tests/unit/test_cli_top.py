"""top's picture: what fits into 80x24, what is left out first, and figures that stay in columns."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from qlaunch.cli.topview import clip, draw, short, visible
from qlaunch.cli.usage import DiskUse, MachineUse, NicUse, Snapshot, Thread, _busy, _rates
from qlaunch.vm.gauge import Counters, Gauge, cpu_times, disk_id, kind_of, memory_of

WIN7 = MachineUse(
    name="win7", state="running", resident=4 << 30, memory=4 << 30,
    threads=(
        Thread("vcpu", "vcpu 0", 2, 97.6), Thread("vcpu", "vcpu 1", 3, 80.2),
        Thread("iothread", "io0", 1, 12.0), Thread("vhost", "vhost 77", 1, 3.0),
        Thread("emulator", "emulator", 0, 4.4), Thread("emulator", "emulator", 1, 0.1),
    ),
    disks=(DiskUse("disk0", 12.5 * 2**20, 2048.0, 3100.0, 4.0), DiskUse("cd0", 0, 0, 0, 0)),
    nics=(NicUse("tap0", 1.5 * 2**20, 300.0),),
)
NEW = MachineUse(
    name="a-rather-long-name", state="internal-error", resident=60 << 20, memory=64 << 20,
    threads=(Thread("vcpu", "vcpu 0", 2, 1.0),), disks=None, nics=(),
)


def snapshot(*machines: MachineUse, cpus: int = 4, through_root: int = 0) -> Snapshot:
    return Snapshot(
        time=time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1)), seconds=1.0,
        cpus={n: 25.0 * (n % 5) for n in range(cpus)}, memory_used=5 << 30,
        memory_total=16 << 30, machines=machines, through_root=through_root,
    )


def test_eighty_by_twenty_four() -> None:
    picture = [line for line, _ in visible(draw(snapshot(WIN7, NEW)), 24, 80, 0, "name")]
    assert picture == [
        "qlaunch top  03:04:05  host: 4 CPUs 38 % busy, memory 5.0G of 16G",
        "",
        "MACHINE       STATE     CPU% VCPU%  IO% EMU%    MEM   READ  WRITE     IN    OUT",
        "a-rather-lon+ interna+     1     1    0    0    60M      -      -      -      -",
        "win7          running    197   178   15    4   4.0G    12M   2.0K   1.5M    300",
        "",
        "HOST CPU  BUSY             WHO RUNS THERE",
        "       0    0%             win7: emulator 4%",
        "       1   25% ##          win7: io0 12%, win7: vhost 77 3%",
        "       2   50% #####       win7: vcpu 0 98%, a-rather-long-name: vcpu 0 1%",
        "       3   75% ########    win7: vcpu 1 80%",
        "",
        "DISK OR NIC                 READ, IN  WRITTEN, OUT     READS    WRITES",
        "win7: disk0                      12M          2.0K      3100         4",
        "win7: cd0                          0             0         0         0",
        "win7: tap0                      1.5M           300",
        "", "", "", "", "", "", "",
        "q quits, arrows scroll, s sorts (by name)",
    ]


@pytest.mark.parametrize(("height", "width"), [(24, 80), (10, 40), (3, 20), (1, 5), (60, 200)])
@pytest.mark.parametrize("offset", [0, 3, 1000, -5])
def test_every_size_is_filled_and_not_exceeded(height: int, width: int, offset: int) -> None:
    screen = draw(snapshot(WIN7, NEW, cpus=128), width=width)
    picture = visible(screen, height, width, offset, "cpu")
    assert len(picture) == height
    assert max(len(line) for line, _ in picture) <= width


def test_cpus_without_machines_come_last_and_the_rest_is_told() -> None:
    screen = draw(snapshot(WIN7, cpus=128))
    shown = [line for line, _ in visible(screen, 24, 80, 0, "name")]
    assert [int(line.split()[0]) for line in shown[6:10]] == [0, 1, 2, 3]
    assert " more lines; q quits" in shown[-1]
    last = [line for line, _ in visible(screen, 24, 80, 10**6, "name")]
    assert last[-2].startswith("tap0")
    assert "more" not in last[-1]
    heads = [line for line, head in visible(screen, 24, 80, 0, "name") if head]
    assert [line.split()[0] for line in heads] == ["MACHINE", "HOST", "116"]


def test_orders_and_remarks() -> None:
    def names(sort: str) -> list[str]:
        return [line.split()[0] for line in draw(snapshot(NEW, WIN7), sort).fixed[3:]]

    assert names("name") == ["a-rather-lon+", "win7"]
    assert names("cpu") == names("memory") == ["win7", "a-rather-lon+"]
    assert draw(snapshot()).fixed[3] == "no machine runs"
    assert "and 2 through root: sudo " in draw(snapshot(through_root=2)).fixed[-1]
    for line in [*draw(snapshot(WIN7, NEW)).fixed, *draw(snapshot(WIN7, NEW)).rest]:
        assert len(line) <= 80


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (1023, "1.0K"), (10 << 10, "10K"),
     (1000 << 10, "1.0M"), (5 << 40, "5.0T"), (2.0**65, "32E"), (2.0**99, "huge")],
)
def test_short(number: float, text: str) -> None:
    assert short(number) == text


def test_clip() -> None:
    assert [clip("abcdef", n) for n in (6, 5, 1)] == ["abcdef", "abcd+", "+"]


@pytest.mark.parametrize(
    ("comm", "kind", "name"),
    [
        ("CPU 0/KVM", "vcpu", "vcpu 0"), ("CPU 127/TCG", "vcpu", "vcpu 127"),
        ("ALL CPUs/TCG", "vcpu", "vcpus"), ("IO iothread0", "iothread", "iothread0"),
        ("IO mon_iothread", "emulator", "emulator"), ("vhost-7", "vhost", "vhost 9"),
        ("vhost-8", "emulator", "emulator"), ("worker", "emulator", "emulator"),
    ],
)
def test_kinds(comm: str, kind: str, name: str) -> None:
    assert kind_of(comm, 7, 9) == (kind, name)


def test_disk_ids() -> None:
    assert disk_id({"qdev": "/machine/peripheral/disk0/virtio-backend"}) == "disk0"
    assert disk_id({"qdev": "cd0"}) == "cd0"
    assert disk_id({"device": ""}) == ""


def test_host_cpus_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 0 100 700 100 0 0 0 50 0\n"
        "cpu3 0 0 0 1000 0 0 0 0 0 0\n"  # 1 and 2 are offline
        "intr 1 2 3\n"
    )
    tick = os.sysconf("SC_CLK_TCK")
    assert cpu_times(str(tmp_path)) == {
        0: (200 / tick, 1000 / tick), 3: (0.0, 1000 / tick)}
    assert _busy((1.0, 10.0), (2.0, 14.0)) == 25.0
    assert _busy(None, (2.0, 14.0)) == _busy((2.0, 14.0), (2.0, 14.0)) == 0.0


def test_rates_of_what_comes_and_goes() -> None:
    before = {"disk0": Counters(100, 0, 1, 0), "old": Counters(1, 1)}
    now = {"disk0": Counters(300, 50, 5, 1), "new": Counters(900, 900)}
    assert _rates(before, now, 2.0) == [("disk0", [100, 25, 2, 0.5]), ("new", [0, 0, 0, 0])]
    assert _rates({"d": Counters(9, 9)}, {"d": Counters(1, 1)}, 1.0)[0][1] == [0, 0, 0, 0]


def test_a_gauge_of_this_process() -> None:
    gauge = Gauge(os.getpid())
    gauge.take()
    began = time.process_time()
    while time.process_time() - began < 0.3:
        continue
    used = sum(one.seconds for one in gauge.take())
    assert 0.25 < used < 1.0
    assert sum(one.seconds for one in gauge.take()) < 0.2
    assert memory_of(os.getpid()) > 1 << 20


def test_a_gauge_of_a_process_that_has_ended() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert Gauge(child).take() == []
    assert memory_of(child) == 0
