"""Disks and CD drives of a real QEMU, of 7.2 and of today, are what the profile says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from qlaunch.argv.render import render_argv
from qlaunch.facts.probe import read_facts
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.wanted import facts_wanted
from qlaunch.run.handover import opened
from qlaunch.run.makes import make_files
from qlaunch.vm.process import QemuProcess, last_words
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.spawn import start_qemu
from tests.fake.loop import run
from tests.fake.plans import profile

pytestmark = pytest.mark.qemu
Ask = Callable[..., Any]
HEAD = """\
[machine]
type = "{machine}"
memory = "64M"
accel = "tcg"
[qemu]
binary = "{binary}"
user = "{user}"
[cpu]
cores = 2
"""


class Desk:
    """A directory of images, and machines from profiles that name them as @NAME."""

    def __init__(self, directory: Path, binary: str) -> None:
        self.directory = directory
        self.binary = binary

    def image(self, name: str, size: int = 1 << 20) -> Path:
        path = self.directory / name
        path.write_bytes(bytes(size))
        return path

    def plan(self, text: str, machine: str = "q35", user: str = "nobody") -> Plan:
        head = HEAD.format(machine=machine, binary=self.binary, user=user)
        made = profile(head + text.replace("@", f"{self.directory}/"))
        facts = read_facts(facts_wanted(made, holders=False, trusted=True))
        place = str(self.directory)
        return replace(make_plan(made, facts), runtime_dir=place, socket_dir=place,
                       state_dir=place, account=None, steps=())

    @contextlib.contextmanager
    def machine(self, text: str, machine: str = "q35", user: str = "nobody") -> Iterator[Ask]:
        """A QEMU that has built the machine; `ask` is one QMP command."""
        plan = self.plan(text, machine, user)
        assert [str(p) for p in plan.problems if p.severity == "error"] == []
        make_files(plan, lambda text: None)
        with started(plan, self.directory) as process:
            def ask(command: str, **arguments: Any) -> Any:
                return run(_ask(process, plan, command, arguments))

            ask("query-status")
            yield ask


@contextlib.contextmanager
def started(plan: Plan, directory: Path) -> Iterator[QemuProcess]:
    """A QEMU on the plan's own command line."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    with (directory / "log").open("ab") as stderr, opened(plan, lock, []) as handover:
        process = start_qemu(render_argv(plan), fds=handover.fds, stderr_fd=stderr.fileno())
    os.close(lock)
    try:
        yield process
    finally:
        process.send(9)
        process.wait(30)
        process.close()


async def _ask(
    process: QemuProcess, plan: Plan, command: str, arguments: dict[str, Any]
) -> Any:
    monitor = await wait_ready(
        f"{plan.runtime_dir}/control.sock", process, timeout=60,
        last_words=lambda: last_words(f"{plan.runtime_dir}/log"),
    )
    async with monitor:
        return await monitor.execute(command, arguments)


@pytest.fixture
def desk(tmp_path: Path, both_qemus: str) -> Desk:
    return Desk(tmp_path, both_qemus)


def drives(ask: Ask) -> dict[str, Any]:
    """query-block by the ids that the plan gives; NVMe and virtio are below their device."""
    found = {}
    for block in ask("query-block"):
        words = [w for w in block["qdev"].split("/") if w not in ("virtio-backend", "peripheral")]
        found[words[-1] if words[-1] else block["qdev"]] = block
    return {ident: next(b for name, b in found.items() if name.split(".")[0] == ident)
            for ident in {name.split(".")[0] for name in found}}


def device(ask: Ask, ident: str, *names: str) -> dict[str, Any]:
    return {n: ask("qom-get", path=f"/machine/peripheral/{ident}", property=n) for n in names}


def test_a_disk_on_every_bus(desk: Desk) -> None:
    for name in ("a", "b", "c", "d", "e", "iso"):
        desk.image(name)
    text = """
[[disk]]
file = "@a"
cache = "none"
io = "native"
discard = true
detect_zeroes = "unmap"
iothread = true
queues = 2
serial = "first"
logical_block_size = 4096
physical_block_size = 4096
discard_granularity = 65536
werror = "stop"
boot = 3
[[disk]]
file = "@b"
bus = "scsi"
read_only = true
wwn = "0x5000c50015ea71ac"
rotation_rate = 1
cache = "writethrough"
[[disk]]
file = "@c"
bus = "sata"
serial = "third"
rerror = "stop"
[[disk]]
file = "@d"
bus = "nvme"
cache = "unsafe"
[[disk]]
file = "@e"
iops = 500
bps = "50M"
iothread = "shared"
share_rw = true
io = "io_uring"
[[cdrom]]
file = "@iso"
[[cdrom]]
bus = "scsi"
"""
    with desk.machine(text) as ask:
        found = drives(ask)
        nodes = {n["node-name"]: n for n in ask("query-named-block-nodes")}
        threads = {t["id"] for t in ask("query-iothreads")}
        first = device(ask, "disk0", "serial", "logical_block_size", "physical_block_size",
                       "discard_granularity", "werror", "bootindex", "num-queues")
        scsi = device(ask, "disk1", "wwn", "rotation_rate", "scsi-id", "lun", "write-cache")
        cd = device(ask, "cd1", "scsi-id")
        sata = device(ask, "disk2", "serial", "rerror")
        nvme = device(ask, "disk3", "serial")
        shared = device(ask, "disk4", "share-rw")
        limits = ask("qom-get", path="/objects/throttle-disk4", property="limits")
        slots = {d["qdev_id"]: d["slot"] for b in ask("query-pci") for d in b["devices"]}
    assert threads == {"iothread0", "shared"}
    assert first == {"serial": "first", "logical_block_size": 4096, "physical_block_size": 4096,
                     "discard_granularity": 65536, "werror": "stop", "bootindex": 3,
                     "num-queues": 2}
    assert scsi == {"wwn": 0x5000C50015EA71AC, "rotation_rate": 1, "scsi-id": 0, "lun": 0,
                    "write-cache": "off"}
    assert cd == {"scsi-id": 15}
    assert sata == {"serial": "third", "rerror": "stop"}
    assert (nvme, shared) == ({"serial": "disk3"}, {"share-rw": True})
    assert (limits["iops-total"], limits["bps-total"]) == (500, 50 << 20)
    assert {n: slots[n] for n in ("disk0", "disk4", "disk3", "scsi0")} == {
        "disk0": 8, "disk4": 9, "disk3": 15, "scsi0": 6,
    }
    assert {i for i in found if i[:2] in ("di", "cd")} == {
        "disk0", "disk1", "disk2", "disk3", "disk4", "cd0", "cd1"}
    none, through, unsafe = (found[f"disk{n}"]["inserted"]["cache"] for n in (0, 1, 3))
    assert none == {"direct": True, "no-flush": False, "writeback": True}
    assert through == {"direct": False, "no-flush": False, "writeback": False}
    assert unsafe == {"direct": False, "no-flush": True, "writeback": True}
    assert nodes["drive0"]["detect_zeroes"] == "unmap"
    assert nodes["drive1"]["ro"]
    assert not nodes["drive2"]["ro"]
    assert nodes["drive4"]["drv"] == "throttle"
    assert found["cd0"]["inserted"]["ro"]
    assert "inserted" not in found["cd1"]
    assert (found["cd0"]["tray_open"], found["cd0"]["locked"]) == (False, False)


def test_ide_of_the_old_machine_and_sata_beside_it(desk: Desk) -> None:
    for name in ("a", "b", "iso", "s"):
        desk.image(name)
    text = """
[[controller]]
type = "ahci"
id = "sata"
[[disk]]
file = "@a"
bus = "ide"
[[disk]]
file = "@b"
bus = "ide"
[[disk]]
file = "@s"
bus = "sata"
[[cdrom]]
file = "@iso"
[[cdrom]]
"""
    with desk.machine(text, "pc") as ask:
        places = {
            ident: (ask("qom-get", path=f"/machine/peripheral/{ident}", property="parent_bus"),
                    device(ask, ident, "unit")["unit"])
            for ident in ("disk0", "disk1", "disk2", "cd0", "cd1")
        }
    assert {i: (bus.rsplit("/", 1)[-1], unit) for i, (bus, unit) in places.items()} == {
        "disk0": ("ide.0", 0), "cd0": ("ide.0", 1), "disk1": ("ide.1", 0), "cd1": ("ide.1", 1),
        "disk2": ("sata.0", 0),
    }


def test_controllers(desk: Desk) -> None:
    kinds = ("virtio-scsi", "lsi", "pvscsi", "megasas", "ahci", "virtio-scsi")
    text = ""
    for number, kind in enumerate(kinds):
        desk.image(f"d{number}")
        text += f'[[controller]]\ntype = "{kind}"\nid = "c{number}"\n'
        text += 'iothread = "one"\nqueues = 3\n' if kind == "virtio-scsi" else ""
        bus = "sata" if kind == "ahci" else "scsi"
        text += f'[[disk]]\nfile = "@d{number}"\nbus = "{bus}"\ncontroller = "c{number}"\n'
    with desk.machine(text) as ask:
        on = {n: ask("qom-get", path=f"/machine/peripheral/disk{n}", property="parent_bus")
              for n in range(6)}
        slots = {d["qdev_id"]: (d["slot"], d["function"])
                 for b in ask("query-pci") for d in b["devices"]}
        queues = device(ask, "c5", "num_queues")
        threads = [t["id"] for t in ask("query-iothreads")]
    assert {n: bus.rsplit("/", 1)[-1] for n, bus in on.items()} == {
        n: f"c{n}.0" for n in range(6)}
    assert {n: slots[n] for n in (f"c{n}" for n in range(6))} == {
        "c0": (6, 0), "c1": (6, 1), "c2": (6, 2), "c3": (6, 3), "c4": (7, 0), "c5": (6, 4)}
    assert (queues, threads) == ({"num_queues": 3}, ["one"])


def test_queues_spread_over_threads_where_qemu_can(desk: Desk) -> None:
    desk.image("a")
    text = '[[disk]]\nfile = "@a"\niothreads = 3\nboot = 1\ncache = "directsync"\n'
    plan = desk.plan(text)
    if plan.qemu_version < (9, 0, 0):
        (problem,) = [p for p in plan.problems if p.severity == "error"]
        assert (problem.where, problem.allowed) == ("disk[0].iothreads", "QEMU 9.0 or newer")
        return
    with desk.machine(text) as ask:
        mapping = device(ask, "disk0", "iothread-vq-mapping", "num-queues", "write-cache",
                         "bootindex")
        threads = {t["id"] for t in ask("query-iothreads")}
    assert threads == {f"iothread0-{n}" for n in range(3)}
    assert [m["iothread"] for m in mapping["iothread-vq-mapping"]] == sorted(threads)
    assert (mapping["num-queues"], mapping["write-cache"], mapping["bootindex"]) == (3, "off", 1)


def test_drives_on_a_controller_whose_queues_are_spread(desk: Desk) -> None:
    """QEMU makes what is given as JSON last, so that they are JSON too."""
    desk.image("a")
    text = (
        '[[controller]]\ntype = "virtio-scsi"\niothreads = 2\n'
        '[[disk]]\nfile = "@a"\nbus = "scsi"\nboot = 1\nwwn = "0x5000c50015ea71ac"\n'
        'rotation_rate = 7200\nserial = "s"\nlogical_block_size = 4096\nwerror = "stop"\n'
        'cache = "writethrough"\n[[cdrom]]\nbus = "scsi"\nboot = 2\n'
    )
    plan = desk.plan(text)
    if plan.qemu_version < (10, 0, 0):
        (problem,) = [p for p in plan.problems if p.severity == "error"]
        assert (problem.where, problem.allowed) == (
            "controller[0].iothreads", "QEMU 10.0 or newer")
        return
    with desk.machine(text) as ask:
        disk = device(ask, "disk0", "wwn", "rotation_rate", "serial", "logical_block_size",
                      "werror", "write-cache", "scsi-id", "bootindex")
        cd = device(ask, "cd0", "scsi-id", "bootindex")
        mapping = device(ask, "scsi0", "iothread-vq-mapping")["iothread-vq-mapping"]
    assert disk == {
        "wwn": 0x5000C50015EA71AC, "rotation_rate": 7200, "serial": "s", "werror": "stop",
        "logical_block_size": 4096, "write-cache": "off", "scsi-id": 0, "bootindex": 1,
    }
    assert cd == {"scsi-id": 15, "bootindex": 2}
    assert [m["iothread"] for m in mapping] == ["iothread-scsi0-0", "iothread-scsi0-1"]


def test_drives_on_usb(desk: Desk) -> None:
    desk.image("a")
    desk.image("iso")
    text = '[[disk]]\nfile = "@a"\nbus = "usb"\n[[cdrom]]\nfile = "@iso"\nbus = "usb"\n'
    with desk.machine(text) as ask:
        found = drives(ask)
        kind = {i: ask("qom-get", path=f"/machine/peripheral/{i}", property="type")
                for i in ("disk0", "cd0", "cd0usb")}
    assert kind == {"disk0": "usb-storage", "cd0": "scsi-cd", "cd0usb": "usb-bot"}
    assert found["cd0"]["inserted"]["image"]["filename"]


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def info(path: Path) -> dict[str, Any]:
    said = subprocess.run(["qemu-img", "info", "--output=json", str(path)], check=True,
                          capture_output=True, text=True)
    return json.loads(said.stdout)  # type: ignore[no-any-return]


def test_images_are_made_as_asked_and_once(desk: Desk) -> None:
    text = """
[[disk]]
file = "@new.qcow2"
format = "qcow2"
create = { size = "64M", preallocation = "metadata", lazy_refcounts = true, cluster_size = "128K", \
extended_l2 = false, compression_type = "zstd" }
[[disk]]
file = "@new.img"
create = { size = "3M", preallocation = "full" }
[[disk]]
file = "@top, with a comma.qcow2"
format = "qcow2"
create = { backing = "@base.qcow2", extended_l2 = true }
"""
    base = desk.directory / "base.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "5M"], check=True)
    with desk.machine(text, user="root") as ask:
        assert {d["inserted"]["image"]["virtual-size"] for d in drives(ask).values()
                if "inserted" in d} == {64 << 20, 3 << 20, 5 << 20}
    made = info(desk.directory / "new.qcow2")
    assert (made["format"], made["virtual-size"], made["cluster-size"]) == (
        "qcow2", 64 << 20, 128 << 10)
    assert made["format-specific"]["data"]["lazy-refcounts"] is True
    assert made["format-specific"]["data"]["compression-type"] == "zstd"
    full = (desk.directory / "new.img").stat()
    assert (full.st_size, full.st_blocks * 512 >= 3 << 20) == (3 << 20, True)
    top = info(desk.directory / "top, with a comma.qcow2")
    assert (top["backing-filename"], top["backing-filename-format"]) == (str(base), "qcow2")
    assert top["format-specific"]["data"]["extended-l2"] is True
    assert list(desk.directory.glob("*.new")) == []
    assert desk.plan(text).makes == ()


def test_what_cannot_be_made_leaves_nothing(desk: Desk) -> None:
    text = '[[disk]]\nfile = "@new.img"\ncreate = { size = "64T" }\n'
    plan = desk.plan(text)
    (make,) = plan.makes
    assert os.path.lexists(make.path) is False
    assert [p.message for p in plan.problems if "larger than the space" in p.message]


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_throwaway_disk_is_only_read(desk: Desk, kind: str) -> None:
    path = desk.directory / "base"
    if kind == "raw":
        desk.image("base", 2 << 20)
    else:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "2M"], check=True)
    before, listed = hashlib.sha256(path.read_bytes()).hexdigest(), names(desk.directory)
    text = f'[[disk]]\nfile = "@base"\nformat = "{kind}"\nthrowaway = true\n'
    text += 'cache = "writeback"\ndiscard = true\n'

    def guest(ask: Ask, command: str) -> str:
        """What qemu-io says, which goes to QEMU's own output."""
        log = desk.directory / "log"
        before = log.stat().st_size
        ask("human-monitor-command",
            **{"command-line": f'qemu-io -d disk0/virtio-backend "{command}"'})
        return log.read_bytes()[before:].decode()

    with desk.machine(text) as ask:
        size = drives(ask)["disk0"]["inserted"]["image"]["virtual-size"]
        guest(ask, "write -P 0x5a 64k 64k")
        assert "verification failed" not in guest(ask, "read -P 0x5a 64k 64k")
        assert "verification failed" in guest(ask, "read -P 0x77 64k 64k")
        assert "verification failed" not in guest(ask, "read -P 0 1M 64k")
        base = next(n for n in ask("query-named-block-nodes") if n["node-name"] == "drive0-base")
        assert base["ro"] is True
    assert size == 2 << 20
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    rest = {"log", "lock", "control.sock", "qmp.sock"}
    assert names(desk.directory) - rest == listed
    with desk.machine(text) as ask:  # and nothing of the last run is seen
        assert "verification failed" not in guest(ask, "read -P 0 0 2M")


def test_two_machines_and_a_throwaway_of_one_image(desk: Desk) -> None:
    """A throwaway disk is a reader: two of them share an image, a writer keeps both out."""
    desk.image("base")
    text = '[[disk]]\nfile = "@base"\nthrowaway = true\n'
    with desk.machine(text):
        again = desk.plan(text)
        assert [p for p in again.problems if p.severity == "error"] == []
        writer = desk.plan(text.replace("throwaway = true", ""))
        assert [p.message for p in writer.problems if p.severity == "error"] == [
            "another QEMU has this disk open"]
    with desk.machine(text.replace("throwaway = true", "")):
        reader = desk.plan(text)
        assert "another QEMU has this disk open" in [p.message for p in reader.problems]


def test_handed_over_files_are_opened_once_each(desk: Desk) -> None:
    desk.image("a")
    plan = desk.plan('[[disk]]\nfile = "@a"\n')
    with opened(plan, os.open(os.devnull, os.O_RDONLY), []) as handover:
        assert set(handover.fds) == {f.number for f in plan.fds}


def test_images_of_every_format(desk: Desk) -> None:
    kinds = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed")
    for kind in kinds:
        options = ["-o", "force_size=on"] if kind == "vpc" else []
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, *options,
                        desk.directory / f"x.{kind}", "8M"], check=True)
    text = "".join(f'[[disk]]\nfile = "@x.{kind}"\nformat = "{kind}"\n' for kind in kinds)
    with desk.machine(text) as ask:
        found = {b["inserted"]["drv"]: b["inserted"]["image"]["virtual-size"]
                 for b in ask("query-block") if "inserted" in b}
    assert found == dict.fromkeys(kinds, 8 << 20)
    wrong = desk.plan('[[disk]]\nfile = "@x.vdi"\n[[disk]]\nfile = "@x.raw"\nformat = "qcow2"\n')
    assert [p.where for p in wrong.problems if p.severity == "error"] == [
        "disk[0].format", "disk[1].format"]
