"""Network cards: model, MAC, and what is behind them."""

from __future__ import annotations

import zlib
from typing import Literal

from qlaunch.plan.draft import Draft
from qlaunch.plan.model import Place, PlannedNic
from qlaunch.plan.steps import LoadModule, MakeBridge, Step
from qlaunch.profile.devices import Net
from qlaunch.values import MacAddress

MODELS = {
    "virtio": "virtio-net-pci", "e1000e": "e1000e", "e1000": "e1000", "rtl8139": "rtl8139",
}


def derive_mac(uuid: str, index: int) -> MacAddress:
    """QEMU's 52:54:00 and a checksum of uuid and index: stable, and the same on every host."""
    tail = zlib.crc32(f"{uuid.lower()}/{index}".encode()) & 0xFFFFFF
    return MacAddress(f"52:54:00:{tail >> 16:02x}:{tail >> 8 & 255:02x}:{tail & 255:02x}")


def plan_network(draft: Draft, uuid: str) -> tuple[tuple[PlannedNic, ...], list[Step]]:
    """The cards, and the bridges to be made for them."""
    steps: dict[str, Step] = {}
    nics = []
    for index, net in enumerate(draft.profile.net):
        key = f"net[{index}]"
        nics.append(_nic(draft, net, index, key, uuid))
        if net.bridge and _check_bridge(draft, net, key):
            steps.setdefault(net.bridge, MakeBridge(name=net.bridge, why=f"{key}.make_bridge"))
        elif net.tap and not net.bridge:
            _check_tap(draft, net, key)
    bridges = list(steps.values())
    if draft.facts.tun is False and any(n.kind == "tap" for n in nics):
        bridges.insert(0, LoadModule(module="tun", why="rule: taps need /dev/net/tun"))
    return tuple(nics), bridges


def _nic(draft: Draft, net: Net, index: int, key: str, uuid: str) -> PlannedNic:
    kind: Literal["user", "tap"] = "tap" if net.bridge or net.tap else "user"
    tap_fds: tuple[int, ...] = ()
    vhost_fds: tuple[int, ...] = ()
    if kind == "tap":
        tap_fds = tuple(draft.fd("tap", key) for _ in range(net.queues))
        if _use_vhost(draft, net, key):
            vhost_fds = tuple(draft.fd("vhost", key) for _ in range(net.queues))
    return PlannedNic(
        index=index, model=MODELS[net.model], kind=kind,
        mac=net.mac or derive_mac(uuid, index),
        mac_why=f"{key}.mac" if net.mac else "rule: the MAC is derived from the uuid",
        ifname=net.tap, bridge=net.bridge, queues=net.queues, tap_fds=tap_fds, vhost_fds=vhost_fds,
        place=Place(draft.bus, draft.slots.take("net", index, key, net.addr)), why=key,
    )


def _use_vhost(draft: Draft, net: Net, key: str) -> bool:
    """The launcher opens it. What needs root anyway is started by root, whoever looks now."""
    there = bool(draft.facts.vhost_net)
    profile = draft.profile
    by_root = bool(profile.pci) or any(n.bridge for n in profile.net)
    denied = there and draft.facts.vhost_usable is False and not by_root
    if net.vhost and draft.facts.vhost_net is False:
        draft.problem(
            "this kernel has no vhost-net", f"{key}.vhost", found="no /dev/vhost-net",
            hint="modprobe vhost_net",
        )
    elif net.vhost and denied:
        draft.problem(
            "/dev/vhost-net may not be opened by you", f"{key}.vhost",
            hint="start it as root; or drop the key: the card works without, a little slower",
        )
    wanted = there and not denied if net.vhost is None else net.vhost
    return wanted and net.model == "virtio"


def _check_bridge(draft: Draft, net: Net, key: str) -> bool:
    """Whether the bridge has to be made; one that is missing or no bridge is a fault."""
    if draft.facts.links is None:
        return net.make_bridge
    link = draft.facts.link(net.bridge or "")
    if link is None:
        if not net.make_bridge:
            bridges = [x.name for x in draft.facts.links if x.kind == "bridge"]
            draft.problem(
                "this host has no such bridge", f"{key}.bridge", found=str(net.bridge),
                allowed=", ".join(bridges) or "none exists",
                hint="make_bridge = true makes it for the run; or use user = {}",
            )
        return net.make_bridge
    if link.kind != "bridge":
        draft.problem(
            f"{link.name} is a {link.kind} link, not a bridge", f"{key}.bridge",
            hint="a bridge with that link as its port is what the guest can join",
        )
    return False


def _check_tap(draft: Draft, net: Net, key: str) -> None:
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
