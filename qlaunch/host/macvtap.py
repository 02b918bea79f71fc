"""Macvtaps: links on a link of the host's, which stay until they are deleted."""

from __future__ import annotations

from qlaunch.host.handler import Captured, Host
from qlaunch.host.net import ask, taken
from qlaunch.plan.steps import MakeMacvtap


class MakeMacvtapHandler:
    """The name is the machine's own, so one that is there is a stranger's or forgotten."""

    def capture(self, host: Host, step: MakeMacvtap) -> Captured:
        """Raises HostError when a link of that name is there."""
        if ask(host, "find", name=step.name)["exists"]:
            raise taken(step.name)
        return {}

    def apply(self, host: Host, step: MakeMacvtap, captured: Captured) -> None:
        """Make it and bring it up. Raises HostError."""
        ask(
            host, "make_macvtap", name=step.name, parent=step.parent, mode=step.mode, mac=step.mac,
            mtu=step.mtu,
        )

    def undo(self, host: Host, step: MakeMacvtap, captured: Captured) -> str | None:
        """Remove it; QEMU is gone by then. Raises HostError."""
        answer = ask(host, "remove_macvtap", name=step.name, parent=step.parent)
        return f"the macvtap {step.name} is removed" if answer["removed"] else None
