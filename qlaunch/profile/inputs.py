"""Keyboards, mice and tablets: emulated ones, and the host's own handed over."""

from __future__ import annotations

from typing import Literal

from qlaunch.profile.fields import Slot
from qlaunch.profile.table import Annotated, Meta, Table
from qlaunch.values import HostPath

GrabKeys = Literal[
    "ctrl-ctrl", "alt-alt", "shift-shift", "meta-meta", "scrolllock", "ctrl-scrolllock"
]


class Input(Table, frozen=True):
    """An input device of the guest (type), one of the host's that feeds it (evdev), or both."""

    type: Annotated[
        Literal["tablet", "keyboard", "mouse", "multitouch"] | None,
        Meta(description="The device that the guest sees; with evdev alone it is the machine's "
             "PS/2 keyboard and mouse, or another [[input]]."),
    ] = None
    bus: Annotated[
        Literal["usb", "virtio", "ps2"] | None,
        Meta(description='How the guest sees it: usb when absent, virtio for multitouch; "ps2" is '
             "in every machine."),
    ] = None
    evdev: Annotated[
        HostPath | None,
        Meta(description="An input device of the host's, as "
             "/dev/input/by-id/usb-…-event-kbd; the guest has it until the grab keys are pressed."),
    ] = None
    grab: Annotated[
        bool | None,
        Meta(description="The grab keys on this keyboard hand over all evdev devices; true for "
             "the first keyboard when absent."),
    ] = None
    grab_keys: Annotated[
        GrabKeys | None,
        Meta(description='Keys to press together, to hand a keyboard over and take it back; '
             '"ctrl-ctrl" (both Ctrl keys) when absent.'),
    ] = None
    repeat: Annotated[
        bool | None,
        Meta(description="Pass the host's key repeat on; true for keyboards when absent."),
    ] = None
    addr: Slot = None
