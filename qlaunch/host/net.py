"""Bridges and what is plugged into them, and the only import of pyroute2.

That import takes 0.15 s and 25 MiB, which the launcher does not want to carry while a guest runs:
`NetChild` is a forked helper that imports it while other work goes on, serves requests over a
socket pair and takes the memory with it when it ends. `Links` does the same work in this process.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from contextlib import suppress
from typing import Any, NoReturn

from msgspec.json import decode, encode

from qlaunch import children
from qlaunch.errors import HostError, Problem, StuckError
from qlaunch.host.handler import Captured, Host, Net
from qlaunch.plan.steps import MakeBridge

_MESSAGE = 1 << 16
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


class NetChild:
    """The helper process. `start` begins the import; `call` starts it when it is not running."""

    def __init__(self, deadline: float = children.DEADLINE) -> None:
        self.deadline = deadline
        self.pid = 0
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Fork it, unless it runs."""
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with children.held_signals():
            pid = os.fork()
            if pid == 0:
                _serve(theirs)
            self.pid, self._socket = pid, ours
        theirs.close()

    def call(self, verb: str, **arguments: object) -> Captured:
        """See Net. After StuckError that helper is left alone; the next call has a new one."""
        self.start()
        assert self._socket is not None  # noqa: S101 - for the type checker
        with children.held_signals():
            try:
                self._socket.send(encode([verb, arguments]))
                poll = select.poll()
                poll.register(self._socket, select.POLLIN)
                if not poll.poll(1000 * self.deadline):
                    self._socket.close()
                    self._socket = None
                    text = f"the network did not {verb} within {self.deadline:g} s"
                    raise StuckError(Problem(text))
                raw = self._socket.recv(_MESSAGE)
            except OSError:
                raw = b""
        if not raw:
            self.close()
            raise HostError(Problem("the network helper ended unexpectedly"))
        answer: Captured = decode(raw)
        if "problem" in answer:
            raise HostError(Problem(*answer["problem"]))
        return answer

    def close(self) -> None:
        """End it; idle by then, so it is simply killed."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _serve(theirs: socket.socket) -> NoReturn:
    """The helper's life: until the other end closes, which a killed launcher does as well."""
    try:
        for number in children.ENDING:
            signal.signal(number, signal.SIG_IGN)
        children.let_go(theirs.fileno())
        preload()
        links = Links()
        while raw := theirs.recv(_MESSAGE):
            verb, arguments = decode(raw)
            try:
                answer = links.call(verb, **arguments)
            except HostError as error:
                answer = {"problem": list(error.problems[0])}
            except Exception as error:
                answer = {"problem": [f"cannot {verb} the link", "", str(error)]}
            theirs.send(encode(answer))
    finally:
        os._exit(0)


def _net(host: Host) -> Net:
    return host.net or Links()


def _link(ip: Any, name: str) -> Any:
    """The link of that name; None when there is none."""
    found = ip.link_lookup(ifname=name)
    return ip.get_links(found[0])[0] if found else None


def _kind(link: Any) -> str | None:
    info = link.get("linkinfo")
    return info.get("kind") if info else None


