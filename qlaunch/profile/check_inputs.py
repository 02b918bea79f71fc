"""Rules about input devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.inputs import Input
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile

_EVDEV_KEYS = ("grab", "grab_keys", "repeat")


def check_inputs(profile: Profile) -> Iterator[Finding]:
    """Each table is a device of the guest's, one of the host's, or both, on a bus that has it."""
    for number, table in enumerate(profile.input):
        for key, problem, also in _faults(table):
            path = ("input", number, key) if key else ("input", number)
            yield Finding(path, problem, tuple(("input", number, name) for name in also))


def _faults(table: Input) -> Iterator[tuple[str, Problem, tuple[str, ...]]]:
    if table.type is None and table.evdev is None:
        yield "", Problem("which input device?", allowed='type = "tablet", …, or evdev = "/dev/…"',
                          hint="ls /dev/input/by-id shows the host's"), ()
    if table.evdev is None:
        for key in _EVDEV_KEYS:
            if getattr(table, key) is not None:
                yield key, Problem("this is for a device of the host's",
                                   hint='evdev = "/dev/input/by-id/…"'), ()
    if table.bus is not None and table.type is None:
        yield "bus", Problem("a bus is for a device of the guest's",
                             hint='type = "keyboard" or another'), ("type",)
    if table.type == "multitouch" and table.bus not in (None, "virtio"):
        yield "bus", Problem("a multitouch screen is a virtio device", found=f'"{table.bus}"',
                             hint="leave bus out"), ("type",)
    if table.type == "tablet" and table.bus == "ps2":
        yield "bus", Problem("there is no PS/2 tablet", found='"ps2"', allowed='"usb", "virtio"'), (
            "type",)
    if table.addr is not None and not (table.bus == "virtio" or table.type == "multitouch"):
        yield "addr", Problem("only a virtio device has a slot of its own",
                              hint='use bus = "virtio"'), ("bus",)


def check_evdev(profile: Profile) -> Iterator[Finding]:
    """A device is handed over once, and one keyboard hands over all."""
    seen: dict[str, int] = {}
    all_of: list[int] = []
    for number, table in enumerate(profile.input):
        if table.evdev is None:
            continue
        first = seen.setdefault(table.evdev, number)
        if first != number:
            yield Finding(
                ("input", number, "evdev"),
                Problem(f"input[{first}] is the same device", found=table.evdev,
                        hint="leave one of the two out"),
                also=(("input", first, "evdev"),),
            )
        if table.grab:
            all_of.append(number)
    for number in all_of[1:]:
        yield Finding(
            ("input", number, "grab"),
            Problem(f"input[{all_of[0]}] hands all devices over already; two would undo each "
                    "other", hint="leave grab out here"),
            also=(("input", all_of[0], "grab"),),
        )


INPUT_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (check_inputs, check_evdev)
