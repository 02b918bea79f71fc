"""Network cards: model, MAC, and what is behind them."""

from __future__ import annotations

import zlib
from typing import Any

from qlaunch.plan.draft import Draft
from qlaunch.plan.model import Place, PlannedHelper, PlannedNic
from qlaunch.plan.steps import LoadModule, MakeBridge, MakeMacvtap, Step
from qlaunch.plan.uplinks import bridge_helper, check_bridge, check_macvtap, check_tap
from qlaunch.profile.network import Net
from qlaunch.values import MacAddress

MODELS = {
    "virtio": "virtio-net-pci", "e1000e": "e1000e", "e1000": "e1000",
    "rtl8139": "rtl8139", "vmxnet3": "vmxnet3",
}
_PASST = "passt (Debian, Fedora, Arch)"
_STREAM = (7, 2, 0)  # the first QEMU with -netdev stream


def derive_mac(uuid: str, index: int) -> MacAddress:
    """QEMU's 52:54:00 and a checksum of uuid and index: stable, and the same on every host."""
    tail = zlib.crc32(f"{uuid.lower()}/{index}".encode()) & 0xFFFFFF
    return MacAddress(f"52:54:00:{tail >> 16:02x}:{tail >> 8 & 255:02x}:{tail & 255:02x}")


def macvtap_name(machine: str, index: int) -> str:
    """The name of a card's macvtap: its own on this host, and at most 15 characters."""
    return f"qlmv{zlib.crc32(machine.encode()):08x}{index}"


def plan_network(draft: Draft) -> None:
    """The cards, and the links to be made for them."""
    steps: dict[str, Step] = {}
    nics = []
    for index, net in enumerate(draft.profile.net):
        nic = _nic(draft, net, index, f"net[{index}]")
        nics.append(nic)
        draft.need(nic.model, f"{nic.why}.model")
        for step in _steps(draft, net, nic):
            steps.setdefault(str(step), step)
    made = list(steps.values())
    if draft.facts.tun is False and any(n.kind == "tap" for n in nics):
        made.insert(0, LoadModule(module="tun", why="rule: taps need /dev/net/tun"))
    draft.steps += made
    draft.decided["nics"] = tuple(nics)


def _nic(draft: Draft, net: Net, index: int, key: str) -> PlannedNic:
    more: dict[str, Any] = {"kind": "user", "ifname": net.tap, "bridge": net.bridge}
    if net.bridge or net.tap:
        more |= {"kind": "tap", "bridge_helper": bridge_helper(draft, net)}
    elif net.nat is not None:
        from qlaunch.plan.nat import nat_bridge

        more |= {"kind": "tap", "bridge": nat_bridge(draft.profile.name)}
    elif net.macvtap:
        more |= {"kind": "macvtap", "ifname": macvtap_name(draft.profile.name, index)}
    elif net.passt is not None:
        more |= {"kind": "stream", "stream_fd": _passt(draft, net, index, key)}
    if more["kind"] in ("tap", "macvtap"):
        more["tap_fds"] = tuple(draft.fd("tap", key) for _ in range(net.queues))
        if _use_vhost(draft, net, key):
            more["vhost_fds"] = tuple(draft.fd("vhost", key) for _ in range(net.queues))
    mac, mac_why = _mac(draft, net, index, key)
    return PlannedNic(
        index=index, model=MODELS[net.model], mac=mac, mac_why=mac_why, queues=net.queues,
        mtu=net.mtu, why=key,
        place=Place(draft.bus, draft.slots.take("net", index, key, net.addr)), **more,
    )


def _mac(draft: Draft, net: Net, index: int, key: str) -> tuple[MacAddress, str]:
    if net.mac:
        return net.mac, f"{key}.mac"
    parent = draft.facts.link(net.macvtap or "")
    if net.mode == "passthru" and parent is not None and parent.mac:
        return MacAddress(parent.mac), f"rule: a passthru macvtap has the MAC of {parent.name}"
    return derive_mac(draft.uuid, index), "rule: the MAC is derived from the uuid"


def _steps(draft: Draft, net: Net, nic: PlannedNic) -> list[Step]:
    """What has to be made for a card; faults of what it is connected to are noted."""
    key = nic.why
    if net.bridge:
        make = check_bridge(draft, net, key)
        step = MakeBridge(name=net.bridge, mtu=net.mtu, why=f"{key}.make_bridge")
        return [step] if make else []
    if net.tap:
        check_tap(draft, net, key)
    elif net.nat is not None:
        from qlaunch.plan.nat import plan_nat

        return plan_nat(draft, net.nat, nic)
    elif net.macvtap:
        check_macvtap(draft, net, key)
        return [MakeMacvtap(
            name=str(nic.ifname), parent=net.macvtap, mode=net.mode or "bridge", mtu=net.mtu,
            mac=None if net.mode == "passthru" else nic.mac, why=f"{key}.macvtap",
        )]
    elif net.user is not None and net.user.tftp:
        _check_tftp(draft, net.user.tftp, f"{key}.user.tftp")
    return []


def _use_vhost(draft: Draft, net: Net, key: str) -> bool:
    """The launcher opens it. What needs root anyway is started by root, whoever looks now."""
    there = bool(draft.facts.vhost_net)
    profile = draft.profile
    by_root = bool(profile.pci or profile.vgpu) or any(
        n.macvtap or n.nat or (n.bridge and not bridge_helper(draft, n)) for n in profile.net
    )
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


def _passt(draft: Draft, net: Net, index: int, key: str) -> int:
    """A passt of the card's own; the fd number of QEMU's end of its socket. passt(1)."""
    assert net.passt is not None  # noqa: S101 - for the type checker
    qemu = draft.facts.qemu
    if qemu is not None and qemu.version < _STREAM:
        draft.problem(
            "this QEMU cannot talk to passt", f"{key}.passt", found=_dotted(qemu.version),
            allowed="7.2 or newer", hint="use user = {}",
        )
    words = [draft.program("passt", f"{key}.passt", _PASST), "--foreground", "--fd", "3"]
    for protocol, flag in (("tcp", "--tcp-ports"), ("udp", "--udp-ports")):
        for text in net.passt.forward:
            kind, *address, port, guest = text.split(":")
            if kind == protocol:
                words += [flag, f"{address[0]}/{port}:{guest}" if address else f"{port}:{guest}"]
    for server in net.passt.dns:
        words += ["--dns", server]
    if net.mtu:
        words += ["--mtu", str(net.mtu)]
    helper = PlannedHelper(id=f"passt{index}", key=key, argv=tuple(words), why=f"{key}.passt")
    return draft.helper(helper)


def _check_tftp(draft: Draft, path: str, where: str) -> None:
    found = draft.facts.file(path)
    if found is not None and found.kind != "directory":
        draft.problem("not a directory", where, found=path, hint="name the directory of the files")
    elif found is not None and not found.readable:
        from shlex import quote

        draft.problem("QEMU's account may not read this directory", where, found=path,
                      hint=f"chmod o+rx {quote(path)}, and o+x what it is in")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(v) for v in version)
