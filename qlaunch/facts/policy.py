"""Routes that are not in the main table: policy routing, VRFs.

/proc/net/route has the main table only (net/ipv4/fib_trie.c fib_route_seq_start), and
/proc/net/ipv6_route all of them without saying which rule leads where. So where there are other
tables (links.py has_policy) `ip` is asked; most hosts have none, and it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from qlaunch.children import run_child
from qlaunch.errors import HostError
from qlaunch.facts.links import Route

_PATIENCE = 5.0


def read_all_tables() -> tuple[Route, ...]:
    """The IPv4 routes of every table; none when `ip` cannot tell."""
    said = _ask(["-4", "route", "show", "table", "all"])
    return tuple(route for one in said for route in _route(one))


def link_back(client: str, server: str) -> str | None:
    """The link by which `server`, one of our addresses, answers `client`: the kernel's own word,
    by all its rules. None when it has none."""
    plain, _, scope = client.partition("%")
    if scope:
        return scope
    words = ["route", "get", _plain(plain)]
    said = _ask([*words, "from", _plain(server)] if server else words) or _ask(words)
    return next((str(one["dev"]) for one in said if "dev" in one), None)


def _plain(address: str) -> str:
    """IPv4 that is written as IPv6 as IPv4."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return "::"  # which leads nowhere
    return str(getattr(found, "ipv4_mapped", None) or found)


def _route(one: dict[str, Any]) -> Iterator[Route]:
    """Local and broadcast routes lead to ourselves."""
    link, text = one.get("dev"), str(one.get("dst", ""))
    if not link or one.get("table") == "local" or one.get("type", "unicast") != "unicast":
        return
    try:
        network = ip_network("0.0.0.0/0" if text == "default" else text)
    except ValueError:
        return
    yield Route(int(network.network_address), network.prefixlen, str(link), 32)


def _ask(words: Sequence[str]) -> list[dict[str, Any]]:
    try:
        done = run_child(["ip", "-j", *words], timeout=_PATIENCE)
        said = msgspec.json.decode(done.out or "[]")
    except (HostError, msgspec.DecodeError):
        return []
    return [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
