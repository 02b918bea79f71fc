"""Network links and routes, from /sys/class/net and /proc/net (no netlink: that costs 125 ms).

`IFF_*` bits are those of include/uapi/linux/if.h and if_tun.h.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from qlaunch.facts.net_model import Link
from qlaunch.facts.tree import (
    base_of,
    link_name,
    link_target,
    list_names,
    read_attribute,
    read_lines,
    read_number,
    real_path,
)
from qlaunch.values import PciAddress, parse_pci_address

Kind = Literal["bridge", "tap", "wireless", "physical", "virtual"]
IFF_UP = 0x1
_IFF_TAP = 0x2  # of tun_flags; IFF_TUN is 1
_DATAPATH = "ovs-system"  # of all Open vSwitches of the kernel's kind (lib/dpif-netlink.c)
_RTF_UP, _RTF_REJECT = 0x1, 0x200


class Route(NamedTuple):
    """One line of the routing table: `bits` leading bits of `network` lead over `link`."""

    network: int
    bits: int
    link: str
    width: Literal[32, 128]


def read_links(root: Path = Path("/")) -> tuple[Link, ...]:
    """Every link of this network namespace, by name."""
    base = base_of(root)
    default = {route.link for route in read_routes(root) if route.bits == 0}
    found = (_read_link(f"{base}/sys/class/net/{n}", n, default)
             for n in list_names(f"{base}/sys/class/net"))
    return tuple(link for link in found if link is not None)


def read_routes(root: Path = Path("/")) -> tuple[Route, ...]:
    """The main tables of IPv4 and IPv6 without unreachable routes and the loopback's own."""
    base = base_of(root)
    found: list[Route] = []
    for name, parse in (("route", _parse_ipv4), ("ipv6_route", _parse_ipv6)):
        for line in read_lines(f"{base}/proc/net/{name}"):
            with contextlib.suppress(ValueError):  # a head line, or one cut off
                found.extend(parse(line.split()))
    return tuple(route for route in found if route.bits <= route.width)


def _parse_ipv4(words: list[str]) -> Iterator[Route]:
    if len(words) >= 8 and int(words[3], 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP:
        # the kernel prints the address as it lies in memory (fib_trie.c, fib_route_seq_show)
        network, mask = (int.from_bytes(bytes.fromhex(words[i]), "little") for i in (1, 7))
        yield Route(network, bin(mask).count("1"), words[0], 32)


def _parse_ipv6(words: list[str]) -> Iterator[Route]:
    if len(words) == 10 and words[9] != "lo" and not int(words[8], 16) & _RTF_REJECT:
        yield Route(int(words[0], 16), int(words[1], 16), words[9], 128)


def route_to(routes: tuple[Route, ...], address: str) -> str | None:
    """The link that packets to a numeric address leave by (longest prefix); None without one."""
    import socket

    width: Literal[32, 128] = 128 if ":" in address else 32
    family = socket.AF_INET6 if width == 128 else socket.AF_INET
    try:
        number = int.from_bytes(socket.inet_pton(family, address.partition("%")[0]), "big")
    except OSError:
        return None
    fitting = [
        route for route in routes
        if route.width == width and (number ^ route.network) >> (width - route.bits) == 0
    ]
    return max(fitting, key=lambda route: route.bits).link if fitting else None


def link_to(routes: tuple[Route, ...], address: str) -> str | None:
    """`route_to` of an address as sshd says it: a link-local one names its link after a "%", and
    IPv4 may be written as IPv6."""
    address, _, scope = address.partition("%")
    plain = address.lower().removeprefix("::ffff:")
    return scope or route_to(routes, plain if "." in plain else address)


def has_policy(routes: Iterable[Route], base: str) -> bool:
    """Whether more than the main table counts: IPv4 has one beside main and local ("Id 100:" in
    fib_trie), or two links lead anywhere by IPv6."""
    if any(line.startswith("Id ") for line in read_lines(f"{base}/proc/net/fib_trie")):
        return True
    return len({r.link for r in routes if r.width == 128 and r.bits == 0}) > 1


def links_over(root: Path, name: str) -> tuple[str, ...]:
    """The link and all that stand on it: its bridge or bond, VLANs, macvlans (`upper_*` links);
    of an Open vSwitch all links that may be its own."""
    base = f"{base_of(root)}/sys/class/net"
    found: list[str] = []
    left = [name]
    while left:
        current = left.pop()
        if current not in found:
            found.append(current)
            entries = list_names(f"{base}/{current}")
            left.extend(e.removeprefix("upper_") for e in entries if e.startswith("upper_"))
            if (master := link_name(f"{base}/{current}/master")) is not None:
                left.append(master)
            if current == _DATAPATH:
                left.extend(n for n in list_names(base) if _may_be_internal(base, n))
    return tuple(found)


def has_moved_link(root: Path, address: PciAddress) -> bool:
    """Whether a PCI function has a link that this network namespace does not.

    sysfs shows of a class's devices only those of the reader's namespace
    (net_ns_type_operations), but the directory `net` that they are in to everybody, and that is
    there only as long as one is in it (get_device_parent and cleanup_glue_dir in
    drivers/base/core.c). A link hangs on the function, or on a virtio or auxiliary device of it.
    """
    path = f"{base_of(root)}/sys/bus/pci/devices/{address}"
    below = (n for n in list_names(path) if n.startswith("virtio") or "." in n)
    folders = [f"{path}/net", *(f"{path}/{name}/net" for name in below)]
    return any(Path(folder).is_dir() and not list_names(folder) for folder in folders)


def _may_be_internal(base: str, name: str) -> bool:
    """Whether a link may be a switch's internal port, where its addresses and routes are. The
    kernel ties only the other ports to the datapath (net/openvswitch/vport-netdev.c
    ovs_netdev_link), and sysfs has no mark for internal ones: so all virtual Ethernet links that
    are nothing else.
    """
    path = f"{base}/{name}"
    if "/devices/virtual/" not in (link_target(path) or "") or name == "lo":
        return False
    entries = list_names(path)
    known = any(e in ("bridge", "bonding", "tun_flags") or e[:6] == "lower_" for e in entries)
    ethernet = read_number(f"{path}/type") in (None, 1)  # ARPHRD_ETHER
    alone = read_number(f"{path}/iflink") in (None, read_number(f"{path}/ifindex"))  # no veth
    return ethernet and alone and not known


def _read_link(path: str, name: str, default: set[str]) -> Link | None:
    index = read_number(f"{path}/ifindex")
    if index is None:  # gone, or a file such as bonding_masters
        return None
    has = frozenset(list_names(path))
    owner = read_number(f"{path}/owner") if "owner" in has else None
    return Link(
        name=name,
        index=index,
        kind=_kind(path, has),
        master=link_name(f"{path}/master") if "master" in has else None,
        up=bool((read_number(f"{path}/flags", base=0) or 0) & IFF_UP),
        mac=read_attribute(f"{path}/address") or "",
        pci=_pci_of(path) if "device" in has else None,
        default_route=name in default,
        owner=owner if owner is not None and owner >= 0 else None,
        mtu=read_number(f"{path}/mtu"),
        delay=_delay(path) if "bridge" in has else 0.0,
    )


def _delay(path: str) -> float:
    """Listening and learning, twice the forward delay in 1/100 s; none without STP
    (net/bridge/br_stp.c br_make_forwarding)."""
    if not read_number(f"{path}/bridge/stp_state"):
        return 0.0
    return 2 * (read_number(f"{path}/bridge/forward_delay") or 0) / 100


def _kind(path: str, has: frozenset[str]) -> Kind:
    if "bridge" in has:
        return "bridge"
    if "tun_flags" in has:
        flags = read_number(f"{path}/tun_flags", base=0) or 0
        return "tap" if flags & _IFF_TAP else "virtual"
    if "wireless" in has or "phy80211" in has:
        return "wireless"
    return "physical" if "device" in has else "virtual"


def _pci_of(path: str) -> PciAddress | None:
    """The nearest PCI function above the link's device (virtio and USB devices lie between)."""
    for part in reversed(real_path(f"{path}/device").split("/")):
        if part.count(":") == 2 and "." in part:
            try:
                return parse_pci_address(part)
            except ValueError:
                continue
    return None
