"""Input devices: which are keyboards and mice, and which one a profile's path means.

From /proc/bus/input/devices (drivers/input/input.c). Keyboard and mouse are told apart as udev's
input_id does: a keyboard has all of the keys from Esc to S, a mouse two relative axes and a button.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from qlaunch.facts.files import can_access
from qlaunch.facts.model import Invoker
from qlaunch.facts.tree import base_of, read_lines, real_path
from qlaunch.facts.usb_model import HostInput

_KEYBOARD = 0xFFFFFFFE  # KEY_ESC (1) to KEY_S (31), linux/input-event-codes.h
_BTN_LEFT = 0x110
_AXES = 0x3  # REL_X, REL_Y
_WORD = 64  # bits of a long in the bitmaps


def read_inputs(
    root: Path = Path("/"), paths: Sequence[str] = (), account: Invoker | None = None
) -> tuple[HostInput, ...]:
    """Those with an event node; each of the profile's `paths` is noted at the one it leads to."""
    base = base_of(root)
    real = {path: real_path(base + path) for path in paths}
    found: list[HostInput] = []
    block: dict[str, str] = {}
    for line in [*read_lines(f"{base}/proc/bus/input/devices"), ""]:
        if line:
            key, _, value = line[3:].partition("=")
            block[f"{line[0]} {key}"] = value.strip()
        elif block:
            device = _device(block)
            block = {}
            if device is not None:
                found.append(_placed(device, base, real, account))
    return tuple(found)


def _device(block: dict[str, str]) -> HostInput | None:
    handlers = block.get("H Handlers", "").split()
    event = next((h for h in handlers if h.startswith("event")), "")
    if not event:
        return None
    return HostInput(
        node=f"/dev/input/{event}", name=block.get("N Name", "").strip('"'),
        kind=_kind(block), sysfs=block.get("S Sysfs", ""),
    )


def _kind(block: dict[str, str]) -> Literal["keyboard", "mouse", "other"]:
    keys, axes = _bits(block.get("B KEY", "")), _bits(block.get("B REL", ""))
    if keys & _KEYBOARD == _KEYBOARD:
        return "keyboard"
    return "mouse" if axes & _AXES == _AXES and keys >> _BTN_LEFT & 1 else "other"


def _bits(text: str) -> int:
    """Hexadecimal words, the most significant first; words of zeros in front are not printed."""
    number = 0
    for word in text.split():
        try:
            number = number << _WORD | int(word, 16)
        except ValueError:
            return 0
    return number


def _placed(
    device: HostInput, base: str, real: dict[str, str], account: Invoker | None
) -> HostInput:
    from msgspec.structs import replace

    node = real_path(base + device.node)
    usable = account is None or can_access(
        node, account.uid, account.gid, account.groups, "rw", top=base or "/"
    )
    return replace(device, paths=tuple(p for p, to in real.items() if to == node), usable=usable)
