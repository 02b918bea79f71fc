"""Bridges and what is plugged into them, and the only import of pyroute2.

`Links` carries requests out in this process; a launcher has them carried out by a helper, because
the import is slow and large (host/netchild.py).
"""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any

from qlaunch.errors import HostError, Problem
from qlaunch.host import writers
from qlaunch.host.handler import Captured, Host, Net
from qlaunch.plan.steps import MakeBridge

_LINKS = "ip link lists what is there"
RESET_TIME = 5.0  # seconds that a virtual function may take to come out of a reset
MAX_MTU = 65521  # a tap's limit (drivers/net/tun.c MAX_MTU less the Ethernet header)


def preload() -> None:
    """Import in this process what of pyroute2 talks to links."""
    from qlaunch.host.lean import prepare

    prepare("pyroute2")
    import pyroute2.iproute  # noqa: F401


def attach_tap(host: Host, ifname: str, bridge: str, mtu: int | None = None) -> None:
    """Plug a tap into a bridge and bring it up. Raises HostError when the bridge is not there.

    The tap gets the bridge's MTU, or `mtu` when that is larger: a smaller one would lower the whole
    bridge's (net/bridge/br_if.c br_mtu_auto_adjust).
    """
    ask(host, "attach", ifname=ifname, bridge=bridge, mtu=mtu)


class MakeBridgeHandler:
    """A bridge that is there already is left alone, at exit too."""

    def capture(self, host: Host, step: MakeBridge) -> Captured:
        """Whether it is there, and the MAC address by which ours will be known again."""
        found = ask(host, "find", name=step.name)
        if found["exists"] and not found["bridge"]:
            raise HostError(Problem("a link of this name is there and is no bridge", step.name,
                                    hint=_shown(step.name)))
        if found["exists"] and step.address:
            raise taken(step.name)
        tail = ":".join(f"{byte:02x}" for byte in os.urandom(5))
        return {"existed": found["exists"], "mac": f"02:{tail}"}

    def apply(self, host: Host, step: MakeBridge, captured: Captured) -> None:
        """Make it, with that address, and bring it up. Raises HostError.

        One that another start made since `capture` is that start's, as if it had been there.
        """
        if not captured["existed"]:
            answer = ask(
                host, "make", name=step.name, mac=captured["mac"], address=step.address,
                mtu=step.mtu,
            )
            captured["existed"] = answer["existed"]

    def undo(self, host: Host, step: MakeBridge, captured: Captured) -> str | None:
        """Remove it when this step made it and nobody else has plugged in meanwhile.

        The taps of the machine must be closed by then. Raises HostError.
        """
        if captured["existed"]:
            return None
        answer = ask(host, "remove", name=step.name, mac=captured["mac"])
        if answer["ports"]:
            return f"the bridge {step.name} stays: {', '.join(answer['ports'])} still uses it"
        return f"the bridge {step.name} is removed" if answer["removed"] else None


class Links:
    """Requests carried out in this process."""

    def call(self, verb: str, lock: int = -1, **arguments: Any) -> Captured:
        """A request by name, `find` for `_find`. Raises HostError with the kernel's reason."""
        preload()
        from pyroute2.iproute import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            with IPRoute() as ip:
                answer: Captured = getattr(self, f"_{verb}")(ip, **arguments)
                return answer
        except NetlinkError as error:
            where = str(arguments.get("name") or arguments.get("ifname"))
            hint = "this needs root" if error.code == errno.EPERM else _shown(where)
            found = os.strerror(error.code)
            raise HostError(Problem(f"cannot {verb} the link", where, found, hint=hint)) from error

    def _find(self, ip: Any, name: str) -> Captured:
        link = _link(ip, name)
        if link is None:
            return {"exists": False, "bridge": False}
        return {"exists": True, "bridge": _kind(link) == "bridge"}

    def _make(
        self, ip: Any, name: str, mac: str, address: str = "", mtu: int | None = None
    ) -> Captured:
        from pyroute2.netlink.exceptions import NetlinkError

        if address:
            _check_free(ip, address)
        try:
            ip.link(
                "add", ifname=name, kind="bridge", address=mac,
                br_stp_state=0, br_forward_delay=0,  # a port forwards at once
                **({"mtu": mtu} if mtu else {}),
            )
        except NetlinkError as error:
            if error.code != errno.EEXIST or address or not self._find(ip, name)["bridge"]:
                raise
            return {"existed": True}
        link = _link(ip, name)
        if link is None or link.get("address") != mac:
            raise HostError(Problem("the bridge did not appear", where=name, hint=_shown(name)))
        if address:
            host, _, bits = address.partition("/")
            ip.addr("add", index=link["index"], address=host, prefixlen=int(bits))
        ip.link("set", index=link["index"], state="up")
        return {"existed": False}

    def _remove(self, ip: Any, name: str, mac: str) -> Captured:
        link = _link(ip, name)
        if link is None or link.get("address") != mac:
            return {"removed": False, "ports": []}  # never made, or somebody else's by now
        ports = [p.get("ifname") for p in ip.get_links() if p.get("master") == link["index"]]
        if not ports:
            ip.link("del", index=link["index"])
        return {"removed": not ports, "ports": ports}

    def _make_macvtap(
        self, ip: Any, name: str, parent: str, mode: str, mac: str | None, mtu: int | None
    ) -> Captured:
        lower = _link(ip, parent)
        if lower is None:
            raise HostError(Problem("this host has no such link", where=parent, hint="ip link"))
        more = {key: value for key, value in (("address", mac), ("mtu", mtu)) if value}
        ip.link(
            "add", ifname=name, kind="macvtap", link=lower["index"], macvtap_mode=mode, **more
        )
        link = _link(ip, name)
        if link is None:
            raise HostError(Problem("the macvtap did not appear", where=name, hint=_shown(name)))
        ip.link("set", index=link["index"], state="up")
        return {"index": link["index"]}

    def _remove_macvtap(self, ip: Any, name: str, parent: str) -> Captured:
        link, lower = _link(ip, name), _link(ip, parent)
        # With the parent the macvtap has gone too; another link of that name is not ours.
        ours = link is not None and lower is not None and _kind(link) == "macvtap" and (
            link.get("link") == lower["index"]
        )
        if ours:
            ip.link("del", index=link["index"])
        return {"removed": ours}

    def _vf(self, ip: Any, ifname: str, number: int) -> Captured:
        """MAC address and VLAN of a virtual function, from its physical one's link."""
        link = _link(ip, ifname)
        # 1 is RTEXT_FILTER_VF: without it the kernel leaves virtual functions out.
        found = ip.link("get", index=link["index"], ext_mask=1)[0] if link else None
        listed = found.get_attr("IFLA_VFINFO_LIST") if found else None
        for one in listed.get_attrs("IFLA_VF_INFO") if listed else ():
            mac, vlan = one.get_attr("IFLA_VF_MAC"), one.get_attr("IFLA_VF_VLAN")
            if mac["vf"] == number:
                return {"mac": mac["mac"], "vlan": vlan["vlan"] if vlan else 0}
        raise HostError(Problem(f"the link has no virtual function {number}", where=ifname,
                                hint=_shown(ifname)))

    def _set_vf(
        self, ip: Any, ifname: str, number: int, mac: str | None, vlan: int | None
    ) -> Captured:
        """Set what is not None, and look whether the driver took it."""
        link = _link(ip, ifname)
        if link is None:
            raise HostError(Problem("the link is gone", where=ifname, hint=_LINKS))
        wanted = {k: v for k, v in (("mac", mac), ("vlan", vlan)) if v is not None}
        for key, value in wanted.items():
            _set_patiently(ip, link["index"], {"vf": number, key: value})
        found = self._vf(ip, ifname, number)
        wrong = {k: found[k] for k, v in wanted.items() if found[k] != v}
        if wrong:
            raise HostError(Problem(f"the driver did not take it for virtual function {number}",
                                    ifname, str(wrong), str(wanted), _by_hand(
                                        ifname, number, wanted)))
        return {}

    def _attach(self, ip: Any, ifname: str, bridge: str, mtu: int | None) -> Captured:
        master, tap = _link(ip, bridge), _link(ip, ifname)
        if master is None or _kind(master) != "bridge":
            problem = "is no bridge" if master else "does not exist"
            hint = "make_bridge = true makes it, or: ip link add NAME type bridge"
            raise HostError(Problem(f"the bridge {bridge} {problem}", where=bridge, hint=hint))
        if tap is None:
            raise HostError(Problem("the tap is gone", where=ifname, hint=_LINKS))
        size = min(max(mtu or 0, master.get("mtu")), MAX_MTU)
        ip.link("set", index=tap["index"], mtu=size)
        ip.link("set", index=tap["index"], master=master["index"])
        ip.link("set", index=tap["index"], state="up")
        return {}


def _check_free(ip: Any, address: str) -> None:
    """Raises HostError when any link has an address of that network."""
    wanted = _bits(*address.split("/"))
    for one in ip.get_addr(family=socket.AF_INET):
        theirs = _bits(one.get("address"), one["prefixlen"])
        length = min(len(wanted), len(theirs))
        if wanted[:length] == theirs[:length]:
            raise HostError(
                Problem(
                    f"the network of {address} is in use", where=one.get("label") or "",
                    found=f"{one.get('address')}/{one['prefixlen']}",
                    hint="start again: another network is chosen, unless the profile names one",
                )
            )


def _bits(address: str, length: str | int) -> str:
    """The leading bits of an IPv4 address as text."""
    number = int.from_bytes(socket.inet_aton(address), "big")
    return f"{number:032b}"[: int(length)]


def taken(name: str) -> HostError:
    """For a name that is a machine's own, and that something has."""
    return HostError(
        Problem(
            "a link of this name is there already", where=name,
            hint=f"nothing that runs should have it: ip link delete {name}",
        )
    )


def _shown(name: str) -> str:
    return f"ip -d link show {name} tells what is there"


def _set_patiently(ip: Any, index: int, vf: dict[str, Any]) -> None:
    """A function that comes out of a reset, as one that was just unbound does, has to wait: i40e
    says EAGAIN meanwhile (i40e_ndo_set_vf_mac), ice EBUSY (ice_check_vf_ready_for_cfg)."""
    from pyroute2.netlink.exceptions import NetlinkError

    end = time.monotonic() + RESET_TIME
    while True:
        try:
            ip.link("set", index=index, vf=vf)
        except NetlinkError as error:
            if error.code not in (errno.EAGAIN, errno.EBUSY) or time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _by_hand(ifname: str, number: int, wanted: dict[str, Any]) -> str:
    words = " ".join(f"{key} {value}" for key, value in wanted.items())
    return f"try it by hand: sudo ip link set {ifname} vf {number} {words}"


def ask(host: Host, verb: str, **arguments: object) -> Captured:
    """One request at the host's door to links, or to pyroute2 in this process. Raises as `Net`.

    A helper has the lock of those who write: what it was asked for is still done when its launcher
    is killed meanwhile.
    """
    net: Net = host.net or Links()
    with writers.writing(host) as lock:
        return net.call(verb, lock, **arguments)


def _link(ip: Any, name: str) -> Any:
    """The link of that name; None when there is none."""
    found = ip.link_lookup(ifname=name)
    return ip.get_links(found[0])[0] if found else None


def _kind(link: Any) -> str | None:
    info = link.get("linkinfo")
    return info.get("kind") if info else None


