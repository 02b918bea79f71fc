"""Bridges, taps and the firewalls that swallow guests' frames."""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.advise.finding import Evidence, Finding, Host, unexamined
from qlaunch.facts.net_model import NetworkState

_CALLS = "/proc/sys/net/bridge/bridge-nf-call-iptables"


def devices(host: Host) -> Iterator[Finding]:
    """/dev/net/tun for every bridge, /dev/vhost-net for its speed."""
    facts = host.facts
    if facts.tun is False:
        yield Finding(
            subject="network", level="warning", message="there is no /dev/net/tun",
            evidence=(Evidence("/dev/net/tun", "missing"),),
            reason="bridges and nat are reached through it", fix=("sudo modprobe tun",),
        )
    if facts.vhost_net is False and host.health.modules.get("vhost_net") != "loadable":
        yield Finding(
            subject="network", level="note", message="there is no /dev/vhost-net",
            evidence=(Evidence("/dev/vhost-net", "missing"),),
            reason="virtio network cards are slower without", fix=("sudo modprobe vhost_net",),
        )


def bridges(host: Host) -> Iterator[Finding]:
    """Which there are, and whether a link leads out of each."""
    links = host.facts.links
    if links is None:
        yield unexamined("bridge", "which links there are")
        return
    names = [link.name for link in links if link.kind == "bridge" and link.name != "docker0"]
    members = {name: [x.name for x in links if x.master == name] for name in names}
    evidence = tuple(
        Evidence(f"/sys/class/net/{name}/brif", ", ".join(members[name]) or "empty")
        for name in names
    )
    if names:
        yield Finding(subject="bridge", level="ok", evidence=evidence,
                      message=", ".join(_bridge(name, members[name]) for name in names))
    else:
        yield Finding(
            subject="bridge", level="ok", message="none; nat = {} and user = {} need none",
            evidence=(Evidence("/sys/class/net", ", ".join(x.name for x in links)),),
        )


def _bridge(name: str, members: list[str]) -> str:
    return f"{name} with {', '.join(members)}" if members else f"{name} without a link of its own"


def firewall(host: Host) -> Iterator[Finding]:
    """Docker switches on br_netfilter and drops what it does not know: guests' frames too."""
    state = host.facts.network
    if state is None:
        yield unexamined("firewall", "what filters")
        return
    managers = [name for name in state.managers if name != "NetworkManager"]
    calls = Evidence(_CALLS, {True: "1", False: "0", None: "missing"}[state.bridge_calls])
    evidence = (calls, *(Evidence("nft list chains", f"policy drop: {d}")
                         for d in state.drops or () if d.startswith("forward")))
    own = [x.name for x in host.facts.links or () if x.kind == "bridge" and x.name != "docker0"]
    bridge = own[0] if len(own) == 1 else "BRIDGE"
    forward = any(d.startswith("forward") for d in state.drops or ())
    who = " and ".join(managers)
    if state.bridge_calls and (forward or (managers and state.drops is None)):
        yield Finding(
            subject="firewall", level="warning", evidence=evidence,
            message=f"{who or 'a firewall'} filters what guests send over bridges, "
            + ("and drops it" if forward else "and may drop it"),
            reason="br_netfilter hands bridged frames to iptables, whose FORWARD drops what it "
            "does not know",
            fix=_let_through(state, bridge),
        )
    elif forward:
        yield Finding(
            subject="firewall", level="warning", evidence=evidence,
            message=f"{who or 'a firewall'} drops what it is to forward: nat may not get out",
            reason="a drop is final, whatever other tables say", fix=_let_through(state, bridge),
        )
    elif state.drops is None and managers and not host.root:
        yield unexamined("firewall", f"whether {who} drops guests' frames",
                         fix="sudo qlaunch doctor")
    else:
        yield Finding(subject="firewall", level="ok", evidence=evidence,
                      message="nothing in the way" if not managers
                      else f"{who} at work, guests' frames pass")


def _let_through(state: NetworkState, bridge: str) -> tuple[str, ...]:
    """Per firewall the rule that lets a bridge's frames pass."""
    if "docker" in state.managers:
        return (
            f"sudo iptables -I DOCKER-USER -i {bridge} -j ACCEPT",
            f"sudo iptables -I DOCKER-USER -o {bridge} -j ACCEPT",
            "or, for bridges only: echo net.bridge.bridge-nf-call-iptables=0 | sudo tee "
            "/etc/sysctl.d/90-qlaunch.conf; sudo sysctl --system",
        )
    if "ufw" in state.managers:
        return (f"sudo ufw route allow in on {bridge}", f"sudo ufw route allow out on {bridge}")
    if "firewalld" in state.managers:
        return (f"sudo firewall-cmd --permanent --zone=trusted --add-interface={bridge}",
                "sudo firewall-cmd --reload")
    return (f"let the forward chain accept {bridge}, in and out",)
