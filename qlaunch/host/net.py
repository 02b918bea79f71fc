"""Bridges and what is plugged into them, and the only import of pyroute2.

`Links` carries requests out in this process; a launcher has them carried out by a helper, because
the import is slow and large (host/netchild.py).
"""

from __future__ import annotations

import errno
import os
from typing import Any

from qlaunch.errors import HostError, Problem
from qlaunch.host.handler import Captured, Host, Net
from qlaunch.plan.steps import MakeBridge

MAX_MTU = 65521  # a tap's limit (drivers/net/tun.c MAX_MTU less the Ethernet header)


def preload() -> None:
    """Import pyroute2 in this process."""
    import pyroute2  # noqa: F401


def attach_tap(host: Host, ifname: str, bridge: str, mtu: int | None = None) -> None:
    """Plug a tap into a bridge and bring it up. Raises HostError when the bridge is not there.

    Without `mtu` the tap gets the bridge's: a smaller one would lower the whole bridge's
    (net/bridge/br_if.c br_mtu_auto_adjust).
    """
    _net(host).call("attach", ifname=ifname, bridge=bridge, mtu=mtu)


class MakeBridgeHandler:
    """A bridge that is there already is left alone, at exit too."""

    def capture(self, host: Host, step: MakeBridge) -> Captured:
        """Whether it is there, and the MAC address by which ours will be known again."""
        found = _net(host).call("find", name=step.name)
        if found["exists"] and not found["bridge"]:
            raise HostError(Problem("a link of this name is there and is no bridge", step.name))
        tail = ":".join(f"{byte:02x}" for byte in os.urandom(5))
        return {"existed": found["exists"], "mac": f"02:{tail}"}

    def apply(self, host: Host, step: MakeBridge, captured: Captured) -> None:
        """Make it, with that address, and bring it up. Raises HostError.

        One that another start made since `capture` is that start's, as if it had been there.
        """
        if not captured["existed"]:
            answer = _net(host).call("make", name=step.name, mac=captured["mac"])
            captured["existed"] = answer["existed"]

    def undo(self, host: Host, step: MakeBridge, captured: Captured) -> str | None:
        """Remove it when this step made it and nobody else has plugged in meanwhile.

        The taps of the machine must be closed by then. Raises HostError.
        """
        if captured["existed"]:
            return None
        answer = _net(host).call("remove", name=step.name, mac=captured["mac"])
        if answer["ports"]:
            return f"the bridge {step.name} stays: {', '.join(answer['ports'])} still uses it"
        return f"the bridge {step.name} is removed" if answer["removed"] else None


class Links:
    """Requests carried out in this process."""

    def call(self, verb: str, **arguments: Any) -> Captured:
        """find, make, remove, attach. Raises HostError with the kernel's reason."""
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            with IPRoute() as ip:
                answer: Captured = getattr(self, f"_{verb}")(ip, **arguments)
                return answer
        except NetlinkError as error:
            where = str(arguments.get("name") or arguments.get("ifname"))
            hint = "this needs root" if error.code == errno.EPERM else ""
            found = os.strerror(error.code)
            raise HostError(Problem(f"cannot {verb} the link", where, found, hint=hint)) from error

    def _find(self, ip: Any, name: str) -> Captured:
        link = _link(ip, name)
        if link is None:
            return {"exists": False, "bridge": False}
        return {"exists": True, "bridge": _kind(link) == "bridge"}

    def _make(self, ip: Any, name: str, mac: str) -> Captured:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            ip.link(
                "add", ifname=name, kind="bridge", address=mac,
                br_stp_state=0, br_forward_delay=0,  # a port forwards at once
            )
        except NetlinkError as error:
            if error.code != errno.EEXIST or not self._find(ip, name)["bridge"]:
                raise
            return {"existed": True}
        link = _link(ip, name)
        if link is None or link.get("address") != mac:
            raise HostError(Problem("the bridge did not appear", where=name))
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

    def _attach(self, ip: Any, ifname: str, bridge: str, mtu: int | None) -> Captured:
        master, tap = _link(ip, bridge), _link(ip, ifname)
        if master is None or _kind(master) != "bridge":
            problem = "is no bridge" if master else "does not exist"
            hint = "make_bridge = true makes it, or: ip link add NAME type bridge"
            raise HostError(Problem(f"the bridge {bridge} {problem}", where=bridge, hint=hint))
        if tap is None:
            raise HostError(Problem("the tap is gone", where=ifname))
        size = min(mtu or master.get("mtu"), MAX_MTU)
        ip.link("set", index=tap["index"], mtu=size)
        ip.link("set", index=tap["index"], master=master["index"])
        ip.link("set", index=tap["index"], state="up")
        return {}


def _net(host: Host) -> Net:
    return host.net or Links()


def _link(ip: Any, name: str) -> Any:
    """The link of that name; None when there is none."""
    found = ip.link_lookup(ifname=name)
    return ip.get_links(found[0])[0] if found else None


def _kind(link: Any) -> str | None:
    info = link.get("linkinfo")
    return info.get("kind") if info else None


