"""Rules about channels: names that the guest can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile

# Ports that programs in guests look for, and the key that makes each.
_KNOWN = {
    "org.qemu.guest_agent.0": "agent.guest", "com.redhat.spice.0": "agent.spice",
    "org.spice-space.webdav.0": "agent.webdav",
}


def check_channel_names(profile: Profile) -> Iterator[Finding]:
    """No two channels of one name, and none of an agent's."""
    seen: dict[str, int] = {}
    for number, channel in enumerate(profile.channel):
        first = seen.setdefault(channel.name, number)
        if first != number:
            yield Finding(
                ("channel", number, "name"),
                Problem(f"channel[{first}] has the same name", found=channel.name,
                        hint="each channel has a name of its own"),
                also=(("channel", first, "name"),),
            )
        if channel.name in _KNOWN:
            key = _KNOWN[channel.name]
            yield Finding(
                ("channel", number, "name"),
                Problem("this channel has a key of its own", found=channel.name,
                        hint=f"[agent] {key.partition('.')[2]} = true"),
            )


CHANNEL_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (check_channel_names,)
