"""Shared memory, random numbers, watchdog, vsock: what is planned and what is spelled."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qlaunch.argv.render import render_argv
from qlaunch.facts.model import HostFile
from qlaunch.plan.steps import LoadModule, MakeShared
from tests.fake.plans import QEMU, ROOT, USER, host, planned, said

ANY = msgspec.structs.replace(QEMU, devices=(), displays=())
HAVE = msgspec.structs.replace(
    QEMU, devices=(*QEMU.devices, "isa-serial", "ivshmem-plain"),
)
HOST = host(qemu=HAVE)


def words(text: str, option: str = "-device") -> list[str]:
    argv = render_argv(planned(text, HOST))
    return [b for a, b in zip(argv, argv[1:], strict=False) if a == option]  # noqa: RUF007


def test_shared_memory_is_made_for_qemus_account_and_counts_as_locked() -> None:
    text = '[[shmem]]\nname = "looking-glass"\nsize = "64M"\n'
    plan = planned(text, HOST)
    assert said(plan) == []
    (step,) = plan.steps
    assert isinstance(step, MakeShared)
    assert (step.path, step.size, step.uid) == ("/dev/shm/looking-glass", 64 << 20, ROOT.uid)
    assert "ivshmem-plain,id=shmem0,memdev=shmem0-mem,bus=port02-4,addr=00.0" in words(text)
    assert (
        "memory-backend-file,id=shmem0-mem,mem-path=/dev/shm/looking-glass,size=67108864B,share=on"
        in words(text, "-object")
    )
    card = '[[pci]]\ndevice = "00:02.0"\n'
    more = planned(card + text, HOST).memlock
    assert more is not None and more - (planned(card, HOST).memlock or 0) == 64 << 20


def test_shared_memory_alone_needs_no_root() -> None:
    plan = planned('[[shmem]]\nname = "x"\nsize = "1M"\n', host(qemu=HAVE, invoker=USER))
    assert not plan.needs_root
    assert plan.account is None


PORT = '[[serial]]\ntype = "device"\nfile = "/dev/ttyS0"\n'


def test_root_opens_a_port_of_the_hosts_for_its_own_machines_only() -> None:
    """A user's path could be /dev/mem."""
    node = HostFile(path="/dev/ttyS0", kind="char", readable=False, writable=False)
    mine = msgspec.structs.replace(ROOT, uid=65534, name="nobody", asked=1000)
    plan = planned(PORT, host(qemu=HAVE, files=(node,), invoker=mine))
    assert said(plan) == []
    fd = plan.fd("file", "/dev/ttyS0")
    assert f"serial,id=serial0,path=/dev/fdset/{fd}" in render_argv(plan)
    for invoker, who in ((ROOT, "user, who QEMU runs as,"), (USER, "you")):
        plan = planned(PORT, host(qemu=HAVE, files=(node,), invoker=invoker))
        assert said(plan) == [f"serial[0].file: {who} may not use this port"]
        assert all(f.of != "/dev/ttyS0" for f in plan.fds)
    may = msgspec.structs.replace(node, readable=True, writable=True)
    plan = planned(PORT, host(qemu=HAVE, files=(may,)))
    assert said(plan) == []
    assert "serial,id=serial0,path=/dev/ttyS0" in render_argv(plan)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"kind": "missing", "writable": True}, ""),
        ({"kind": "file", "writable": True}, ""),
        ({"kind": "char", "writable": True}, ""),
        ({"kind": "missing", "near": "/"}, "there is no directory to make the file in"),
        ({"kind": "directory", "writable": True}, "this is a directory, not a file"),
        ({"kind": "other", "writable": True}, "this is a pipe, not a file"),
        ({"kind": "missing", "writable": False}, "user, who QEMU runs as, may not write this file"),
        ({"kind": "file", "writable": False}, "user, who QEMU runs as, may not write this file"),
        ({"kind": "denied", "writable": False}, "user, who QEMU runs as, may not write this file"),
    ],
)
def test_the_file_of_a_port(found: dict[str, Any], message: str) -> None:
    """QEMU would open a pipe only when somebody reads it, and wait until then."""
    file = msgspec.convert({"path": "/d/log", **found}, HostFile)
    for table in ("[[serial]]", "[[parallel]]", "[debugcon]"):
        key = {"[debugcon]": "debugcon"}.get(table, f"{table[2:-2]}[0]")
        plan = planned(f'{table}\nfile = "/d/log"\n', host(qemu=ANY, files=(file,)))
        assert said(plan) == ([f"{key}.file: {message}"] if message else [])
    own = msgspec.structs.replace(ROOT, uid=65534, name="nobody", asked=None)
    plan = planned('[debugcon]\nfile = "/d/log"\n', host(qemu=ANY, files=(file,), invoker=own))
    refused = message.startswith(("this is", "there is")) or file.kind == "denied"
    assert bool(said(plan)) == refused  # root may write anywhere


def test_watchdogs_and_notices_are_spelled() -> None:
    machine = '[machine]\npvpanic = "pci"\nvmcoreinfo = true\n[watchdog]\nmodel = "itco"\n'
    argv = render_argv(planned(machine + 'action = "pause"\n', host(qemu=ANY)))
    assert "ICH9-LPC.noreboot=off" in argv
    assert "watchdog=pause" in argv
    assert "vmcoreinfo,id=vmcoreinfo" in argv
    assert "pvpanic-pci,id=pvpanic,bus=port02-7,addr=00.0" in argv


def test_hwrng_is_opened_for_qemu() -> None:
    node = HostFile(path="/dev/hwrng", kind="char", readable=False, writable=False)
    text = '[rng]\nsource = "hwrng"\n'
    plan = planned(text, host(qemu=ANY, files=(node,)))
    assert f"rng-random,id=rng0-source,filename=/dev/fdset/{plan.rng_fd}" in render_argv(plan)
    plan = planned(text, host(qemu=ANY, files=(node,), invoker=USER))
    assert said(plan) == ["rng.source: you may not read this source of random numbers"]
    gone = HostFile(path="/dev/hwrng", kind="missing")
    assert said(planned(text, host(qemu=ANY, files=(gone,)))) == [
        "rng.source: this host has no such source of random numbers"]


def test_vsock_loads_its_module() -> None:
    gone = HostFile(path="/dev/vhost-vsock", kind="missing")
    plan = planned("[vsock]\ncid = 7\n", host(qemu=ANY, files=(gone,)))
    assert LoadModule(module="vhost_vsock", why="vsock") in plan.steps
    fd = plan.fd("file", "/dev/vhost-vsock")
    assert f"vhost-vsock-pci,id=vsock0,guest-cid=7,vhostfd={fd},bus=port05-0,addr=00.0" in (
        render_argv(plan))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('[display]\ntype = "spice"\n[agent]\n', ["agent", "vdagent"]),
        ('[display]\ntype = "spice"\n[agent]\nspice = false\nguest = false\n', []),
        ("[agent]\n", ["agent"]),
        ('[display]\ntype = "gtk"\n[agent]\nspice = true\n', ["agent", "vdagent"]),
    ],
)
def test_agents_follow_the_display(text: str, wanted: list[str]) -> None:
    plan = planned(text, host(qemu=ANY))
    assert said(plan) == []
    assert [c.id for c in plan.channels] == wanted
    assert ("channel" in plan.places) is bool(wanted)


def test_channels_that_need_another_display() -> None:
    text = '[agent]\nspice = true\nwebdav = true\n[[channel]]\nname = "a"\ntype = "spice"\n'
    assert said(planned(text, host(qemu=ANY))) == [
        "agent.webdav: this channel leads to a SPICE viewer",
        "channel[0]: this channel leads to a SPICE viewer",
        "agent.spice: the SPICE agent needs a display that it can serve",
    ]


def test_usb_that_the_machine_has_not() -> None:
    text = '[machine]\nusb = "none"\n[[input]]\ntype = "tablet"\n'
    assert said(planned(text, host(qemu=ANY))) == [
        "input[0].type: this is plugged into USB, and the machine has none"]
    assert planned('[machine]\nusb = "none"\n', host(qemu=ANY)).usb_bus is None
    plan = planned('[machine]\nusb = "uhci"\n', host(qemu=ANY))
    assert plan.usb_bus is not None and plan.usb_bus.why == "machine.usb"
