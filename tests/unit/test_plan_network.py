"""Network cards: MAC, model, and what is behind them."""

from __future__ import annotations

import shlex

import msgspec
import pytest

from qlaunch.argv.network import net_options
from qlaunch.facts.model import HostFacts, HostFile
from qlaunch.facts.net_model import Link, NetworkState
from qlaunch.plan.nat import nat_bridge, nft_table
from qlaunch.plan.network import derive_mac
from qlaunch.plan.steps import (
    LoadModule,
    MakeBridge,
    MakeMacvtap,
    NftTable,
    RunDnsmasq,
    SetForwarding,
)
from qlaunch.values import Ipv4Network, parse_mac
from tests.fake.plans import QEMU, USER, host, planned, said

BR0 = Link(name="br0", kind="bridge")
TAP = Link(name="tap9", kind="tap", owner=1000)
ETH = Link(name="eth0", kind="physical")
HOST = host(links=(BR0, TAP, ETH))


@pytest.mark.parametrize(
    ("net", "fault"),
    [
        ('bridge = "br0"', None),
        ('tap = "tap9"', None),
        ("user = {}", None),
        ('bridge = "br7"\nmake_bridge = true', None),
        ('bridge = "br7"', "net[0].bridge: this host has no such bridge"),
        ('bridge = "eth0"', "net[0].bridge: eth0 is a physical link, not a bridge"),
        ('bridge = "eth0"\nmake_bridge = true',
         "net[0].bridge: eth0 is a physical link, not a bridge"),
        ('tap = "tap1"', "net[0].tap: this host has no such tap"),
        ('tap = "eth0"', "net[0].tap: eth0 is a physical link, not a tap"),
        ('bridge = "br0"\nvhost = true', None),
    ],
)  # fmt: skip
def test_what_is_behind_a_card(net: str, fault: str | None) -> None:
    plan = planned(f"[[net]]\n{net}\n", HOST)
    assert said(plan) == ([fault] if fault else [])
    assert all(p.hint for p in plan.problems)


def test_a_missing_bridge_names_those_there_are() -> None:
    (problem,) = planned('[[net]]\nbridge = "br7"\n', HOST).problems
    assert (problem.found, problem.allowed) == ("br7", "br0")
    (problem,) = planned('[[net]]\nbridge = "br7"\n', host()).problems
    assert problem.allowed == "none exists"


def test_a_bridge_is_made_once_for_all_its_cards_and_not_when_it_is_there() -> None:
    text = '[[net]]\nbridge = "br7"\nmake_bridge = true\n'
    steps = planned(text * 2, HOST).steps
    assert [s.name for s in steps if isinstance(s, MakeBridge)] == ["br7"]
    assert planned('[[net]]\nbridge = "br0"\nmake_bridge = true\n', HOST).steps == ()


def test_taps_need_their_module() -> None:
    text = '[[net]]\nbridge = "br0"\n'
    without = host(links=(BR0,), tun=False)
    assert [s.module for s in planned(text, without).steps if isinstance(s, LoadModule)] == ["tun"]
    assert planned("[[net]]\nuser = {}\n", without).steps == ()
    assert planned(text, HOST).steps == ()


def test_root_is_needed_for_a_tap_on_a_bridge_only() -> None:
    needs = {
        net: planned(f"[[net]]\n{net}\n", HOST).needs_root
        for net in ('bridge = "br0"', 'tap = "tap9"', "user = {}")
    }
    assert needs == {'bridge = "br0"': True, 'tap = "tap9"': False, "user = {}": False}


def test_queues_and_vhost_have_an_fd_each() -> None:
    (nic,) = planned('[[net]]\nbridge = "br0"\nqueues = 2\n', HOST).nics
    assert (len(nic.tap_fds), len(nic.vhost_fds)) == (2, 2)
    assert len({*nic.tap_fds, *nic.vhost_fds}) == 4
    for net in ("vhost = false", 'model = "e1000"'):
        (nic,) = planned(f'[[net]]\nbridge = "br0"\n{net}\n', HOST).nics
        assert (len(nic.tap_fds), nic.vhost_fds) == (1, ())


def test_vhost_that_is_not_there() -> None:
    without = host(links=(BR0,), vhost_net=False)
    assert said(planned('[[net]]\nbridge = "br0"\nvhost = true\n', without)) == [
        "net[0].vhost: this kernel has no vhost-net"
    ]
    assert said(planned('[[net]]\nbridge = "br0"\n', without)) == []


@pytest.mark.parametrize(
    ("text", "fds"),
    [
        ('[[net]]\ntap = "tap9"\n', 0),
        ('[[net]]\nbridge = "br0"\n', 1),  # needs root anyway, who may open it
        ('[[net]]\ntap = "tap9"\n[[pci]]\ndevice = "03:00.0"\n', 1),
    ],
)
def test_vhost_is_for_who_may_open_it(text: str, fds: int) -> None:
    (nic,) = planned(text, msgspec.structs.replace(HOST, vhost_usable=False)).nics
    assert len(nic.vhost_fds) == fds
    (nic,) = planned(text, msgspec.structs.replace(HOST, vhost_usable=True)).nics
    assert len(nic.vhost_fds) == 1


def test_vhost_that_is_asked_for_and_denied() -> None:
    denied = msgspec.structs.replace(HOST, vhost_usable=False)
    assert said(planned('[[net]]\ntap = "tap9"\nvhost = true\n', denied)) == [
        "net[0].vhost: /dev/vhost-net may not be opened by you"
    ]


def test_macs_are_derived_stable_and_distinct() -> None:
    text = "[[net]]\nuser = {}\n"
    nics = planned(text * 2).nics
    assert nics == planned(text * 2).nics
    assert len({n.mac for n in nics}) == 2
    assert all(parse_mac(n.mac) == n.mac and n.mac.startswith("52:54:00:") for n in nics)
    assert nics[0].mac == derive_mac(planned(text).uuid.upper(), 0)
    other = planned(
        'uuid = "6f9619ff-8b86-4011-b42d-00c04fc964ff"\n' + text
    )
    assert other.nics[0].mac != nics[0].mac
    (given,) = planned('[[net]]\nuser = {}\nmac = "52:54:00:26:7F:96"\n').nics
    assert (given.mac, given.mac_why) == ("52:54:00:26:7f:96", "net[0].mac")


def words(text: str, facts: HostFacts | None = None) -> list[str]:
    return [w for o in net_options(planned(text, facts or HOST)) for w in o.words]


def state(**more: object) -> HostFacts:
    return msgspec.structs.replace(HOST, network=NetworkState(**more))  # type: ignore[arg-type]


UP = Link(name="eth1", kind="physical", up=True, mac="10:00:00:00:00:01", mtu=1500)
WIFI = Link(name="wlan0", kind="wireless", up=True, default_route=True)


@pytest.mark.parametrize(
    ("net", "link", "fault"),
    [
        ('macvtap = "eth1"', UP, None),
        ('macvtap = "eth9"', UP, "net[0].macvtap: this host has no such link"),
        ('macvtap = "wlan0"', WIFI, "net[0].macvtap: wlan0 is wireless: its access point takes "
         "packets from one MAC address only"),
        ('macvtap = "eth1"', msgspec.structs.replace(UP, master="br0"),
         "net[0].macvtap: eth1 is a port of br0 already"),
        ('macvtap = "eth1"\nmode = "passthru"', msgspec.structs.replace(UP, default_route=True),
         "net[0].mode: eth1 is the host's way out, which passthru would take from it"),
        ('macvtap = "eth1"\nmtu = 9000', UP, "net[0].mtu: larger than eth1 carries"),
        ('bridge = "wlan0"', WIFI,
         "net[0].bridge: wlan0 is a wireless link, not a bridge, and cannot be a port of one"),
    ],
)  # fmt: skip
def test_links_that_are_shared(net: str, link: Link, fault: str | None) -> None:
    plan = planned(f"[[net]]\n{net}\n", host(links=(BR0, link)))
    assert said(plan) == ([fault] if fault else [])
    assert all(p.hint for p in plan.problems)


def test_a_macvtap_and_its_mac() -> None:
    text = '[[net]]\nmacvtap = "eth1"\nqueues = 2\nmtu = 1400\n'
    plan = planned(text, host(links=(UP,)))
    (nic,) = plan.nics
    assert plan.steps == (
        MakeMacvtap(name=str(nic.ifname), parent="eth1", mode="bridge", mac=nic.mac, mtu=1400,
                    why="net[0].macvtap"),
    )
    assert (nic.kind, len(nic.tap_fds), len(nic.vhost_fds)) == ("macvtap", 2, 2)
    assert len(str(nic.ifname)) <= 15
    assert plan.needs_root
    passthru = planned('[[net]]\nmacvtap = "eth1"\nmode = "passthru"\n', host(links=(UP,)))
    assert passthru.nics[0].mac == UP.mac
    assert [s.mac for s in passthru.steps if isinstance(s, MakeMacvtap)] == [None]
    down = planned(text, host(links=(msgspec.structs.replace(UP, up=False),)))
    assert said(down, "warning") == ["net[0].macvtap: eth1 is down: the guest will hear nothing"]


def test_a_network_behind_the_host() -> None:
    text = (
        '[[net]]\nmtu = 1400\n'
        'nat = { forward = ["tcp:2222:22"], dns = ["1.1.1.1"], domainname = "a.b" }\n'
    )
    plan = planned(text)
    bridge, forwarding, table, daemon = plan.steps
    assert isinstance(bridge, MakeBridge)
    assert isinstance(forwarding, SetForwarding)
    assert isinstance(table, NftTable)
    assert isinstance(daemon, RunDnsmasq)
    assert bridge.name == plan.nics[0].bridge == table.bridge == daemon.bridge == nat_bridge("vm")
    assert bridge.address == table.network.address(1) + "/24"
    assert table.guest == daemon.guest == table.network.address(2)
    assert (daemon.mac, daemon.dns, daemon.domain) == (plan.nics[0].mac, ("1.1.1.1",), "a.b")
    assert {bridge.mtu, daemon.mtu, plan.nics[0].mtu} == {1400}
    assert forwarding.directory == plan.runtime_dir.replace("/vm", "/.forwarding")
    assert plan.needs_root
    assert said(plan) == []


@pytest.mark.parametrize(
    ("name", "table"), [("win7", "qlaunch_win7"), ("My VM", "qlaunch_My_VM_acb705ec")]
)
def test_names_of_two_machines_never_meet(name: str, table: str) -> None:
    assert nft_table(name) == table
    assert nft_table("My_VM") != nft_table("My VM") != nft_table("My.VM")
    assert nat_bridge("a") != nat_bridge("b")
    assert len(nat_bridge(name)) <= 15


def networks(routes: tuple[str, ...]) -> Ipv4Network:
    plan = planned("[[net]]\nnat = {}\n", state(routes=routes))
    assert said(plan) == []
    (table,) = [s for s in plan.steps if isinstance(s, NftTable)]
    return table.network


def test_a_network_is_chosen_that_nothing_uses() -> None:
    first = networks(())
    assert networks((f"{first} eth0",)) not in (first, None)
    assert networks((f"{first} {nat_bridge('vm')}",)) == first  # its own, while it runs
    assert networks(("0.0.0.0/1 tun0", "128.0.0.0/1 tun0")) == first
    assert networks(("192.168.0.0/16 tun0",)).startswith("10.")
    full = planned("[[net]]\nnat = {}\n",
                   state(routes=("192.168.0.0/16 tun0", "10.0.0.0/8 tun0")))
    assert said(full) == ["net[0].nat: no private network is free on this host"]
    asked = planned('[[net]]\nnat = { net = "10.1.0.0/16" }\n', state(routes=("10.1.2.0/24 e",)))
    assert said(asked) == ["net[0].nat.net: the host reaches 10.1.2.0/24 by e already"]


@pytest.mark.parametrize(
    ("facts", "who", "hint"),
    [
        ({"managers": ("ufw",)}, "ufw", "ufw allow in on"),
        ({"managers": ("firewalld",)}, "firewalld", "firewall-cmd --zone=trusted"),
        ({"managers": ("docker",), "drops": ("forward ip filter FORWARD",)}, "docker",
         "iptables -I DOCKER-USER"),
        ({"managers": ("docker",)}, "docker", "iptables -I DOCKER-USER"),
        ({"drops": ("forward inet mine fwd",)}, "the chain fwd of table inet mine",
         "nft insert rule inet mine fwd iifname"),
        ({"drops": ("input inet mine in",)}, "the chain in of table inet mine",
         "nft insert rule inet mine in iifname"),
    ],
)  # fmt: skip
def test_other_firewalls_are_told(facts: dict[str, object], who: str, hint: str) -> None:
    plan = planned("[[net]]\nnat = {}\n", state(**facts))
    (problem,) = [p for p in plan.problems if p.severity == "warning"]
    assert problem.message.startswith(f"{who} may drop the guest's packets")
    assert problem.hint.startswith(hint)
    assert nat_bridge("vm") in problem.hint


@pytest.mark.parametrize("facts", [{}, {"managers": ("docker",), "drops": ()}])
def test_no_firewall_no_warning(facts: dict[str, object]) -> None:
    assert planned("[[net]]\nnat = {}\n", state(**facts)).problems == ()


def test_bridged_packets_that_a_firewall_sees() -> None:
    text = '[[net]]\nbridge = "br0"\n'
    links = (msgspec.structs.replace(BR0, default_route=True),)

    def warned(**facts: object) -> list[str]:
        here = msgspec.structs.replace(state(**facts), links=links)
        return said(planned(text, here), "warning")

    message = (
        "net[0].bridge: packets that only pass the bridge may be dropped by the firewall "
        "(br_netfilter)"
    )
    assert warned(bridge_calls=True, managers=("docker",)) == [message]
    assert warned(bridge_calls=True, drops=("forward ip filter FORWARD",)) == [message]
    assert warned(bridge_calls=True, managers=("docker",), drops=()) == []
    assert warned(bridge_calls=True) == []
    assert warned(managers=("docker",), drops=("forward ip filter FORWARD",)) == []


def test_a_bridge_that_leads_nowhere_or_late() -> None:
    text = '[[net]]\nbridge = "br0"\nmtu = 9000\n'

    def here(*links: Link, routes: tuple[str, ...] = ()) -> list[str]:
        facts = msgspec.structs.replace(state(routes=routes), links=links)
        plan = planned(text, facts)
        return [p.message + "; " + p.hint for p in plan.problems]

    assert here(BR0, UP) == [
        "the bridge has no port and no address: the guest will be alone on it; "
        "ip link set eth1 master br0; or use nat = {}"
    ]
    assert "wireless" in here(BR0, UP, WIFI)[0]
    assert here(BR0, msgspec.structs.replace(UP, master="br0")) == []
    assert here(BR0, routes=("10.0.0.0/24 br0",)) == []
    slow = msgspec.structs.replace(BR0, delay=30.0, mtu=1500, default_route=True)
    assert [m.partition(";")[0] for m in here(slow)] == [
        "a card on this bridge is deaf for its first 30 s (spanning tree)",
        "the bridge drops packets of this size",
    ]


@pytest.mark.parametrize(
    ("unmanaged", "told"),
    [((), True), (("interface-name:br*",), False), (("interface-name:=br7",), False),
     (("type:bridge",), False), (("mac:10:00:00:00:00:01", "interface-name:eth*"), True)],
)  # fmt: skip
def test_networkmanager_is_told_of(unmanaged: tuple[str, ...], told: bool) -> None:
    facts = state(managers=("NetworkManager",), unmanaged=unmanaged)
    plan = planned('[[net]]\nbridge = "br7"\nmake_bridge = true\n', facts)
    notes = [p for p in plan.problems if p.severity == "note"]
    assert [n.message for n in notes] == ["NetworkManager may take br7 for its own"] * told
    assert all("unmanaged-devices=interface-name:br7" in n.hint for n in notes)


def test_passt_is_a_helper_of_the_card() -> None:
    text = (
        '[[net]]\nmtu = 1400\n'
        'passt = { forward = ["tcp:2222:22", "udp:127.0.0.1:53:5353"], dns = ["9.9.9.9"] }\n'
    )
    plan = planned(text, msgspec.structs.replace(HOST, programs={"passt": "/usr/bin/passt"}))
    (helper,) = plan.helpers
    assert helper.argv == (
        "/usr/bin/passt", "--foreground", "--fd", "3", "--tcp-ports", "2222:22",
        "--udp-ports", "127.0.0.1/53:5353", "--dns", "9.9.9.9", "--mtu", "1400",
    )  # fmt: skip
    (netdev, *_) = [o for o in net_options(plan) if o.flag == "-netdev"]
    number = plan.fd("helper", helper.id)
    assert netdev.words[1] == f"stream,id=hostnet0,server=off,addr.type=fd,addr.str={number}"
    assert not plan.needs_root
    missing = planned(text, msgspec.structs.replace(HOST, programs={"passt": ""}))
    assert said(missing) == ["net[0].passt: passt is not installed"]
    assert missing.problems[0].hint == "install passt (Debian, Fedora, Arch)"
    old = msgspec.structs.replace(QEMU, version=(7, 1, 0))
    assert said(planned(text, msgspec.structs.replace(HOST, qemu=old))) == [
        "net[0].passt: this QEMU cannot talk to passt"
    ]


def test_user_mode_and_the_card_as_qemu_reads_them() -> None:
    netdev, card = words(
        '[[net]]\nrom = false\nmtu = 9000\nrx_queue_size = 1024\n'
        'user = { net = "10.9.0.0/24", dns = "10.9.0.9", domainname = "a.b", '
        'dnssearch = ["c.d", "e.f"], tftp = "/srv/a,b", bootfile = "x,y", restrict = true }\n'
    )[1::2]
    assert netdev == (
        "user,id=hostnet0,restrict=on,net=10.9.0.0/24,domainname=a.b,dns=10.9.0.9,"
        "tftp=/srv/a,,b,bootfile=x,,y,dnssearch=c.d,dnssearch=e.f"
    )
    assert card.endswith(",id=net0,romfile=,host_mtu=9000,rx_queue_size=1024")
    e1000 = words('[[net]]\nmodel = "e1000"\nbridge = "br0"\nmtu = 9000\n')[-1]
    assert "mtu" not in e1000


def test_the_hint_for_tftp_can_be_pasted() -> None:
    path = "/srv/it's $HOME"
    files = (HostFile(path=path, kind="directory", readable=False),)
    plan = planned(f'[[net]]\nuser = {{ tftp = "{path}" }}\n', host(files=files))
    (problem,) = plan.problems
    assert shlex.split(problem.hint.partition(", ")[0]) == ["chmod", "o+rx", path]


@pytest.mark.parametrize(
    ("found", "fault"),
    [("directory", []), ("file", ["net[0].user.tftp: not a directory"]),
     ("missing", ["net[0].user.tftp: not a directory"])],
)  # fmt: skip
def test_tftp_is_a_directory(found: str, fault: list[str]) -> None:
    files = (HostFile(path="/srv", kind=found),)  # type: ignore[arg-type]
    text = '[[net]]\nuser = { tftp = "/srv" }\n'
    assert said(planned(text, msgspec.structs.replace(HOST, files=files))) == fault


@pytest.mark.parametrize(
    ("net", "allowed", "root"),
    [
        ('bridge = "br0"', ("br0",), False),
        ('bridge = "br0"', ("all",), False),
        ('bridge = "br0"', ("br1",), True),
        ('bridge = "br0"\nqueues = 2', ("br0",), True),
        ('bridge = "br0"\ntap = "mine"', ("br0",), True),
        ('bridge = "br7"\nmake_bridge = true', ("all",), True),
    ],
)
def test_a_bridge_for_who_is_not_root(net: str, allowed: tuple[str, ...], root: bool) -> None:
    helper = "/usr/lib/qemu/qemu-bridge-helper"
    facts = state(helper=helper, allowed=allowed, routes=("10.0.0.0/24 br0",))
    user = msgspec.structs.replace(facts, invoker=USER, vhost_usable=False)
    plan = planned(f"[[net]]\n{net}\n", user)
    assert plan.needs_root is root
    assert plan.nics[0].bridge_helper == ("" if root else helper)
    assert bool(plan.nics[0].vhost_fds) is root  # root may open /dev/vhost-net
    by_root = planned(f"[[net]]\n{net}\n", facts)
    assert by_root.nics[0].bridge_helper == ""
