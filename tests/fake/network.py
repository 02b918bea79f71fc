"""The fake kernel's links, firewall tables and daemons: a Net and the tools of a NAT.

State is in files below the root, so that it survives the launcher that is killed: links.json, a
file a table in nft/, a process in proc/. Each request is an event before and after it is done.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlaunch.children import Done
from qlaunch.errors import HostError, Problem
from qlaunch.host.handler import Host
from tests.fake.kernel import FakeKernel

PID = "4242"


@dataclass
class FakeNetwork(FakeKernel):
    """A Door and a Net."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.put("links.json", json.dumps({"eth0": {"kind": "", "mac": "10:00:00:00:00:01"}}))
        self.put("proc/sys/net/ipv4/ip_forward", "0\n")
        for link, value in (("all", 0), ("default", 0), ("eth0", 0), ("vpn0", 1)):
            self.put(f"proc/sys/net/ipv4/conf/{link}/forwarding", f"{value}\n")
        (self.root / "nft").mkdir(exist_ok=True)

    def host(self, **changes: Any) -> Host:
        """With this as its Net too."""
        return super().host(net=self, **changes)

    # Links

    def call(self, verb: str, lock: int = -1, **arguments: Any) -> dict[str, Any]:
        """As Links.call."""
        file = self.root / "links.json"
        links = json.loads(file.read_text())
        if self.before_write:
            self.before_write(f"link {verb}", "")
        answer: dict[str, Any] = getattr(self, f"_{verb}")(links, **arguments)
        self._replace(file, json.dumps(links))
        if self.after_write:
            self.after_write(f"link {verb}", "")
        return answer

    def _find(self, links: dict[str, Any], name: str) -> dict[str, Any]:
        return {"exists": name in links, "bridge": links.get(name, {}).get("kind") == "bridge"}

    def _make(
        self, links: dict[str, Any], name: str, mac: str, address: str, mtu: int | None
    ) -> dict[str, Any]:
        if name in links:
            raise HostError(Problem("cannot make the link", name, os.strerror(errno.EEXIST)))
        links[name] = {"kind": "bridge", "mac": mac, "address": address, "mtu": mtu}
        return {"existed": False}

    def _remove(self, links: dict[str, Any], name: str, mac: str) -> dict[str, Any]:
        if links.get(name, {}).get("mac") != mac:
            return {"removed": False, "ports": []}
        del links[name]
        return {"removed": True, "ports": []}

    def _make_macvtap(
        self, links: dict[str, Any], name: str, parent: str, mode: str, mac: str | None,
        mtu: int | None,
    ) -> dict[str, Any]:
        links[name] = {"kind": "macvtap", "parent": parent, "mac": mac or links[parent]["mac"]}
        return {"index": 9}

    def _remove_macvtap(self, links: dict[str, Any], name: str, parent: str) -> dict[str, Any]:
        ours = links.get(name, {}).get("parent") == parent
        if ours:
            del links[name]
        return {"removed": ours}

    # Tools

    def run(self, argv: Sequence[str], stdin: str = "", *, daemon: bool = False) -> Done:
        """nft and dnsmasq besides modprobe."""
        if argv[0] not in ("nft", "dnsmasq"):
            return super().run(argv, stdin, daemon=daemon)
        if list(argv[1:3]) == ["-j", "list"]:
            there = (self.root / "nft" / argv[-1]).exists()
            return Done(0, "{}", "") if there else Done(1, "", "Error: No such file or directory\n")
        if self.before_write:
            self.before_write(" ".join(argv), stdin)
        if argv[0] == "nft":
            self._nft(json.loads(stdin)["nftables"])
        else:
            assert daemon
            self._dnsmasq(argv)
        if self.after_write:
            self.after_write(" ".join(argv), stdin)
        return Done(0, "", "")

    def _nft(self, commands: list[dict[str, Any]]) -> None:
        """One transaction: a table's rules are a file's text."""
        name = commands[0]["add"]["table"]["name"]
        path = self.root / "nft" / name
        rules = [c["add"] for c in commands[2:]]
        assert commands[1] == {"delete": {"table": {"family": "ip", "name": name}}}
        if rules:
            self._replace(path, json.dumps(rules))
        else:
            path.unlink(missing_ok=True)

    def _dnsmasq(self, argv: Sequence[str]) -> None:
        words = dict(word.partition("=")[::2] for word in argv)
        for name in ("--pid-file", "--dhcp-leasefile"):
            self.put(words[name].lstrip("/"), "")
        self.put(f"proc/{PID}/cmdline", "\0".join(argv) + "\0")

    def send_signal(self, pid: int, number: int) -> None:
        """SIGTERM ends it at once."""
        path = self.root / f"proc/{pid}/cmdline"
        if not path.exists():
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if self.before_write:
            self.before_write(f"kill {pid}", str(number))
        path.unlink()
        path.parent.rmdir()
        if self.after_write:
            self.after_write(f"kill {pid}", str(number))

    # Files

    def _replace(self, path: Path, text: str) -> None:
        """Whole or not at all, as the kernel changes its own."""
        new = self.root / ".model" / "new"
        new.write_text(text)
        new.rename(path)

    def _store(self, path: Path, text: str) -> None:
        """The switch of forwarding sets each link's (inet_forward_change)."""
        super()._store(path, text)
        if path.name == "ip_forward":
            for file in (self.root / "proc/sys/net/ipv4/conf").glob("*/forwarding"):
                file.write_text(f"{text.strip()}\n")
