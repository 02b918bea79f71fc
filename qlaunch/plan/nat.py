"""A network of the machine's own behind the host: bridge, addresses, firewall table, dnsmasq.

All of it is named after the machine, so that two machines cannot meet, and all of it is undone.
Chains of other firewalls keep their say: an accept in our table does not override their drop
(nft(8), "verdict statements"), so that is told.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from qlaunch.plan.draft import Draft
from qlaunch.plan.model import PlannedNic
from qlaunch.plan.steps import MakeBridge, NftTable, RunDnsmasq, SetForwarding, Step
from qlaunch.plan.uplinks import tell_docker, tell_manager
from qlaunch.profile.network import NatNet
from qlaunch.values import Ipv4Network

FORWARDING = ".forwarding"  # in the directory of all machines
_NARROWEST_ROUTE = 8  # bits: a VPN's 0.0.0.0/1 is a default route, not a network in use


def nat_bridge(machine: str) -> str:
    """The bridge's name: the machine's own on this host, and at most 15 characters."""
    return f"qlnat{zlib.crc32(machine.encode()):08x}"


def nft_table(machine: str) -> str:
    """The table's name, of the letters that nft takes."""
    plain = re.sub(r"[^A-Za-z0-9]", "_", machine)
    return f"qlaunch_{plain}" + ("" if plain == machine else f"_{zlib.crc32(machine.encode()):08x}")


def plan_nat(draft: Draft, nat: NatNet, nic: PlannedNic) -> list[Step]:
    """The steps, in their order."""
    key, machine = f"{nic.why}.nat", draft.profile.name
    bridge = nat_bridge(machine)
    network = _network(draft, nat, bridge, key)
    guest = network.address(2)
    runtime = draft.paths.runtime
    nft = draft.program("nft", key, "nftables (Debian, Fedora, Arch)")
    dnsmasq = draft.program("dnsmasq", key, "dnsmasq-base (Debian), dnsmasq (Fedora, Arch)")
    tell_manager(draft, bridge, key)
    tell_docker(draft, bridge, key)
    _tell_firewalls(draft, bridge, key)
    return [
        MakeBridge(
            name=bridge, address=f"{network.address(1)}/{network.bits}", mtu=nic.mtu, why=key
        ),
        SetForwarding(
            machine=machine, directory=f"{runtime.rpartition('/')[0]}/{FORWARDING}", why=key
        ),
        NftTable(
            table=nft_table(machine), bridge=bridge, network=network, guest=guest,
            forward=nat.forward, program=nft or "nft", why=key,
        ),
        RunDnsmasq(
            bridge=bridge, directory=runtime, network=network, mac=nic.mac, guest=guest,
            dns=nat.dns, domain=nat.domainname or "", mtu=nic.mtu, program=dnsmasq or "dnsmasq",
            why=key,
        ),
    ]


def _network(draft: Draft, nat: NatNet, bridge: str, key: str) -> Ipv4Network:
    """The profile's, or the first of a row that nothing on the host has a route to."""
    state = draft.facts.network
    used = dict(_used(state.routes if state else (), bridge))
    if nat.net is not None:
        for other, link in used.items():
            if nat.net.overlaps(other):
                draft.problem(
                    f"the host reaches {other} by {link} already", f"{key}.net",
                    found=str(nat.net), hint="drop the key: a free network is taken",
                )
        return nat.net
    start = zlib.crc32(draft.profile.name.encode())
    for network in _candidates(start):
        if not any(network.overlaps(other) for other in used):
            return network
    draft.problem("no private network is free on this host", key, hint='nat = { net = "…" }')
    return next(_candidates(start))


def _used(routes: tuple[str, ...], bridge: str) -> Iterator[tuple[Ipv4Network, str]]:
    """What the host has routes to, but for this machine's own bridge when it runs."""
    for route in routes:
        network, _, link = route.partition(" ")
        bits = network.partition("/")[2]
        known = bits.isascii() and bits.isdigit()  # snapshots are edited by hand
        if link != bridge and known and _NARROWEST_ROUTE <= int(bits) <= 32:
            yield Ipv4Network(network), link


def _candidates(start: int) -> Iterator[Ipv4Network]:
    """192.168.N.0/24 from a number of the machine's own on, then some of 10.0.0.0/8.

    Not 0 and 1, which home routers have, and not libvirt's 122.
    """
    for number in range(256):
        third = (start + number) % 256
        if third not in (0, 1, 122):
            yield Ipv4Network(f"192.168.{third}.0/24")
    for number in range(256):
        yield Ipv4Network(f"10.{(start + number) % 256}.{start >> 8 & 255}.0/24")


def _tell_firewalls(draft: Draft, bridge: str, key: str) -> None:
    """What other firewalls would have to be told."""
    state = draft.facts.network
    if state is None:
        return
    dropping = [d.split(" ") for d in state.drops or ()]
    if state.drops is None and "docker" in state.managers:
        dropping = [["forward", "ip", "filter", "FORWARD"]]
    hints: dict[str, str] = {}
    if "firewalld" in state.managers:
        hints["firewalld"] = f"firewall-cmd --zone=trusted --add-interface={bridge}"
    if "ufw" in state.managers:
        hints["ufw"] = f"ufw allow in on {bridge}; ufw route allow in on {bridge}"
    elif "docker" in state.managers and any(d[0] == "forward" for d in dropping):
        hints["docker"] = (
            f"iptables -I DOCKER-USER -i {bridge} -j ACCEPT; "
            f"iptables -I DOCKER-USER -o {bridge} -j ACCEPT"
        )
    elif "firewalld" not in state.managers:
        for hook, family, table, chain in dropping:
            rule = f"nft insert rule {family} {table} {chain}"
            words = f"{rule} iifname {bridge} accept"
            words += f"; {rule} oifname {bridge} accept" if hook == "forward" else ""
            hints[f"the chain {chain} of table {family} {table}"] = words
    for who, hint in hints.items():
        draft.problem(
            f"{who} may drop the guest's packets; a rule of ours cannot override that", key,
            hint=hint, severity="warning",
        )
