"""What else on the host has a hand in its networks: routes, forwarding, firewalls, NetworkManager.

Services are known by their control group (/sys/fs/cgroup/system.slice/NAME.service exists while
they are active). A firewall's own rules are read from `nft` by root only, and where frames of the
guest could meet them.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from qlaunch.errors import HostError
from qlaunch.facts.links import read_routes
from qlaunch.facts.net_model import NetworkState
from qlaunch.facts.tree import base_of, list_names, read_attribute, read_lines, read_number
from qlaunch.values import ipv4_text

_SERVICES = ("docker", "firewalld", "NetworkManager")
_CGROUPS = ("sys/fs/cgroup", "sys/fs/cgroup/systemd")  # unified; the old hierarchy's
_NM_FILES = ("usr/lib/NetworkManager/conf.d", "run/NetworkManager/conf.d",
             "etc/NetworkManager/conf.d")  # fmt: skip


def read_network(root: Path = Path("/"), *, firewall: bool = False) -> NetworkState:
    """`firewall` asks for chains that drop. They are read for bridged frames too, when br_netfilter
    hands those to a firewall that is at work; starting nft takes 10 ms."""
    base = base_of(root)
    calls = read_number(f"{base}/proc/sys/net/bridge/bridge-nf-call-iptables")
    forwarding = read_number(f"{base}/proc/sys/net/ipv4/ip_forward")
    managers = _managers(base)
    look = not base and (firewall or bool(calls and set(managers) - {"NetworkManager"}))
    return NetworkState(
        routes=tuple(
            f"{ipv4_text(route.network)}/{route.bits} {route.link}"
            for route in read_routes(root) if route.width == 32 and route.bits
        ),
        forwarding=None if forwarding is None else bool(forwarding),
        bridge_calls=None if calls is None else bool(calls),
        managers=managers,
        unmanaged=_unmanaged(base) if "NetworkManager" in managers else (),
        drops=_drops() if look else None,
        helper=(helper := _helper(base)),
        allowed=_allowed(base) if helper else (),
    )


def _managers(base: str) -> tuple[str, ...]:
    found = [
        name for name in _SERVICES
        if any(os.path.isdir(f"{base}/{g}/system.slice/{name}.service") for g in _CGROUPS)  # noqa: PTH112
    ]
    if "docker" not in found and read_attribute(f"{base}/sys/class/net/docker0/ifindex"):
        found.append("docker")
    if any(line.strip() == "ENABLED=yes" for line in read_lines(f"{base}/etc/ufw/ufw.conf")):
        found.append("ufw")
    return tuple(sorted(found))


def _unmanaged(base: str) -> tuple[str, ...]:
    """The device specs of `unmanaged-devices` (NetworkManager.conf(5)), of all its files."""
    files = [f"{base}/etc/NetworkManager/NetworkManager.conf"]
    for folder in _NM_FILES:
        files += [f"{base}/{folder}/{n}" for n in list_names(f"{base}/{folder}")]
    found: list[str] = []
    for file in files:
        for line in read_lines(file) if file.endswith(".conf") else ():
            key, _, value = line.partition("=")
            if key.strip() in ("unmanaged-devices", "unmanaged-devices+"):
                found += [spec.strip() for spec in value.replace(",", ";").split(";")]
    return tuple(spec for spec in found if spec)


def _helper(base: str) -> str:
    """Where distributions keep it; it has root's power by its mode, or by file capabilities."""
    for folder in ("usr/lib/qemu", "usr/libexec"):
        path = f"{base}/{folder}/qemu-bridge-helper"
        with suppress(OSError):
            if os.stat(path).st_mode & stat.S_ISUID:  # noqa: PTH116 - as all of this room
                return path
            if os.getxattr(path, "security.capability"):
                return path
    return ""


def _allowed(base: str) -> tuple[str, ...]:
    """`allow` lines without what is denied, if this account may read them (qemu-bridge-helper.c,
    parse_acl_file; its includes are not followed)."""
    words = [line.split() for line in read_lines(f"{base}/etc/qemu/bridge.conf")]
    pairs = [(w[0], w[1]) for w in words if len(w) == 2]
    denied = {name for verb, name in pairs if verb == "deny"}
    return tuple(name for verb, name in pairs if verb == "allow" and not denied & {name, "all"})


def _drops() -> tuple[str, ...] | None:
    """Base chains of nf_tables (iptables-nft's as well) whose policy is drop; None: cannot tell.

    Each as "HOOK FAMILY TABLE CHAIN".
    """
    if os.geteuid() != 0:
        return None
    import json

    from qlaunch import children

    try:
        done = children.run_child(["nft", "-j", "list", "chains"], timeout=5)
        listed = json.loads(done.out)["nftables"] if done.code == 0 else None
    except (HostError, ValueError, KeyError):
        return None
    chains = [item["chain"] for item in listed or () if "chain" in item]
    return None if listed is None else tuple(
        f"{c['hook']} {c['family']} {c['table']} {c['name']}" for c in chains
        if c.get("policy") == "drop" and c.get("hook") in ("forward", "input")
    )
