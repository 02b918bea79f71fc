"""The port map of the USB controller: every kind of device has ports of its own.

A map, as that of slots: Windows takes a USB device on another port for another device. What is slow
anyway goes on a hub (QEMU's is one of 12 Mbit/s with 8 ports) where the controller's own ports do
not suffice; a host's device may be fast, and QEMU refuses a fast one there. The [[usb]] tables'
devices have ports from the start of their range, plugged in or not, and viewers' from its end.
"""

from __future__ import annotations

from qlaunch.plan.draft import Draft

BUS = "usb.0"
# More ports than 15 an xHCI cannot have; an EHCI has 6 together with its companions, a UHCI 2.
HUBS = {"xhci": "15", "ehci": "2", "uhci": "2"}
PORTS: dict[str, dict[str, tuple[str, ...]]] = {
    "xhci": {
        "input": ("1", "2", "15.1", "15.2", "15.3", "15.4"),
        "disk": ("3", "4", "5"),
        "cdrom": ("6", "7"),
        "audio": ("8",),
        "usb": ("9", "10", "11", "12", "13", "14"),
        "serial": ("15.5", "15.6", "15.7", "15.8"),
    },
    "ehci": {
        "input": ("1", "2.1", "2.2"),
        "usb": ("3", "4", "5", "6"),
        "disk": ("2.3", "2.4"),
        "cdrom": ("2.5",),
        "serial": ("2.6", "2.7"),
        "audio": ("2.8",),
    },
    "uhci": {
        "input": ("1", "2.1", "2.2"),
        "disk": ("2.3",),
        "cdrom": ("2.4",),
        "serial": ("2.5",),
        "audio": ("2.6",),
        "usb": ("2.7", "2.8"),
    },
}
_INSTEAD = {
    "input": 'bus = "virtio" or "ps2" takes no USB port',
    "disk": "put it on another bus",
    "cdrom": "put it on another bus",
    "serial": 'bus = "pci" or "virtio" takes no USB port',
    "usb": "hand over a whole USB controller of the host's with [[pci]]",
}


def usb_model(draft: Draft) -> str:
    """The controller's kind; xhci as well where the profile forbids one, which is told."""
    wanted = draft.profile.machine.usb
    return draft.era.usb if wanted is None else "xhci" if wanted == "none" else wanted


def usb_port(draft: Draft, kind: str, index: int, key: str) -> str:
    """The port of the index-th device of a kind."""
    model = usb_model(draft)
    ports = PORTS[model]["usb"][::-1] if kind == "redirect" else PORTS[model][kind]
    kind = "usb" if kind == "redirect" else kind
    port = ports[min(index, len(ports) - 1)]
    if any(place.bus == BUS and place.port == port for place in draft.places.values()):
        more = len(PORTS["xhci"][kind])
        draft.problem(
            f"the {model} controller has {len(ports)} port(s) for this kind of device", key,
            hint=_INSTEAD[kind] + (
                f'; machine.usb = "xhci" has {more}, for guests with a driver for it'
            ) * (more > len(ports)),
        )
    if "." in port:
        draft.usb_hub = draft.usb_hub or key
    return port
