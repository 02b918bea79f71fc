"""Rules about network cards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath, key_text, quote
from qlaunch.profile.network import Net, UserNet
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.values import Ipv4Network, ipv4_number

_MAX_PORT = 65535
_ENDS = ("bridge", "tap", "macvtap", "nat", "passt", "user")
_CONNECTIONS = "one of bridge, tap, macvtap, nat, passt or user (bridge with tap names our tap)"
_SLIRP = Ipv4Network("10.0.2.0/24")  # net_slirp_init, QEMU's net/slirp.c


def check_connections(profile: Profile) -> Iterator[Finding]:
    """Each network card is connected to exactly one thing, and what belongs to one is with it."""
    for number, net in enumerate(profile.net):
        ends = _ends(net)
        card: KeyPath = ("net", number)
        if not ends:
            hint = "for a network without privileges: user = {}"
            message = "not connected to anything"
            yield Finding(card, Problem(message, allowed=_CONNECTIONS, hint=hint))
        elif len(ends) > 1 and ends != ["bridge", "tap"]:
            message = "connected to more than one thing"
            problem = Problem(message, found=", ".join(ends), allowed=_CONNECTIONS)
            yield Finding((*card, ends[-1]), problem)
        if net.make_bridge and net.bridge is None:
            problem = Problem("no bridge is named", hint='add bridge = "br0"')
            yield Finding((*card, "make_bridge"), problem, also=((*card, "bridge"),))
        if net.mode is not None and net.macvtap is None:
            problem = Problem("only a macvtap has a mode", hint='add macvtap = "eth0", or drop it')
            yield Finding((*card, "mode"), problem, also=((*card, "macvtap"),))
        if net.mode == "passthru" and net.mac is not None:
            message = "a card on a passthru macvtap has the link's own MAC address"
            yield Finding((*card, "mac"), Problem(message, hint="drop mac"))


def check_one_nat(profile: Profile) -> Iterator[Finding]:
    """A machine has one network of its own behind the host."""
    numbers = [number for number, net in enumerate(profile.net) if net.nat is not None]
    for number in numbers[1:]:
        message = f"net[{numbers[0]}] has nat already; a machine has one such network"
        yield Finding(("net", number, "nat"), Problem(message, hint="use user = {} for this card"))


def check_network_features(profile: Profile) -> Iterator[Finding]:
    """Queues, vhost and sizes are there for what has them only."""
    for number, net in enumerate(profile.net):
        slow = net.user is not None or net.passt is not None
        wants = "a virtio card on a bridge, tap, macvtap or nat"
        asked = {
            "queues": net.queues if net.queues > 1 and (slow or net.model != "virtio") else None,
            "vhost": True if net.vhost and (slow or net.model != "virtio") else None,
            "rx_queue_size": net.rx_queue_size if net.model != "virtio" else None,
            "mtu": net.mtu if net.user is not None else None,
        }
        messages = {
            "queues": f"more than one queue needs {wants}", "vhost": f"vhost needs {wants}",
            "rx_queue_size": "only a virtio card has queues of a chosen size",
            "mtu": "user-mode networking has no MTU to set",
        }
        for key, value in asked.items():
            if value is not None:
                found = f"{key} = {str(value).lower()}, {_kind(net)}"
                problem = Problem(messages[key], found=found, hint="leave the key out")
                also = tuple(("net", number, k) for k in ("model", "user", "passt"))
                yield Finding(("net", number, key), problem, also)


def _ends(net: Net) -> list[str]:
    return [key for key in _ENDS if getattr(net, key) is not None]


def _kind(net: Net) -> str:
    return ", ".join((f'model = "{net.model}"', *(k for k in _ends(net) if k in _ENDS[3:])))


def check_forwards(profile: Profile) -> Iterator[Finding]:
    """Forwarded ports exist, and each of the host's is forwarded once."""
    seen: dict[tuple[str, str], str] = {}
    for number, net in enumerate(profile.net):
        kind, table = next(
            ((k, t) for k in ("nat", "passt", "user") if (t := getattr(net, k))), ("", None)
        )
        for index, text in enumerate(table.forward if table else ()):
            path = ("net", number, kind, "forward", index)
            protocol, *address, host, guest = text.split(":")
            if not all(len(p) < 6 and 0 < int(p) <= _MAX_PORT for p in (host, guest)):
                problem = Problem("a port number from 1 to 65535 is wanted", found=quote(text),
                                  hint='for example "tcp:2222:22"')
                yield Finding(path, problem)
            elif address and ipv4_number(address[0]) < 0:
                yield Finding(path, Problem("expected an IPv4 address", found=quote(text),
                                            hint='for example "tcp:127.0.0.1:2222:22"'))
            first = seen.setdefault((protocol, host), key_text(path))
            if first != key_text(path):
                message = f"{first} forwards the same port of the host"
                yield Finding(path, Problem(message, found=quote(text),
                                            hint="another port of the host's"))


def check_addresses(profile: Profile) -> Iterator[Finding]:
    """Name servers are addresses, and user-mode's own lies in its network."""
    for number, net in enumerate(profile.net):
        for kind in ("nat", "passt"):
            table = getattr(net, kind)
            for index, text in enumerate(table.dns if table else ()):
                if ipv4_number(text) < 0:
                    problem = Problem("expected an IPv4 address", found=quote(text),
                                      hint='for example "192.168.1.1"')
                    yield Finding(("net", number, kind, "dns", index), problem)
        if net.user is not None:
            yield from _check_user(net.user, ("net", number, "user"))


def _check_user(table: UserNet, path: KeyPath) -> Iterator[Finding]:
    network = table.net or _SLIRP
    if table.net is not None and table.net.bits > 27:
        problem = Problem(
            "too small: QEMU gives the guest the fifteenth address", found=quote(table.net),
            allowed="/8 to /27",
        )
        yield Finding((*path, "net"), problem)
    if table.dns is not None:
        offset = ipv4_number(table.dns) - network.first
        if not 0 < offset < network.size - 1 or table.dns == network.address(2):
            problem = Problem(
                "the guest's name server must be in its network, beside the host",
                found=quote(table.dns), allowed=f"in {network}, but not {network.address(2)}",
            )
            yield Finding((*path, "dns"), problem, also=((*path, "net"),))
    if table.bootfile is not None and table.tftp is None:
        problem = Problem("the file is fetched by TFTP", hint='add tftp = "DIRECTORY"')
        yield Finding((*path, "bootfile"), problem, also=((*path, "tftp"),))


NETWORK_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_connections, check_one_nat, check_network_features, check_forwards, check_addresses,
)
