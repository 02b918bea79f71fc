"""A machine's own network with real bridges, nftables and dnsmasq: a namespace is the guest."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qlaunch.errors import HostError, NotRestoredError
from qlaunch.host.handler import Handler, Host
from qlaunch.host.handlers import HANDLERS
from qlaunch.plan.steps import (
    LoadModule,
    MakeBridge,
    NftTable,
    RunDnsmasq,
    SetForwarding,
    Step,
)
from qlaunch.run.engine import Engine
from qlaunch.run.journal import (
    Record,
    create_journal,
    make_header,
    open_journal,
    read_journal,
)
from qlaunch.values import Ipv4Network, MacAddress
from tests.fake.scripted import MemoryLog, Scripted
from tests.netns.space import another, enter, fresh, give, inside, lease, out, sh

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not (shutil.which("nft") and shutil.which("dnsmasq")), reason="needs nft and dnsmasq"
    ),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

MAC = MacAddress("52:54:00:aa:bb:cc")
SWITCH = Path("/proc/sys/net/ipv4/ip_forward")


@pytest.fixture(autouse=True)
def namespace(tmp_path: Path) -> Iterator[None]:
    with fresh():
        sh("ip link set lo up")
        yield
        for pid in seen(tmp_path).daemons:  # of a test that failed
            os.kill(int(pid), signal.SIGKILL)


def steps(place: Path, number: int = 77, **more: object) -> list[Step]:
    """What a plan has for a machine; another number is another machine."""
    bridge, network = f"qlnat{number}", Ipv4Network(f"192.168.{number}.0/24")
    runtime = place / str(number)
    runtime.mkdir(exist_ok=True)
    guest = network.address(2)
    settings = {"forward": ("tcp:2222:22",)} | more
    return [
        MakeBridge(name=bridge, address=f"{network.address(1)}/24", mtu=1400),
        SetForwarding(machine=f"vm {number}", directory=str(place / "forwarding")),
        NftTable(table=f"qlaunch_{number}", bridge=bridge, network=network, guest=guest,
                 forward=settings["forward"]),  # type: ignore[arg-type]
        RunDnsmasq(bridge=bridge, directory=str(runtime), network=network, mac=MAC, guest=guest,
                   dns=("203.0.113.2",), domain="vm.arpa", mtu=1400),
    ]


class Seen(NamedTuple):
    """Everything a NAT touches."""

    links: str
    tables: str
    forwarding: str
    files: tuple[str, ...]
    daemons: tuple[str, ...]


def seen(place: Path) -> Seen:
    mine = str(place).encode()
    daemons = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if words.startswith((b"dnsmasq", b"/usr/sbin/dnsmasq")) and mine in words:
            daemons.append(path.parent.name)
    links = sorted(name for _, name in socket.if_nameindex())
    files = tuple(sorted(str(p) for p in place.rglob("*") if not p.is_dir()))
    return Seen(" ".join(links), out("nft list ruleset"), SWITCH.read_text(), files, tuple(daemons))


def check_confined(what: Seen, place: Path) -> None:
    """dnsmasq is no root, has power over networks alone, and nothing of ours open."""
    (pid,) = what.daemons
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert "0" not in status["Uid"].split()
    network = 1 << 10 | 1 << 12 | 1 << 13  # CAP_NET_BIND_SERVICE, _ADMIN, _RAW
    assert int(status["CapEff"], 16) & ~network == int(status["CapPrm"], 16) & ~network == 0
    links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    files = {link for link in links if link.startswith("/")}
    assert files <= {"/dev/null", f"{place}/77/dnsmasq.leases"}, files


def applied(wanted: list[Step]) -> Engine:
    engine = Engine(Host(), MemoryLog(), HANDLERS)
    engine.apply(wanted)
    return engine


def dial(address: str, port: int) -> str:
    """What a server says to who connects: the address it sees."""
    with socket.create_connection((address, port), timeout=5) as connected:
        return connected.recv(100).decode()


def serve(space: int, address: str, port: int) -> int:
    """A server there that tells each caller its own address; its pid."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)
            enter(space)
            with socket.create_server((address, port)) as server:
                os.write(writer, b".")
                while True:
                    connected, who = server.accept()
                    connected.send(who[0].encode())
                    connected.close()
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def up(address: str, link: str, *more: str) -> Callable[[], None]:
    return lambda: sh(
        "ip link set lo up", f"ip addr add {address} dev {link}", f"ip link set {link} up", *more
    )


def test_a_guest_gets_an_address_and_reaches_the_internet(tmp_path: Path) -> None:
    before = seen(tmp_path)
    with another() as internet, another() as guest:
        sh("ip link add up0 type veth peer name out0", "ip addr add 203.0.113.1/24 dev up0",
           "ip link set up0 up")  # fmt: skip
        give("out0", internet)
        assert inside(internet, up("203.0.113.2/24", "out0")) is None
        engine = applied(steps(tmp_path))
        sh(f"ip link add port0 type veth peer name eth0 address {MAC}",
           "ip link set port0 master qlnat77", "ip link set port0 up")  # fmt: skip
        give("eth0", guest)
        assert inside(guest, lambda: sh("ip link set eth0 up")) is None
        given = inside(guest, lambda: lease("eth0", MAC))
        assert given == {
            "address": "192.168.77.2", "router": "192.168.77.1", "dns": "192.168.77.1",
            "mask": "255.255.255.0", "domain": "vm.arpa", "mtu": "1400",
        }
        check_confined(seen(tmp_path), tmp_path)
        route = "ip route add default via 192.168.77.1"
        assert inside(guest, up("192.168.77.2/24", "eth0", route)) is None
        servers = [serve(internet, "203.0.113.2", 80), serve(guest, "192.168.77.2", 22)]
        try:
            # out: masqueraded; in: by the forwarded port only
            assert inside(guest, lambda: dial("203.0.113.2", 80)) == "203.0.113.1"
            assert inside(internet, lambda: dial("203.0.113.1", 2222)) == "203.0.113.2"
            assert dial("203.0.113.1", 2222) == "203.0.113.1"  # the host by its own address
            assert dial("192.168.77.2", 22) == "192.168.77.1"
            sneak = "ip route add 192.168.77.0/24 via 203.0.113.1"
            assert inside(internet, lambda: sh(sneak)) is None
            assert "imed out" in inside(internet, lambda: dial("192.168.77.2", 22))
        finally:
            for pid in servers:
                end(pid)
        outcome = engine.undo_all()
        assert outcome.left == ()
        assert outcome.sentences[:3] == (
            "dnsmasq on qlnat77 has ended", "the firewall table ip qlaunch_77 is removed",
            "IPv4 forwarding is off again",
        )
        assert outcome.sentences[3] == "the bridge qlnat77 stays: port0 still uses it"
        sh("ip link del port0", "ip link del qlnat77", "ip link del up0")
    assert seen(tmp_path) == before


def test_two_machines_at_once_and_the_last_one_turns_forwarding_off(tmp_path: Path) -> None:
    before = seen(tmp_path)
    one, two = applied(steps(tmp_path, 77)), applied(steps(tmp_path, 78))
    assert one.undo_all().left == ()
    assert SWITCH.read_text() == "1\n"
    assert len(seen(tmp_path).daemons) == 1
    three = applied(steps(tmp_path, 79))
    assert two.undo_all().left == ()
    assert SWITCH.read_text() == "1\n"
    assert "IPv4 forwarding is off again" in three.undo_all().sentences
    assert seen(tmp_path) == before


def test_forwarding_that_was_on_stays_on(tmp_path: Path) -> None:
    SWITCH.write_text("1")
    before = seen(tmp_path)
    engine = applied(steps(tmp_path))
    assert engine.undo_all().left == ()
    assert seen(tmp_path) == before


def test_a_link_that_forwarded_by_itself_does_so_again(tmp_path: Path) -> None:
    sh("ip link add d0 type bridge", "ip link add d1 type bridge")
    switches = [Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding") for name in ("d0", "d1")]
    switches[0].write_text("1")
    engine = applied(steps(tmp_path))
    assert [p.read_text() for p in switches] == ["1\n", "1\n"]
    engine.undo_all()
    assert [p.read_text() for p in switches] == ["1\n", "0\n"]


def test_a_network_or_a_bridge_that_is_taken_is_refused(tmp_path: Path) -> None:
    first = applied(steps(tmp_path))
    with pytest.raises(HostError, match="a link of this name is there already"):
        applied(steps(tmp_path))
    other = MakeBridge(name="qlnat1", address="192.168.77.129/25")
    with pytest.raises(HostError, match=r"the network of 192\.168\.77\.129/25 is in use"):
        applied([other])
    assert first.undo_all().left == ()
    assert applied([other]).undo_all().left == ()


@pytest.mark.parametrize("k", range(5))
def test_a_failure_at_every_step_leaves_nothing(tmp_path: Path, k: int) -> None:
    before = seen(tmp_path)
    scripted = Scripted(1, {0: {"half": OSError(5, "Input/output error")}})
    wanted = steps(tmp_path)
    wanted.insert(k, *scripted.steps())
    with pytest.raises(HostError) as caught:
        Engine(Host(), MemoryLog(), {**HANDLERS, LoadModule: scripted}).apply(wanted)
    assert not isinstance(caught.value, NotRestoredError)
    assert seen(tmp_path) == before


def test_faults_are_told_in_the_programs_own_words(tmp_path: Path) -> None:
    before = seen(tmp_path)
    *others, daemon = steps(tmp_path)
    assert isinstance(daemon, RunDnsmasq)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 67))  # noqa: S104 - another DHCP server on all addresses
        with pytest.raises(HostError, match="dnsmasq does not start on qlnat77") as caught:
            applied([*others, daemon])
    assert "Address already in use" in str(caught.value)
    assert "ss -lnup" in str(caught.value)
    bad = NftTable(table="9", bridge="b", network=Ipv4Network("10.0.0.0/8"), guest="10.0.0.2",
                   forward=("sctp:1:bad",))  # fmt: skip
    with pytest.raises(HostError):
        applied([bad])
    assert seen(tmp_path) == before


def test_a_table_left_by_a_lost_journal_is_replaced(tmp_path: Path) -> None:
    before = seen(tmp_path)
    sh("nft add table ip qlaunch_77", "nft add chain ip qlaunch_77 old")
    engine = applied(steps(tmp_path))
    assert "chain old" not in out("nft list ruleset")
    engine.undo_all()
    assert seen(tmp_path) == before


class Deadly:
    """A handler whose process dies when its step has been applied, before anybody is told."""

    def __init__(self, inner: Handler[Any]) -> None:
        self.inner = inner
        self.capture, self.undo = inner.capture, inner.undo

    def apply(self, host: Host, step: Step, captured: dict[str, Any]) -> None:
        self.inner.apply(host, step, captured)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("count", "deadly"),
    [*((n, None) for n in range(1, 17)),
     *((0, kind) for kind in (MakeBridge, SetForwarding, NftTable, RunDnsmasq))],
)
def test_killed_at_any_moment_another_process_puts_all_back(
    tmp_path: Path, count: int, deadly: type | None
) -> None:
    """A launcher that dies after its n-th record (two a step and two an undo), or in a step."""
    before = seen(tmp_path)
    place = tmp_path / "run"
    place.mkdir()
    pid = os.fork()
    if pid == 0:
        try:
            journal = create_journal(place, make_header(Host(), "vm"))

            class Dying:
                left = count

                def write(self, record: Record) -> None:
                    journal.write(record)
                    self.left -= 1
                    if self.left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            handlers = {**HANDLERS, **({deadly: Deadly(HANDLERS[deadly])} if deadly else {})}
            engine = Engine(Host(), Dying(), handlers)
            engine.apply(steps(tmp_path))
            engine.undo_all()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    contents = read_journal(place / "journal")
    journal = open_journal(place / "journal")
    outcome = Engine.resume(Host(), journal, HANDLERS, contents.records).undo_all()
    journal.close()
    assert outcome.left == ()
    (place / "journal").unlink()
    assert seen(tmp_path) == before


def test_a_stranger_with_our_pid_is_not_ended(tmp_path: Path) -> None:
    """The pid file may name any process by now."""
    daemon = steps(tmp_path)[3]
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "77/dnsmasq.pid").write_text(f"{stranger.pid}\n")
        assert HANDLERS[RunDnsmasq].undo(Host(), daemon, {}) is None
        time.sleep(0.1)
        assert stranger.poll() is None
        stranger.kill()
    assert not (tmp_path / "77/dnsmasq.pid").exists()


def test_a_dnsmasq_that_does_not_listen_to_sigterm(tmp_path: Path) -> None:
    log = MemoryLog()
    Engine(Host(), log, HANDLERS).apply(steps(tmp_path))
    (pid,) = seen(tmp_path).daemons
    os.kill(int(pid), signal.SIGSTOP)
    quick = Engine.resume(Host(settle=0.2), MemoryLog(), HANDLERS, log.records)
    assert quick.undo_all().left == ()
    assert seen(tmp_path).daemons == ()
