"""USB, input devices, ports, channels and small devices, as a real QEMU has built them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.facts.model import Wanted
from qlaunch.facts.probe import read_facts
from qlaunch.host.handler import Host
from qlaunch.host.shared import MakeSharedHandler
from qlaunch.plan.make import make_plan
from qlaunch.plan.model import Plan
from qlaunch.plan.steps import MakeShared
from qlaunch.run.handover import opened
from qlaunch.run.info import read_info
from qlaunch.values import HostPath, Program
from qlaunch.vm.monitor import Monitor
from qlaunch.vm.process import QemuProcess, last_words
from qlaunch.vm.ready import wait_ready
from qlaunch.vm.spawn import start_qemu
from tests.fake.loop import run
from tests.fake.plans import profile
from tests.qemu.test_verbs import Make, make, qlaunch, until

__all__ = ["make"]
pytestmark = pytest.mark.qemu

PCI, CHARDEVS, DEVICES = "query-pci", "query-chardev", "qom-list /machine/peripheral"
Question = tuple[str, Mapping[str, Any]]


class Answers(NamedTuple):
    """What QEMU said, and the plan it was started by."""

    plan: Plan
    said: dict[str, Any]
    directory: Path

    def slots(self) -> dict[str, str]:
        """Device → slot, of all PCI devices with an id on bus 0."""
        return {
            device["qdev_id"]: f"{device['slot']:02x}.{device['function']}"
            for bus in self.said[PCI] for device in bus["devices"] if device["qdev_id"]
        }

    def devices(self) -> dict[str, str]:
        """Every device with an id → its type."""
        return {d["name"]: d["type"][6:-1] for d in self.said[DEVICES]
                if d["type"].startswith("child<")}

    def backends(self) -> dict[str, str]:
        """Character device → its file name, without QEMU's own monitors."""
        return {c["label"]: c["filename"] for c in self.said[CHARDEVS]
                if c["label"] not in ("control", "qmp", "compat_monitor0")}


Ask = Callable[..., Answers]


@pytest.fixture
def ask(both_qemus: str, tmp_path: Path) -> Ask:
    """Start the machine of these lines, and put questions to it."""

    def ask(text: str, *questions: Question | str, monitor: str = "") -> Answers:
        table = profile(text)
        table = msgspec.structs.replace(
            table, machine=msgspec.structs.replace(table.machine, accel="tcg"),
            qemu=msgspec.structs.replace(table.qemu, binary=Program(both_qemus)),
        )
        facts = read_facts(Wanted(pci=False, iommu=False, qemu=both_qemus))
        facts = msgspec.structs.replace(facts, files=(), usb=None, inputs=None)
        # As an ordinary user's, so that all of it is this account's.
        assert facts.invoker is not None
        facts = msgspec.structs.replace(
            facts, invoker=msgspec.structs.replace(facts.invoker, root=False, uid=os.geteuid()))
        plan = moved(make_plan(table, facts), tmp_path)
        assert [p for p in plan.problems if p.severity == "error"] == []
        with started(plan, tmp_path) as process:
            return Answers(plan, run(_ask(process, plan, questions, monitor)), tmp_path)

    return ask


def moved(plan: Plan, directory: Path) -> Plan:
    """Files and sockets of the plan in the test's directory."""

    def here(path: str) -> str:
        return str(directory / Path(path).name)

    def changed(item: Any, **fields: Any) -> Any:
        return msgspec.structs.replace(item, **fields)

    return changed(  # type: ignore[no-any-return]
        plan, runtime_dir=str(directory), socket_dir=str(directory), state_dir=str(directory),
        account=None, steps=(),
        fds=tuple(changed(f, of=here(f.of)) if f.kind == "listen" else f for f in plan.fds),
        serials=tuple(changed(s, path=here(s.path)) if s.type in ("file", "socket") else s
                      for s in plan.serials),
    )


@contextlib.contextmanager
def started(plan: Plan, directory: Path) -> Iterator[QemuProcess]:
    """A QEMU on the plan's own command line."""
    log = directory / "log"
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    with log.open("ab") as stderr, opened(plan, lock, []) as handover:
        process = start_qemu(render_argv(plan), fds=handover.fds, stderr_fd=stderr.fileno())
    os.close(lock)
    try:
        yield process
    finally:
        process.send(9)
        process.wait(30)
        process.close()


async def _ask(
    process: Any, plan: Plan, questions: tuple[Question | str, ...], text: str
) -> dict[str, Any]:
    monitor: Monitor = await wait_ready(
        f"{plan.runtime_dir}/control.sock", process, timeout=60,
        last_words=lambda: last_words(f"{plan.runtime_dir}/log"),
    )
    async with monitor:
        said: dict[str, Any] = {}
        for question in (PCI, CHARDEVS, ("qom-list", {"path": "/machine/peripheral"}), *questions):
            name, arguments = (question, {}) if isinstance(question, str) else question
            said[name + "".join(f" {v}" for v in arguments.values())] = await monitor.execute(
                name, arguments)
        if text:
            said[text] = await monitor.execute("human-monitor-command", {"command-line": text})
        return said


def get(path: str, prop: str) -> Question:
    return "qom-get", {"path": f"/machine/{path}", "property": prop}


@pytest.mark.parametrize(
    ("guest", "machine", "wanted"),
    [
        ("linux", "q35", {"usb": "04.0"}),
        ("windows10", "pc", {"usb": "04.0"}),
        ("windows7", "q35", {"usb": "04.7", "usb-uhci1": "04.0", "usb-uhci2": "04.1",
                             "usb-uhci3": "04.2"}),
        ("windows7", "pc", {"usb": "04.7", "usb-uhci1": "04.0"}),
    ],
)
def test_the_usb_controller_of_the_guests_era(
    ask: Ask, guest: str, machine: str, wanted: dict[str, str]
) -> None:
    found = ask(
        f'guest = "{guest}"\n[machine]\ntype = "{machine}"\n[[input]]\ntype = "tablet"\n'
        '[[input]]\ntype = "keyboard"\n[[input]]\ntype = "mouse"\n[[serial]]\nbus = "usb"\n',
        "query-mice", monitor="info usb",
    )
    slots = found.slots()
    assert {name: slots[name] for name in wanted} == wanted
    assert {m["name"] for m in found.said["query-mice"]} == {
        "QEMU HID Tablet", "QEMU HID Mouse", "QEMU PS/2 Mouse"}
    for product in ("QEMU USB Tablet", "QEMU USB Keyboard", "QEMU USB Mouse", "QEMU USB Serial"):
        assert product in found.said["info usb"]


def test_usb_1_on_both_machines(ask: Ask) -> None:
    for machine in ("q35", "pc"):
        found = ask(f'[machine]\nusb = "uhci"\ntype = "{machine}"\n')
        assert found.slots()["usb"] == "04.0"


def test_virtio_inputs_are_behind_ports_of_their_own(ask: Ask) -> None:
    kinds = ("tablet", "keyboard", "mouse")
    text = "".join(f'[[input]]\ntype = "{k}"\nbus = "virtio"\n' for k in kinds)
    found = ask(text, "query-mice")
    assert {n: k for n, k in found.devices().items() if n.startswith("input")} == {
        f"input{n}": f"virtio-{kind}-pci" for n, kind in enumerate(kinds)}
    assert "usb" not in found.slots()
    assert "QEMU Virtio Tablet" in {m["name"] for m in found.said["query-mice"]}


def test_serial_ports_of_every_kind(ask: Ask) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = ask(
        '[[serial]]\ntype = "pty"\n[[serial]]\ntype = "socket"\n[[serial]]\ntype = "file"\n'
        f'[[serial]]\ntype = "tcp"\naddress = "127.0.0.1:{port}"\nbus = "pci"\n'
        '[[serial]]\ntype = "file"\nbus = "virtio"\n'
        '[[parallel]]\n[debugcon]\niobase = 0xe9\n',
    )
    ends = found.backends()
    assert ends["serial0"].startswith("pty:/dev/pts/")
    assert ends["serial1"] == f"disconnected:unix:{found.directory}/serial1.sock,server=on"
    assert ends["serial2"] == ends["serial4"] == ends["parallel0"] == ends["debugcon"] == "file"
    assert ends["serial3"] == f"disconnected:tcp:127.0.0.1:{port},server=on"
    assert found.devices()["serial3-pci"] == "pci-serial"
    assert "channel" in found.slots()
    for name in ("serial2.log", "serial4.log", "parallel0.log", "debugcon.log"):
        assert (found.directory / name).is_file()


def test_channels_have_their_names_numbers_and_sockets(ask: Ask) -> None:
    found = ask(
        '[agent]\n[[channel]]\nname = "org.example.data.0"\n',
        get("peripheral/agent", "name"), get("peripheral/agent", "nr"),
        get("peripheral/channel0", "name"), get("peripheral/channel0", "nr"),
    )
    assert found.slots() == {"channel": "1d.0"}
    assert found.said["qom-get /machine/peripheral/agent name"] == "org.qemu.guest_agent.0"
    assert found.said["qom-get /machine/peripheral/agent nr"] == 1
    assert found.said["qom-get /machine/peripheral/channel0 name"] == "org.example.data.0"
    assert found.said["qom-get /machine/peripheral/channel0 nr"] == 4
    assert set(found.backends()) == {"agent-host", "channel0-host"}
    for name in ("agent.sock", "org.example.data.0.sock"):
        assert stat.S_ISSOCK((found.directory / name).stat().st_mode)


def test_small_devices(ask: Ask) -> None:
    found = ask(
        '[machine]\npvpanic = true\nvmcoreinfo = true\n[rng]\nrate = "1K"\n'
        '[watchdog]\naction = "pause"\n',
        get("peripheral/rng0", "max-bytes"), get("peripheral/rng0", "period"),
    )
    assert found.said["qom-get /machine/peripheral/rng0 max-bytes"] == 1024
    assert found.said["qom-get /machine/peripheral/rng0 period"] == 1000
    assert found.devices().items() >= {
        "rng0": "virtio-rng-pci", "pvpanic": "pvpanic", "vmcoreinfo": "vmcoreinfo",
        "watchdog": "i6300esb"}.items()


@pytest.mark.parametrize("source", ["urandom", "random", "builtin"])
def test_sources_of_random_numbers(ask: Ask, source: str) -> None:
    found = ask(f'[rng]\nsource = "{source}"\n', ("qom-list", {"path": "/objects"}))
    kinds = {o["name"]: o["type"] for o in found.said["qom-list /objects"]}
    kind = "rng-builtin" if source == "builtin" else "rng-random"
    assert kinds["rng0-source"] == f"child<{kind}>"


def test_the_chipsets_watchdog_may_act(ask: Ask) -> None:
    found = ask('[watchdog]\nmodel = "itco"\n[machine]\npvpanic = "pci"\n',
                monitor="info qtree")
    (line,) = [li for li in found.said["info qtree"].splitlines() if "noreboot" in li]
    assert line.split("=")[1].strip() == "false"
    assert found.devices()["pvpanic"] == "pvpanic-pci"


def test_shared_memory_is_what_the_host_sees(ask: Ask) -> None:
    name = f"qlaunch-test-{os.getpid()}"
    step = MakeShared(path=HostPath(f"/dev/shm/{name}"), size=1 << 20, uid=os.geteuid(),
                      gid=os.getegid())
    handler, host = MakeSharedHandler(), Host()
    captured = handler.capture(host, step)
    handler.apply(host, step, captured)
    try:
        found = ask(f'[[shmem]]\nname = "{name}"\nsize = "1M"\n', "query-memdev")
        assert found.devices()["shmem0"] == "ivshmem-plain"
        (memory,) = [m for m in found.said["query-memdev"] if m["id"] == "shmem0-mem"]
        assert (memory["size"], memory["share"]) == (1 << 20, True)
    finally:
        handler.undo(host, step, captured)
    assert not Path(step.path).exists()


def test_a_usb_device_that_is_not_there_is_waited_for(ask: Ask) -> None:
    found = ask('[[usb]]\ndevice = "046d:c52b"\nport = "1-4.2"\noptional = true\n',
                get("peripheral/usbdev0", "vendorid"), get("peripheral/usbdev0", "hostport"))
    assert found.said["qom-get /machine/peripheral/usbdev0 vendorid"] == 0x046D
    assert found.said["qom-get /machine/peripheral/usbdev0 hostport"] == "4.2"


def test_a_viewers_usb_devices_and_agents(ask: Ask, both_qemus: str) -> None:
    if "build" in both_qemus:
        pytest.skip("the unpacked QEMU has no SPICE module")
    found = ask(
        '[display]\ntype = "spice"\n[agent]\nwebdav = true\n[[usb]]\nredirect = true\n'
        '[[channel]]\nname = "org.example.0"\ntype = "spice"\n',
        get("peripheral/vdagent", "name"), get("peripheral/webdav", "name"),
    )
    assert found.backends().keys() >= {"vdagent-host", "webdav-host", "usbdev0-viewer"}
    assert found.said["qom-get /machine/peripheral/vdagent name"] == "com.redhat.spice.0"
    assert found.said["qom-get /machine/peripheral/webdav name"] == "org.spice-space.webdav.0"
    assert found.devices()["usbdev0"] == "usb-redir"


def test_a_clipboard_without_spice(ask: Ask) -> None:
    found = ask('[display]\ntype = "vnc"\n[agent]\nguest = false\nspice = true\n',
                get("peripheral/vdagent", "name"))
    assert "vdagent-host" in found.backends()
    assert found.said["qom-get /machine/peripheral/vdagent name"] == "com.redhat.spice.0"


def test_a_run_brings_its_sockets_and_shared_memory_and_takes_them_away(
    make: Make, both_qemus: str
) -> None:
    vm = make(seconds="0")
    memory = Path(f"/dev/shm/qlaunch-test-{vm.name}")
    ram = Path(f"{memory}-ram")
    vm.path.write_text(
        vm.path.read_text() + f'[agent]\n[[shmem]]\nname = "{memory.name}"\nsize = "1M"\n'
        '[[serial]]\ntype = "pty"\n[[input]]\ntype = "tablet"\n'
        '[[usb]]\ndevice = "ffff:ffff"\noptional = true\n'
        f'[memory]\npath = "{ram}"\n'
    )
    started = qlaunch("run", str(vm.path), "--detach", "--set", f"qemu.binary={both_qemus}")
    assert started.returncode == 0, started.stderr
    info = read_info(vm.runtime)
    assert info is not None and info.usbs[0]["ident"] == "ffff:ffff"
    owner = Path(f"/proc/{vm.qemu()}").stat().st_uid
    assert (memory.stat().st_uid, memory.stat().st_size) == (owner, 1 << 20)
    assert ram.stat().st_uid == owner
    agent = Path(info.socket_dir, "agent.sock")
    with socket.socket(socket.AF_UNIX) as user:
        user.connect(str(agent))
    until(lambda: "serial1 is on /dev/pts/" in qlaunch("logs", vm.name).stdout, "no terminal")
    assert qlaunch("stop", "--now", vm.name).returncode == 0
    assert not memory.exists()
    assert not ram.exists()
    assert not agent.exists()
