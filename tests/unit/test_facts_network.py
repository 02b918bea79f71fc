"""What else has a hand in the host's networks, from a recorded tree and from a real nft."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from qlaunch import children
from qlaunch.children import Done
from qlaunch.errors import HostError
from qlaunch.facts.links import read_links
from qlaunch.facts.net_model import NetworkState
from qlaunch.facts.network import read_network
from qlaunch.plan.wanted import facts_wanted
from tests.fake.plans import profile
from tests.fake.trees import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_an_empty_host(tree: Tree) -> None:
    assert read_network(tree.root, firewall=True) == NetworkState()


def test_routes_and_switches(tree: Tree) -> None:
    tree.route("eth0")
    tree.route("eth0", "0005A8C0", "00FFFFFF")
    tree.write("proc/sys/net/ipv4/ip_forward", "1\n")
    tree.write("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n")
    state = read_network(tree.root)
    assert state.routes == ("192.168.5.0/24 eth0",)
    assert (state.forwarding, state.bridge_calls, state.drops) == (True, False, None)


def test_who_is_at_work(tree: Tree) -> None:
    tree.directory("sys/fs/cgroup/system.slice/NetworkManager.service")
    tree.directory("sys/fs/cgroup/systemd/system.slice/firewalld.service")
    tree.write("sys/class/net/docker0/ifindex", "7\n")
    tree.write("etc/ufw/ufw.conf", "# Set to yes\nENABLED=yes\nLOGLEVEL=low\n")
    managers = ("NetworkManager", "docker", "firewalld", "ufw")
    assert read_network(tree.root).managers == managers
    tree.write("etc/ufw/ufw.conf", "ENABLED=no\n#ENABLED=yes\n")
    assert read_network(tree.root).managers == managers[:3]


def test_what_networkmanager_leaves_alone(tree: Tree) -> None:
    tree.directory("sys/fs/cgroup/system.slice/NetworkManager.service")
    tree.write("etc/NetworkManager/NetworkManager.conf",
               "[keyfile]\nunmanaged-devices=mac:00:11;interface-name:br*\n")  # fmt: skip
    tree.write("etc/NetworkManager/conf.d/a.conf", "[keyfile]\nunmanaged-devices+=type:bridge\n")
    tree.write("usr/lib/NetworkManager/conf.d/b.conf", "#unmanaged-devices=x\nunmanaged-devices=\n")
    tree.write("run/NetworkManager/conf.d/c.conf.bak", "unmanaged-devices=y\n")
    assert read_network(tree.root).unmanaged == (
        "mac:00:11", "interface-name:br*", "type:bridge"
    )


def test_a_spanning_tree_is_slow(tree: Tree) -> None:
    tree.link_up("br0", 3)
    tree.write("sys/class/net/br0/bridge/forward_delay", "1500\n")
    tree.write("sys/class/net/br0/mtu", "9000\n")
    for stp, delay in (("0", 0.0), ("1", 30.0)):
        tree.write("sys/class/net/br0/bridge/stp_state", f"{stp}\n")
        (link,) = read_links(tree.root)
        assert (link.delay, link.mtu) == (delay, 9000)


def chain(name: str, **more: object) -> dict[str, object]:
    return {"chain": {"family": "ip", "table": "filter", "name": name, **more}}


LISTED = json.dumps({"nftables": [
    {"metainfo": {"version": "1.0.6"}}, chain("DOCKER"),
    chain("FORWARD", type="filter", hook="forward", policy="drop"),
    chain("INPUT", type="filter", hook="input", policy="accept"),
    chain("OUTPUT", type="filter", hook="output", policy="drop"),
]})  # fmt: skip


@pytest.mark.parametrize(
    ("done", "drops"),
    [
        (Done(0, LISTED, ""), ("forward ip filter FORWARD",)),
        (Done(0, '{"nftables": []}', ""), ()),
        (Done(1, "", "Operation not permitted"), None),
        (Done(0, "no JSON", ""), None),
        (HostError("nft is not installed"), None),
    ],
)
def test_chains_that_drop(
    monkeypatch: pytest.MonkeyPatch, done: Done | HostError, drops: tuple[str, ...] | None
) -> None:
    def run_child(argv: Sequence[str], **_: object) -> Done:
        assert argv[0] == "nft"
        if isinstance(done, HostError):
            raise done
        return done

    monkeypatch.setattr(children, "run_child", run_child)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert read_network(firewall=True).drops == drops
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert read_network(firewall=True).drops is None


@pytest.mark.parametrize(
    ("net", "links", "network", "firewall", "programs"),
    [
        ("user = {}", False, False, False, ()),
        ("passt = {}", False, False, False, ("passt",)),
        ('tap = "t"', True, False, False, ()),
        ('macvtap = "e"', True, False, False, ()),
        ('bridge = "b"', True, True, False, ()),
        ("nat = {}", True, True, True, ("nft", "dnsmasq")),
    ],
)
def test_only_what_a_card_needs_is_looked_at(
    net: str, links: bool, network: bool, firewall: bool, programs: tuple[str, ...]
) -> None:
    wanted = facts_wanted(profile(f"[[net]]\n{net}\n"), holders=False)
    assert (wanted.links, wanted.network, wanted.firewall) == (links, network, firewall)
    assert set(programs) <= set(wanted.programs)
