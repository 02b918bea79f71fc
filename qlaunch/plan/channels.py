"""Channels over virtio-serial: agents of the guest, consoles, ports of the user's own.

Port numbers are a map: a channel more or less moves no other. Port 0 is a console's
(virtio_serial_device_realize keeps it free of ports).
"""

from __future__ import annotations

from qlaunch.plan.draft import Draft
from qlaunch.plan.plugs import PlannedChannel

_GUEST, _SPICE, _WEBDAV, _FIRST_OWN = 1, 2, 3, 4
CONSOLES = (0, 28, 29, 30)  # of 31 ports
_MAX_OWN = CONSOLES[1] - _FIRST_OWN
BUS = "channel.0"
SPICE = ("spice", "looking-glass")  # displays with a SPICE server
VIEWERS = ("gtk", "vnc", "dbus")  # displays with a clipboard (qemu-vdagent, since 6.1)


def plan_channels(draft: Draft) -> None:
    """The [agent] table and the [[channel]] tables."""
    agent = draft.profile.agent
    if agent is not None:
        if agent.guest:
            _socket(draft, "agent", "agent.guest", "org.qemu.guest_agent.0", _GUEST)
        if agent.spice or (agent.spice is None and _display(draft) in SPICE):
            draft.wants_agent = "agent.spice"
        elif agent.spice is False:
            draft.wants_agent = ""
        if agent.webdav:
            _spice_port(draft, "webdav", "agent.webdav", "org.spice-space.webdav.0", _WEBDAV)
    for index, channel in enumerate(draft.profile.channel):
        key = f"channel[{index}]"
        if index >= _MAX_OWN:
            draft.problem(f"there is room for {_MAX_OWN} channels", key,
                          hint="leave this one out")
        make = _socket if channel.type == "socket" else _spice_port
        make(draft, f"channel{index}", key, channel.name, _FIRST_OWN + index)


def plan_bus(draft: Draft) -> None:
    """The controller, and the SPICE agent's port when somebody asked for it."""
    if draft.wants_agent:
        _spice_agent(draft, draft.wants_agent)
    key = draft.wants_channel
    if not key:
        return
    draft.need("virtio-serial-pci", key)
    draft.decided["channel_bus"] = key
    draft.place("channel", "channel", key)
    consoles = [s for s in draft.decided.get("serials", ()) if s.device == "virtconsole"]
    if len(consoles) > len(CONSOLES):
        draft.problem(f"there is room for {len(CONSOLES)} virtio consoles",
                      f"{consoles[-1].key}.bus", hint="use another bus for some of them")


def _display(draft: Draft) -> str:
    return str(draft.decided.get("display", "none"))


def _socket(draft: Draft, ident: str, key: str, name: str, number: int) -> None:
    file = ident if ident == "agent" else name
    fd = draft.fd("listen", f"{draft.paths.sockets}/{file}.sock")
    _add(draft, PlannedChannel(id=ident, key=key, name=name, number=number, backend="socket",
                               fd=fd))


def _spice_port(draft: Draft, ident: str, key: str, name: str, number: int) -> None:
    if _display(draft) not in SPICE:
        draft.problem("this channel leads to a SPICE viewer", key,
                      found=f"display.type is {_display(draft)}",
                      hint='set display.type = "spice"')
    _add(draft, PlannedChannel(id=ident, key=key, name=name, number=number, backend="spiceport"))


def _spice_agent(draft: Draft, key: str) -> None:
    display = _display(draft)
    if display not in (*SPICE, *VIEWERS):
        draft.problem("the SPICE agent needs a display that it can serve", key,
                      found=f"display.type is {display}", allowed=", ".join((*SPICE, *VIEWERS)))
    _add(draft, PlannedChannel(
        id="vdagent", key=key, name="com.redhat.spice.0", number=_SPICE,
        backend="spicevmc" if display in SPICE else "qemu-vdagent",
    ))


def _add(draft: Draft, channel: PlannedChannel) -> None:
    draft.need("virtserialport", channel.key)
    draft.wants_channel = draft.wants_channel or channel.key
    draft.decided["channels"] = (*draft.decided.get("channels", ()), channel)
