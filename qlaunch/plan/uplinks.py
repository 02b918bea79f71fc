"""The host's links that a card is connected to, and what else has a hand in them.

What cannot work is a fault; what only other programs can decide (a firewall, NetworkManager) is
told with the command that settles it.
"""

from __future__ import annotations

from qlaunch.facts.model import HostFacts
from qlaunch.facts.net_model import Link
from qlaunch.plan.draft import Draft
from qlaunch.profile.network import Net

_NM_FILE = "/etc/NetworkManager/conf.d/qlaunch.conf"


def check_bridge(draft: Draft, net: Net, key: str) -> bool:
    """Whether the bridge has to be made; one that is missing or no bridge is a fault."""
    where, name = f"{key}.bridge", net.bridge or ""
    tell_docker(draft, name, where)
    if draft.facts.links is None:
        return net.make_bridge
    link = draft.facts.link(name)
    if link is None:
        if net.make_bridge:
            tell_manager(draft, name, where)
            return True
        bridges = [x.name for x in draft.facts.links if x.kind == "bridge"]
        draft.problem(
            "this host has no such bridge", where, found=name,
            allowed=", ".join(bridges) or "none exists",
            hint="make_bridge = true makes it for the run; or use nat = {} or user = {}",
        )
    elif link.kind == "wireless":
        draft.problem(
            f"{name} is a wireless link, not a bridge, and cannot be a port of one", where,
            hint="nat = {} gives the guest a network behind it; user = {} does without root",
        )
    elif link.kind != "bridge":
        draft.problem(
            f"{name} is a {link.kind} link, not a bridge", where,
            hint=f'macvtap = "{name}" shares it; or make it the port of a bridge',
        )
    else:
        _tell_bridge(draft, net, link, where)
    return False


def bridge_helper(draft: Draft, net: Net) -> str:
    """QEMU's helper, where it serves an ordinary user on this bridge; "" where root does."""
    invoker, state = draft.facts.invoker, draft.facts.network
    link = draft.facts.link(net.bridge or "")
    if invoker is None or invoker.root or state is None or link is None or link.kind != "bridge":
        return ""
    served = bool({link.name, "all"} & set(state.allowed))
    plain = net.queues == 1 and net.tap is None  # it makes one queue, and names the tap itself
    return state.helper if served and plain else ""


def _tell_bridge(draft: Draft, net: Net, link: Link, where: str) -> None:
    """A bridge that is there, and leads nowhere or late."""
    name, facts = link.name, draft.facts
    ports = [x.name for x in facts.links or () if x.master == name]
    routed = facts.network is None or link.default_route or any(
        r.endswith(f" {name}") for r in facts.network.routes
    )
    if not ports and not routed:
        draft.problem(
            "the bridge has no port and no address: the guest will be alone on it", where,
            hint=_way_out(facts, name), severity="warning",
        )
    if link.delay:
        draft.problem(
            f"a card on this bridge is deaf for its first {link.delay:g} s (spanning tree)",
            where, hint=f"ip link set {name} type bridge forward_delay 2; or stp_state 0",
            severity="note",
        )
    if net.mtu and link.mtu and net.mtu > link.mtu:
        draft.problem(
            "the bridge drops packets of this size", f"{key_of(where)}.mtu",
            found=f"mtu = {net.mtu}", allowed=f"up to {link.mtu} on {name}",
            hint=f"ip link set {name} mtu {net.mtu}, and its ports", severity="warning",
        )


def _way_out(facts: HostFacts, bridge: str) -> str:
    """What to do for a bridge to lead somewhere."""
    links = facts.links or ()
    if any(x.kind == "wireless" and x.default_route for x in links):
        return "a wireless card cannot be its port; nat = {} goes by it"
    wired = [x.name for x in links if x.kind == "physical" and x.master is None]
    return f"ip link set {wired[0] if wired else 'eth0'} master {bridge}; or use nat = {{}}"


def check_tap(draft: Draft, net: Net, key: str) -> None:
    """A tap that somebody has made for the guest."""
    if draft.facts.links is None:
        return
    link = draft.facts.link(net.tap or "")
    if link is None:
        draft.problem(
            "this host has no such tap", f"{key}.tap", found=str(net.tap),
            hint=f"ip tuntap add {net.tap} mode tap user $USER; or name a bridge instead",
        )
    elif link.kind != "tap":
        draft.problem(
            f"{link.name} is a {link.kind} link, not a tap", f"{key}.tap",
            hint="name a tap, or with bridge = … one that is made for the run",
        )


def check_macvtap(draft: Draft, net: Net, key: str) -> None:
    """The link that a macvtap is to stand on (drivers/net/macvlan.c macvlan_port_create)."""
    where, name = f"{key}.macvtap", net.macvtap or ""
    links = draft.facts.links
    if links is None:
        return
    link = draft.facts.link(name)
    if link is None:
        fitting = [x.name for x in links if x.kind in ("physical", "bridge")]
        draft.problem(
            "this host has no such link", where, found=name,
            allowed=", ".join(fitting) or "none fits", hint="ip link",
        )
    elif link.kind == "wireless":
        draft.problem(
            f"{name} is wireless: its access point takes packets from one MAC address only",
            where, hint="nat = {} gives the guest a network behind it; user = {} does without root",
        )
    elif link.master is not None:
        draft.problem(
            f"{name} is a port of {link.master} already", where,
            hint=f'bridge = "{link.master}"',
        )
    elif net.mode == "passthru" and link.default_route:
        draft.problem(
            f"{name} is the host's way out, which passthru would take from it", f"{key}.mode",
            hint='mode = "bridge" shares it',
        )
    elif not link.up:
        draft.problem(
            f"{name} is down: the guest will hear nothing", where,
            hint=f"ip link set {name} up", severity="warning",
        )
    if link is not None and net.mtu and link.mtu and net.mtu > link.mtu:
        draft.problem(
            f"larger than {name} carries", f"{key}.mtu", found=f"mtu = {net.mtu}",
            allowed=f"up to {link.mtu}", hint=f"ip link set {name} mtu {net.mtu}",
        )


def tell_docker(draft: Draft, bridge: str, where: str) -> None:
    """br_netfilter shows bridged frames to a FORWARD chain that drops what docker does not know."""
    state = draft.facts.network
    if state is None or not state.bridge_calls:
        return
    blamed = [d for d in state.drops or () if d.startswith("forward ")]
    if state.drops is None and "docker" in state.managers:
        blamed = ["docker's FORWARD chain"]
    if blamed:
        rule = f"iptables -I DOCKER-USER -i {bridge} -o {bridge} -j ACCEPT"
        draft.problem(
            "packets that only pass the bridge may be dropped by the firewall (br_netfilter)",
            where, found=", ".join(blamed),
            hint=(f"{rule}; or " if "docker" in state.managers else "")
            + "sysctl net.bridge.bridge-nf-call-iptables=0",
            severity="warning",
        )


def tell_manager(draft: Draft, link: str, where: str) -> None:
    """NetworkManager, which may configure a link that is made for the run."""
    from fnmatch import fnmatchcase

    state = draft.facts.network
    if state is None or "NetworkManager" not in state.managers:
        return
    names = [s.removeprefix("interface-name:").lstrip("=") for s in state.unmanaged]
    if "type:bridge" in state.unmanaged or any(fnmatchcase(link, name) for name in names):
        return
    glob = "qlnat*" if link.startswith("qlnat") else link
    draft.problem(
        f"NetworkManager may take {link} for its own", where,
        hint=f"to keep it out: [keyfile] unmanaged-devices=interface-name:{glob} in {_NM_FILE}",
        severity="note",
    )


def key_of(where: str) -> str:
    """`net[0].bridge` → `net[0]`."""
    return where.rpartition(".")[0]
