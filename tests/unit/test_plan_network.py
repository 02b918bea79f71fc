"""Network cards: MAC, model, and what is behind them."""

from __future__ import annotations

import msgspec
import pytest

from qlaunch.facts.model import Link
from qlaunch.plan.network import derive_mac
from qlaunch.plan.steps import LoadModule, MakeBridge
from qlaunch.values import parse_mac
from tests.fake.plans import host, planned, said

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
