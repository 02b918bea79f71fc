"""Which of a running machine's devices is meant: by address, profile key or QEMU id.

What leaves a guest leaves it with all functions of its guest slot, and the host resets a card as a
whole; so naming one function means the card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from qlaunch.errors import HostError, Problem, UsageError
from qlaunch.plan.model import PlannedCard
from qlaunch.plan.plugs import PlannedUsb
from qlaunch.run.info import Info
from qlaunch.values import parse_pci_address


class Parts(NamedTuple):
    """Devices of one machine."""

    cards: tuple[PlannedCard, ...] = ()
    usbs: tuple[PlannedUsb, ...] = ()


def named_parts(info: Info, usbs: Sequence[PlannedUsb], words: Iterable[str], verb: str) -> Parts:
    """What the words mean. Raises UsageError for one that means nothing here, HostError for a
    device that cannot leave or come while the guest runs."""
    cards: dict[str, PlannedCard] = {}
    plugs: dict[str, PlannedUsb] = {}
    for word in words:
        found = [c for c in info.cards if word in (c.id, c.key) or _address(word) == c.address]
        sticks = [u for u in usbs if word.lower() in (u.id, u.key, u.name, u.ident, u.serial)]
        if not (found or sticks):
            raise _unknown(info, usbs, word, verb)
        for card in found:
            cards |= {c.id: c for c in _whole(info.cards, card)}
        plugs |= {u.id: u for u in sticks}
    for card in cards.values():
        if card.place.bus == "pcie.0":
            raise HostError(
                Problem(
                    f"{card.address} sits on the guest's bus 0, where nothing is hot-pluggable",
                    where=card.key,
                    hint='only a device on a root port can leave: port = "pcie-root-port" in its '
                    "[[pci]], from the next start on",
                )
            )
    for usb in plugs.values():
        if usb.redirect:
            raise HostError(Problem("this is the viewer's USB device, not the host's",
                                    where=usb.key, hint="the viewer itself plugs it in and out"))
    return Parts(tuple(cards.values()), tuple(plugs.values()))


def _whole(cards: Iterable[PlannedCard], one: PlannedCard) -> list[PlannedCard]:
    """The functions that share a slot with it, in the guest or on the host."""
    return [
        c for c in cards
        if c.address.slot_name == one.address.slot_name or _guest_slot(c) == _guest_slot(one)
    ]


def _guest_slot(card: PlannedCard) -> tuple[str, int]:
    return card.place.bus, card.place.addr.slot if card.place.addr else 0


def _address(word: str) -> str:
    try:
        return parse_pci_address(word)
    except ValueError:
        return ""


def _unknown(
    info: Info, usbs: Sequence[PlannedUsb], word: str, verb: str
) -> UsageError | HostError:
    if word.startswith(("cd", "cdrom[")):
        return UsageError(Problem("a CD is changed, not its drive", where=f"qlaunch {verb}",
                                  found=word, hint=f"qlaunch media '{info.name}'"))
    if word in info.devices:
        return HostError(
            Problem("this part of a device cannot leave a running guest", where=word,
                    hint="it goes back when the machine ends")
        )
    known = [*(c.address for c in info.cards), *(u.name or u.ident or u.id for u in usbs)]
    near = get_close_matches(word, known, n=1)
    return UsageError(
        Problem(
            f"{info.name} has no such device", where=f"qlaunch {verb}", found=word,
            allowed=", ".join(known) or "none of its devices is the host's",
            hint=f"did you mean {near[0]}?" if near else f"qlaunch status '{info.name}'",
        )
    )
