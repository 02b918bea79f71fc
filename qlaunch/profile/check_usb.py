"""Rules about USB devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile

_NAMING = ("device", "port", "serial")


def check_usb_devices(profile: Profile) -> Iterator[Finding]:
    """Each table names a device of the host's, or is a channel for a viewer's."""
    seen: dict[tuple[str, ...], int] = {}
    for number, usb in enumerate(profile.usb):
        named = tuple((getattr(usb, key) or "").lower() for key in _NAMING)
        if usb.redirect:
            for key in (*_NAMING, "optional"):
                if getattr(usb, key):
                    yield Finding(
                        ("usb", number, key),
                        Problem("a channel for a viewer's device names none of the host's",
                                hint="two [[usb]] tables, one for each"),
                        also=(("usb", number, "redirect"),),
                    )
            continue
        if not any(named):
            yield Finding(
                ("usb", number),
                Problem("which USB device?", allowed="device, port or serial; or redirect = true",
                        hint='device = "046d:c52b" as lsusb shows it'),
            )
            continue
        first = seen.setdefault(named, number)
        if first != number:
            yield Finding(
                ("usb", number),
                Problem(f"usb[{first}] is the same device", hint="leave one of the two out"),
                also=(("usb", first),),
            )


def check_usb_redirect(profile: Profile) -> Iterator[Finding]:
    """A viewer hands devices over by SPICE."""
    for number, usb in enumerate(profile.usb):
        if usb.redirect and profile.display.type not in ("spice", "looking-glass"):
            yield Finding(
                ("usb", number, "redirect"),
                Problem("only SPICE viewers hand over USB devices",
                        found=f'display.type = "{profile.display.type}"',
                        hint='set display.type = "spice"'),
                also=(("display", "type"),),
            )


USB_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_usb_devices, check_usb_redirect,
)
