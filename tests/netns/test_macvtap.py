"""Real macvtaps: made on a link, opened, heard at the other end, removed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlaunch.errors import HostError
from qlaunch.host.handler import Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.host.netchild import NetChild
from qlaunch.host.tap import open_macvtap
from qlaunch.plan.steps import MakeMacvtap
from qlaunch.run.engine import Engine
from qlaunch.values import MacAddress
from tests.fake.scripted import MemoryLog
from tests.netns.space import fresh, out, sh

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

MAC = MacAddress("52:54:00:aa:bb:cc")
NAME = "qlmvtest0"
STEP = MakeMacvtap(name=NAME, parent="up0", mode="bridge", mac=MAC)


@pytest.fixture(autouse=True)
def parent() -> Iterator[None]:
    with fresh():
        sh("ip link add up0 type veth peer name far0", "ip link set up0 up", "ip link set far0 up")
        yield


@pytest.fixture
def host() -> Iterator[Host]:
    child = NetChild()
    yield Host(net=child)
    child.close()


def names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
def test_made_used_and_removed(host: Host, queues: int, mode: str) -> None:
    before = names()
    engine = Engine(host, MemoryLog(), HANDLERS)
    step = MakeMacvtap(name=NAME, parent="up0", mode=mode, mac=MAC, mtu=1400)  # type: ignore[arg-type]
    engine.apply([step])
    shown = out(f"ip -d link show {NAME}")
    assert f"macvtap mode {mode}" in shown
    assert str(MAC) in shown
    assert "mtu 1400" in shown
    fds = open_macvtap(NAME, queues)
    assert len(fds) == queues
    assert not any(os.get_inheritable(fd) for fd in fds)
    frame = bytes.fromhex("ffffffffffff" + MAC.replace(":", "")) + b"\x88\xb5" + b"hello".ljust(60)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as far:
        far.bind(("far0", 0))
        far.settimeout(5)
        os.write(fds[0], bytes(10) + frame)  # behind the virtio-net header
        assert far.recv(2000) == frame
    for fd in fds:
        os.close(fd)
    assert engine.undo_all().sentences == (f"the macvtap {NAME} is removed",)
    assert names() == before


def test_passthru_has_the_links_own_mac(host: Host) -> None:
    engine = Engine(host, MemoryLog(), HANDLERS)
    mac = out("ip -o link show up0").partition("link/ether ")[2].split()[0]
    engine.apply([MakeMacvtap(name=NAME, parent="up0", mode="passthru", mac=None)])
    assert mac in out(f"ip -o link show {NAME}")
    assert engine.undo_all().left == ()
    assert mac in out("ip -o link show up0")


def test_a_name_that_is_taken_and_a_parent_that_is_missing(host: Host) -> None:
    engine = Engine(host, MemoryLog(), HANDLERS)
    engine.apply([STEP])
    with pytest.raises(HostError, match="a link of this name is there already"):
        Engine(host, MemoryLog(), HANDLERS).apply([STEP])
    engine.undo_all()
    before = names()
    with pytest.raises(HostError, match="this host has no such link"):
        Engine(host, MemoryLog(), HANDLERS).apply(
            [MakeMacvtap(name=NAME, parent="nope", mode="bridge", mac=MAC)]
        )
    with pytest.raises(HostError, match="Invalid argument"):  # larger than its parent carries
        Engine(host, MemoryLog(), HANDLERS).apply(
            [MakeMacvtap(name=NAME, parent="up0", mode="bridge", mac=MAC, mtu=9000)]
        )
    assert names() == before


def test_an_undo_without_apply_removes_nobody_elses_link(host: Host) -> None:
    handler = HANDLERS[MakeMacvtap]
    assert handler.undo(host, STEP, {}) is None
    sh(f"ip link add {NAME} type bridge")
    assert handler.undo(host, STEP, {}) is None
    assert NAME in names()
    sh(f"ip link del {NAME}")
    sh(f"ip link add link far0 name {NAME} type macvtap")
    assert handler.undo(host, STEP, {}) is None  # on another parent
    assert NAME in names()


def test_what_cannot_be_opened() -> None:
    with pytest.raises(HostError, match="the macvtap cannot be opened"):
        open_macvtap("nope", 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError, match="No such file"):
        open_macvtap("up0", 1, settle=0.05)  # a link without a node
    assert len(list(Path("/proc/self/fd").iterdir())) == before
