"""Real bridges and taps in a network namespace of their own, which dies with the test."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qlaunch.errors import HostError, NotRestoredError, StuckError
from qlaunch.host import sysfs
from qlaunch.host.handler import Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.host.net import MakeBridgeHandler, attach_tap
from qlaunch.host.netchild import NetChild
from qlaunch.host.tap import open_tap
from qlaunch.host.writers import wait_for_writers
from qlaunch.plan.steps import LoadModule, MakeBridge
from qlaunch.run.engine import Engine
from tests.fake.scripted import MemoryLog, Scripted

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

CLONE_NEWNET = 0x40000000
BRIDGE = MakeBridge(name="qbr0")
HANDLER = MakeBridgeHandler()


def names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.unshare(CLONE_NEWNET) != 0:
        os.close(home)
        pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


@pytest.fixture(params=["child", "in-process"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    if request.param == "in-process":
        yield Host()
        return
    child = NetChild()
    child.start()
    yield Host(net=child)
    child.close()


def close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def test_a_bridge_is_made_and_removed(host: Host) -> None:
    before = names()
    captured = HANDLER.capture(host, BRIDGE)
    HANDLER.apply(host, BRIDGE, captured)
    assert names() == before | {"qbr0"}
    assert HANDLER.undo(host, BRIDGE, captured) == "the bridge qbr0 is removed"
    assert HANDLER.undo(host, BRIDGE, captured) is None
    assert names() == before


def test_a_bridge_that_was_there_stays(host: Host) -> None:
    HANDLER.apply(host, BRIDGE, HANDLER.capture(host, BRIDGE))
    captured = HANDLER.capture(host, BRIDGE)
    HANDLER.apply(host, BRIDGE, captured)
    assert HANDLER.undo(host, BRIDGE, captured) is None
    assert "qbr0" in names()


def test_an_undo_without_apply_removes_nobody_elses_bridge(host: Host) -> None:
    captured = HANDLER.capture(host, BRIDGE)
    other = HANDLER.capture(host, BRIDGE)
    HANDLER.apply(host, BRIDGE, other)  # somebody else was quicker
    assert HANDLER.undo(host, BRIDGE, captured) is None
    assert "qbr0" in names()
    assert HANDLER.undo(host, BRIDGE, other) == "the bridge qbr0 is removed"


def test_a_bridge_that_another_start_made_meanwhile_is_used_and_left_to_it(host: Host) -> None:
    ours, other = HANDLER.capture(host, BRIDGE), HANDLER.capture(host, BRIDGE)
    HANDLER.apply(host, BRIDGE, other)
    HANDLER.apply(host, BRIDGE, ours)
    assert ours["existed"]
    assert HANDLER.undo(host, BRIDGE, ours) is None
    assert "qbr0" in names()
    assert HANDLER.undo(host, BRIDGE, other) == "the bridge qbr0 is removed"


def test_a_link_that_appeared_meanwhile_and_is_no_bridge_is_refused(host: Host) -> None:
    captured = HANDLER.capture(host, BRIDGE)
    _, fds = open_tap("qbr0", 1, vnet_hdr=True)
    with pytest.raises(HostError, match="File exists"):
        HANDLER.apply(host, BRIDGE, captured)
    assert HANDLER.undo(host, BRIDGE, captured) is None
    assert "qbr0" in names()
    close(fds)


def test_a_link_that_is_no_bridge(host: Host) -> None:
    with pytest.raises(HostError, match="is no bridge"):
        HANDLER.capture(host, MakeBridge(name="lo"))
    ifname, fds = open_tap(None, 1, vnet_hdr=True)
    with pytest.raises(HostError, match="the bridge lo is no bridge"):
        attach_tap(Host(), ifname, "lo")
    with pytest.raises(HostError, match="the bridge none does not exist"):
        attach_tap(Host(), ifname, "none")
    close(fds)


@pytest.mark.parametrize("queues", [1, 4])
def test_a_tap_lives_as_long_as_its_fds(host: Host, queues: int) -> None:
    captured = HANDLER.capture(host, BRIDGE)
    HANDLER.apply(host, BRIDGE, captured)
    before = names()
    ifname, fds = open_tap("qtap0", queues, vnet_hdr=True)
    assert (ifname, len(fds)) == ("qtap0", queues)
    assert not any(os.get_inheritable(fd) for fd in fds)
    attach_tap(Host(), ifname, "qbr0", mtu=1400)
    assert HANDLER.undo(host, BRIDGE, captured) == "the bridge qbr0 stays: qtap0 still uses it"
    close(fds)
    assert names() == before
    assert HANDLER.undo(host, BRIDGE, captured) == "the bridge qbr0 is removed"


def test_the_kernel_names_a_tap() -> None:
    first, fds = open_tap(None, 1, vnet_hdr=False)
    second, more = open_tap(None, 2, vnet_hdr=True)
    assert {first, second} <= names()
    assert first != second
    close(fds + more)
    assert not {first, second} & names()


def test_a_tap_takes_the_bridges_mtu(host: Host) -> None:
    from pyroute2 import IPRoute

    HANDLER.apply(host, BRIDGE, HANDLER.capture(host, BRIDGE))
    with IPRoute() as ip:
        index = ip.link_lookup(ifname="qbr0")[0]
        ip.link("set", index=index, mtu=9000)
        ifname, fds = open_tap(None, 1, vnet_hdr=True)
        attach_tap(Host(), ifname, "qbr0")
        link = ip.get_links(ip.link_lookup(ifname=ifname)[0])[0]
        assert (link.get("mtu"), link.get("master"), link["state"]) == (9000, index, "up")
        assert ip.get_links(index)[0].get("mtu") == 9000
    close(fds)


def test_a_tap_in_use_leaves_no_fd() -> None:
    _, fds = open_tap("qtap0", 1, vnet_hdr=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError, match="another process has this tap open"):
        open_tap("qtap0", 1, vnet_hdr=True)
    with pytest.raises(HostError, match="is no tap"):
        open_tap("lo", 1, vnet_hdr=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    close(fds)


def test_a_killed_launcher_leaves_no_tap_and_no_helper() -> None:
    HANDLER.apply(Host(), BRIDGE, HANDLER.capture(Host(), BRIDGE))
    before = names()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child = NetChild()
            child.start()
            ifname, _ = open_tap("qtap0", 1, vnet_hdr=True)
            attach_tap(Host(), ifname, "qbr0")
            os.write(writer, str(child.pid).encode())
            time.sleep(60)
        finally:
            os._exit(1)
    helper = int(os.read(reader, 100))
    assert "qtap0" in names()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    close([reader, writer])
    assert names() == before
    end = time.monotonic() + 5
    while Path(f"/proc/{helper}/cmdline").exists() and time.monotonic() < end:
        if "Z" in Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[0]:
            break  # nobody reaps orphans here
        time.sleep(0.01)
    assert time.monotonic() < end


def killed_in(ask: Callable[[], object]) -> None:
    """A launcher that is killed while something else carries out what it asked for."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, b"x")
            ask()
        finally:
            os._exit(1)
    os.read(reader, 1)
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}/wchan").exists() and time.monotonic() < end:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "S":
            break  # it waits
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    close([reader, writer])


def test_a_request_that_outlives_its_launcher_is_waited_for(tmp_path: Path) -> None:
    """Else its bridge would be made after the undo."""
    journal = tmp_path / "journal"
    journal.touch()
    before, child = names(), NetChild()
    child.start()
    os.kill(child.pid, signal.SIGSTOP)
    host = Host(net=child, journal=str(journal), deadline=0.3)
    captured = {"existed": False, "mac": "02:00:00:00:00:07"}
    killed_in(lambda: HANDLER.apply(Host(net=child, journal=host.journal), BRIDGE, captured))
    assert not wait_for_writers(host)
    os.kill(child.pid, signal.SIGCONT)
    assert wait_for_writers(Host(journal=host.journal))
    assert names() == before | {"qbr0"}
    HANDLER.undo(Host(), BRIDGE, captured)
    assert names() == before
    child.close()


def test_a_tool_that_outlives_its_launcher_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    host = Host(journal=str(tmp_path / "journal"), deadline=0.3)
    killed_in(lambda: sysfs.run(host, ["cat", str(fifo)]))
    assert not wait_for_writers(host)
    fifo.write_text("")
    assert wait_for_writers(Host(journal=host.journal))


def test_the_helper_ends_and_comes_again() -> None:
    child = NetChild()
    assert child.call("find", name="lo") == {"exists": True, "bridge": False}
    first = child.pid
    child.close()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert child.call("find", name="nothing") == {"exists": False, "bridge": False}
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(HostError, match="ended unexpectedly"):
        child.call("find", name="lo")
    assert child.call("find", name="lo")["exists"]
    child.close()


def test_a_helper_that_hangs() -> None:
    child = NetChild(deadline=0.2)
    child.start()
    os.kill(child.pid, signal.SIGSTOP)
    stopped = child.pid
    with pytest.raises(StuckError, match=r"within 0\.2 s"):
        child.call("find", name="lo")
    os.kill(stopped, signal.SIGKILL)
    os.waitpid(stopped, 0)


def test_a_failed_run_leaves_no_bridge(host: Host) -> None:
    before, scripted = names(), Scripted(1, {0: {"half": OSError(5, "Input/output error")}})
    engine = Engine(host, MemoryLog(), {**HANDLERS, LoadModule: scripted})
    with pytest.raises(HostError) as caught:
        engine.apply([BRIDGE, *scripted.steps()])
    assert not isinstance(caught.value, NotRestoredError)
    assert names() == before
