"""The host's network links, and what else has a hand in them.

Part of HostFacts (facts/model.py), and like it frozen data that goes to JSON and back.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from qlaunch.values import PciAddress


class Link(Struct, frozen=True, kw_only=True):
    """A network link (/sys/class/net)."""

    name: str
    index: int = 0
    kind: Literal["bridge", "tap", "wireless", "physical", "virtual"] = "virtual"
    master: str | None = None
    up: bool = False
    mac: str = ""
    pci: PciAddress | None = None
    default_route: bool = False
    owner: int | None = None  # a persistent tap's uid
    mtu: int | None = None
    delay: float = 0.0  # of a bridge with STP: seconds until a new port forwards


class NetworkState(Struct, frozen=True, kw_only=True):
    """What else has a hand in the host's networks."""

    routes: tuple[str, ...] = ()  # IPv4, without the default ones: "192.168.1.0/24 wlan0"
    forwarding: bool | None = None  # net.ipv4.ip_forward
    bridge_calls: bool | None = None  # iptables sees bridged frames; None: no br_netfilter
    managers: tuple[str, ...] = ()  # active, of docker, firewalld, ufw and NetworkManager
    unmanaged: tuple[str, ...] = ()  # NetworkManager's unmanaged-devices
    helper: str = ""  # qemu-bridge-helper, where it has root's power
    allowed: tuple[str, ...] = ()  # bridges that it serves ("all"), by /etc/qemu/bridge.conf
    drops: tuple[str, ...] | None = None  # chains of policy drop: "forward ip filter FORWARD"
