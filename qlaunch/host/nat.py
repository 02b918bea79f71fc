"""What a machine's own network needs beside its bridge: forwarding, a firewall table, dnsmasq.

Forwarding is one switch for the whole host. Who wants it leaves a note, and who found it off keeps
what was there before beside the notes; the last one to go puts that back. All of it happens under
the host lock, which the engine's callers hold.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from qlaunch.errors import HostError, Problem
from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import NftTable, RunDnsmasq, SetForwarding

_SWITCH = "proc/sys/net/ipv4/ip_forward"
_LINKS = "proc/sys/net/ipv4/conf"
_BEFORE = "before"  # beside the notes, which end in _NOTE
_PUTTING = "before.again"  # the same, once it is being put back
_NOTE = ".wants"
_DNSMASQ_LOG = "journalctl -t dnsmasq -n 20 may tell why"


class SetForwardingHandler:
    """net.ipv4.ip_forward. Turning it off turns it off for each link as well, so those that
    forwarded by themselves are remembered (net/ipv4/devinet.c inet_forward_change)."""

    def capture(self, host: Host, step: SetForwarding) -> Captured:
        """The switch, and the links that forward without it."""
        value = sysfs.read_text(host.path(_SWITCH))
        if value is None:
            raise HostError(Problem("this kernel has no IPv4 forwarding", f"/{_SWITCH}",
                                    hint="use user = {} instead of nat: it needs none"))
        on = []
        for path in sorted(host.path(_LINKS).glob("*/forwarding")) if value == "0" else ():
            if path.parent.name != "all" and sysfs.read_text(path) == "1":
                on.append(path.parent.name)
        return {"value": value, "on": on}

    def apply(self, host: Host, step: SetForwarding, captured: Captured) -> None:
        """Leave the note, then turn it on. Raises HostError."""
        folder = host.path(step.directory.lstrip("/"))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / f"{step.machine}{_NOTE}").touch()
        if (folder / _PUTTING).exists():  # somebody was killed over it: it is ours to do now
            (folder / _PUTTING).rename(folder / _BEFORE)
        if captured["value"] == "0":
            if not (folder / _BEFORE).exists():
                new = folder / f"{_BEFORE}.new"
                new.write_text(json.dumps(captured))
                new.rename(folder / _BEFORE)
            sysfs.write(host, host.path(_SWITCH), "1")
        if sysfs.read_text(host.path(_SWITCH)) == "0":
            raise HostError(Problem("the kernel does not forward", f"/{_SWITCH}", found="0",
                                    hint="try it by hand: sudo sysctl net.ipv4.ip_forward=1"))

    def undo(self, host: Host, step: SetForwarding, captured: Captured) -> str | None:
        """Take the note away; the last one puts back what was there before the first."""
        folder = host.path(step.directory.lstrip("/"))
        (folder / f"{step.machine}{_NOTE}").unlink(missing_ok=True)
        if any(folder.glob(f"*{_NOTE}")) or not folder.exists():
            return None
        told = _put_back(host, folder)
        for name in (_PUTTING, _BEFORE, f"{_BEFORE}.new"):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # something of somebody else's is in it
            folder.rmdir()
        return told


def _put_back(host: Host, folder: Path) -> str | None:
    """What was before, unless somebody has turned forwarding off meanwhile."""
    if (folder / _BEFORE).exists() and sysfs.read_text(host.path(_SWITCH)) != "0":
        (folder / _BEFORE).rename(folder / _PUTTING)
    raw = sysfs.read_text(folder / _PUTTING)
    if not raw:
        return None
    before: Captured = json.loads(raw)
    sysfs.write(host, host.path(_SWITCH), before["value"])
    for link in before["on"]:
        path = host.path(f"{_LINKS}/{link}/forwarding")
        if path.exists():
            sysfs.write(host, path, "1")
    return "IPv4 forwarding is off again"


class NftTableHandler:
    """One table, made whole and taken away whole (libnftables-json(5))."""

    def capture(self, host: Host, step: NftTable) -> Captured:
        """Nothing: a table of this name is this machine's own, from a run whose journal is lost."""
        return {}

    def apply(self, host: Host, step: NftTable, captured: Captured) -> None:
        """Make it anew in one transaction, and read it back. Raises HostError with nft's words."""
        _nft(host, step, [*_emptied(step), *_rules(step)])
        if not _listed(host, step):
            raise HostError(Problem("the firewall table did not appear", where=step.table,
                                    hint=f"{step.program} list tables shows those there are"))

    def undo(self, host: Host, step: NftTable, captured: Captured) -> str | None:
        """Delete it. Raises HostError."""
        there = _listed(host, step)
        _nft(host, step, _emptied(step))
        return f"the firewall table ip {step.table} is removed" if there else None


def _table(step: NftTable) -> dict[str, str]:
    return {"family": "ip", "name": step.table}


def _emptied(step: NftTable) -> list[Any]:
    """No table of that name, whether there was one or not."""
    return [{"add": {"table": _table(step)}}, {"delete": {"table": _table(step)}}]


def _nft(host: Host, step: NftTable, commands: list[Any]) -> None:
    text = json.dumps({"nftables": commands})
    done = sysfs.run(host, [step.program, "-j", "-f", "-"], text)
    if done.code != 0:
        words = (done.err or done.out).strip().splitlines()
        raise HostError(
            Problem(
                "nft refused the firewall table", where=step.table,
                found=words[0] if words else f"nft ended with code {done.code}",
                hint="modprobe nft_masq, if this kernel has it as a module",
            )
        )


def _listed(host: Host, step: NftTable) -> bool:
    return sysfs.run(host, [step.program, "-j", "list", "table", "ip", step.table]).code == 0


def _rules(step: NftTable) -> Iterator[Any]:
    """Out goes everything, masqueraded; in come answers and forwarded ports."""
    address, _, bits = step.network.partition("/")
    network = {"prefix": {"addr": address, "len": int(bits)}}
    inside, outside = ("==", step.bridge), ("!=", step.bridge)

    def chain(name: str, kind: str, hook: str, priority: int) -> Any:
        return {"add": {"chain": {
            "family": "ip", "table": step.table, "name": name, "type": kind, "hook": hook,
            "prio": priority, "policy": "accept",
        }}}

    def rule(name: str, *parts: Any) -> Any:
        return {"add": {"rule": {
            "family": "ip", "table": step.table, "chain": name, "expr": list(parts),
        }}}

    def meta(key: str, match: tuple[str, str]) -> Any:
        return {"match": {"op": match[0], "left": {"meta": {"key": key}}, "right": match[1]}}

    def packet(protocol: str, field: str, value: Any, sign: str = "==") -> Any:
        left = {"payload": {"protocol": protocol, "field": field}}
        return {"match": {"op": sign, "left": left, "right": value}}

    def state(key: str, value: Any) -> Any:
        return {"match": {"op": "in", "left": {"ct": {"key": key}}, "right": value}}

    yield {"add": {"table": _table(step)}}
    yield chain("postrouting", "nat", "postrouting", 100)
    yield rule("postrouting", packet("ip", "saddr", network), meta("oifname", outside),
               {"masquerade": None})
    yield chain("forward", "filter", "forward", 0)
    yield rule("forward", meta("iifname", inside), packet("ip", "saddr", network, "!="),
               {"drop": None})
    yield rule("forward", meta("oifname", inside), state("state", ["established", "related"]),
               {"accept": None})
    yield rule("forward", meta("oifname", inside), state("status", "dnat"), {"accept": None})
    yield rule("forward", meta("oifname", inside), meta("iifname", outside), {"drop": None})
    local = {"match": {"op": "==", "left": {"fib": {"result": "type", "flags": ["daddr"]}},
                       "right": "local"}}
    for hook in ("prerouting", "output") if step.forward else ():
        yield chain(hook, "nat", hook, -100)
        for text in step.forward:
            protocol, *to, port, guest = text.split(":")
            yield rule(
                hook, *(packet("ip", "daddr", one) for one in to), local,
                packet(protocol, "dport", int(port)),
                {"dnat": {"addr": step.guest, "port": int(guest)}},
            )


class RunDnsmasqHandler:
    """It detaches itself, and outlives a killed launcher as the guest does. It is known by its pid
    file's name on its command line, which no other process has."""

    def capture(self, host: Host, step: RunDnsmasq) -> Captured:
        """Nothing: the name is locked, so what runs on that pid file is a forgotten one."""
        return {}

    def apply(self, host: Host, step: RunDnsmasq, captured: Captured) -> None:
        """Start it; it has bound its sockets when this returns. Raises HostError with its words."""
        _end(host, step)
        done = sysfs.run(host, dnsmasq_argv(step), daemon=True)
        if done.code != 0:
            words = (done.err or done.out).strip().splitlines()
            raise HostError(
                Problem(
                    f"dnsmasq does not start on {step.bridge}", where=step.why,
                    found=words[-1] if words else f"it ended with code {done.code}",
                    hint="a DHCP or name server on all addresses is in its way: ss -lnup"
                    if "in use" in done.err else _DNSMASQ_LOG,
                )
            )
        if not sysfs.wait_until(host, lambda: bool(_running(host, step))):
            raise HostError(Problem(f"dnsmasq on {step.bridge} ended at once", where=step.why,
                                    hint=_DNSMASQ_LOG))

    def undo(self, host: Host, step: RunDnsmasq, captured: Captured) -> str | None:
        """End it, and remove its files. Raises HostError when it does not end."""
        told = f"dnsmasq on {step.bridge} has ended" if _end(host, step) else None
        for path in (_pid_file(step), _leases(step)):
            host.path(path.lstrip("/")).unlink(missing_ok=True)
        return told


def dnsmasq_argv(step: RunDnsmasq) -> list[str]:
    """Its command line; nothing is read from /etc but the host's name servers. dnsmasq(8)."""
    network = step.network
    words = [
        step.program, "--conf-file=/dev/null", "--no-hosts", f"--interface={step.bridge}",
        "--except-interface=lo", "--bind-interfaces", "--dhcp-authoritative",
        f"--dhcp-range={network.address(2)},{network.address(-2)}",
        f"--dhcp-host={step.mac},{step.guest}", f"--dhcp-leasefile={_leases(step)}",
        _pid_word(step), f"--user={_account()}",
    ]
    if step.dns:
        words += ["--no-resolv", *(f"--server={server}" for server in step.dns)]
    if step.domain:
        words += [f"--domain={step.domain}", f"--local=/{step.domain}/"]
    if step.mtu:
        words.append(f"--dhcp-option-force=option:mtu,{step.mtu}")
    return words


def _account() -> str:
    import pwd

    try:
        return pwd.getpwnam("dnsmasq").pw_name
    except KeyError:
        return "nobody"


def _pid_file(step: RunDnsmasq) -> str:
    return f"{step.directory}/dnsmasq.pid"


def _pid_word(step: RunDnsmasq) -> str:
    return f"--pid-file={_pid_file(step)}"


def _leases(step: RunDnsmasq) -> str:
    return f"{step.directory}/dnsmasq.leases"


def _running(host: Host, step: RunDnsmasq) -> list[int]:
    """The pids of the step's dnsmasq (one, but for the moment in which it detaches itself)."""
    wanted, found = _pid_word(step).encode(), []
    for path in host.path("proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # gone meanwhile
            continue
        if wanted in words and Path(words[0].decode(errors="replace")).name.startswith("dnsmasq"):
            found.append(int(path.parent.name))
    return found


def _end(host: Host, step: RunDnsmasq) -> bool:
    """End it, by force when it takes long; whether there was one. Raises HostError."""
    before = _running(host, step)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _running(host, step):
            try:
                sysfs.door(host).send_signal(pid, number)
            except ProcessLookupError:
                continue
        if sysfs.wait_until(host, lambda: not _running(host, step), "dnsmasq to end"):
            return bool(before)
    left = ",".join(map(str, before))
    raise HostError(Problem(f"dnsmasq on {step.bridge} does not end", found=f"pid {left}",
                            hint=f"ps -o pid,stat,wchan:30 -p {left} shows what it waits for"))
