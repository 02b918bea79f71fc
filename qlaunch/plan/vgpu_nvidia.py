"""Choosing a virtual function of NVIDIA's and the vGPU type that is made on it.

What a card can make shrinks with what is made: `creatable_vgpu_types` lists what fits now, and of a
card that is shared by time, types of one size only, unless it was set to mixed sizes. What other
tables of the same machine are to be given is not in those files yet, so it is counted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qlaunch.errors import Problem
from qlaunch.facts.model import HostFacts
from qlaunch.facts.vgpu_model import NvidiaType, NvidiaVf, VgpuFacts
from qlaunch.plan.vgpu_want import (
    AFTER_CRASH,
    LIST,
    ONE_OF_TWO,
    WHOLE,
    Choice,
    Taken,
    Want,
    is_far,
    is_named,
    left_by,
    near_name,
    user_of,
)
from qlaunch.values import PciAddress

_Fit = tuple[NvidiaVf, NvidiaType]
# Types of a MIG instance (A100-1-5C): which ones are listed does not tell what the card has.
_MIG = re.compile(r"-[0-9]+-[0-9]+[A-Z]")
_LIKE_NVIDIAS = re.compile(r"(nvidia-)?[0-9]+|.*-[0-9]+[A-Z]+[0-9]?")


def find_nvidia(want: Want, facts: HostFacts, info: VgpuFacts, taken: Taken) -> Choice | Problem:
    """A virtual function on which the type can be made. One that has a vGPU is somebody's, also
    when nobody has it open: it is taken only when the profile names it, and holders were looked
    for."""
    known = [v for v in info.nvidia if _is_nvidia(v, want, facts)]
    if not known:
        return Problem(
            "this host has no such virtual function with NVIDIA's vGPU files",
            hint="NVIDIA's vGPU host driver on kernel 6.8 or newer makes them, once "
            "/usr/lib/nvidia/sriov-manage -e ALL has switched the functions on",
        )
    if any(want.pixels):
        return Problem(
            "NVIDIA's files do not say what resolution a type has", allowed=str(want),
            found=", ".join(sorted({t.name for v in known for t in v.creatable})),
            hint='leave resolution out: name the type, or wish for memory = ">=4G"',
        )
    names = {t.number: t for v in info.nvidia for t in v.creatable}
    has = {v.address: names.get(v.current) or NvidiaType(v.current, f"type {v.current}")
           for v in known if v.current}
    fitting = [(v, t) for v in known for t in v.creatable if _fits(t, want)]
    named = [v for v in known if v.current and v.address == want.parent]  # made by hand
    fitting += [(v, has[v.address]) for v in named if _fits(has[v.address], want)]
    free = [(v, t) for v, t in fitting if _is_free(v, want, facts, taken)]
    if not free:
        return _none_free(want, known, has, facts, info, taken)
    room = [fit for fit in free if not _is_over(fit, facts, info, taken, sure=True)]
    if not room:
        return _no_room(want, free, facts, info, taken)

    def rank(fit: _Fit) -> tuple[bool, bool, bool, int, float, str]:
        function, kind = fit
        return (
            is_far(facts.device(function.address), want),
            _is_over(fit, facts, info, taken, sure=False), _is_mixed(fit, facts, taken),
            kind.memory or 0, _load(function, facts, info, taken), function.address,
        )

    function, kind = best = min(room, key=rank)
    device = facts.device(function.address)
    count = len({v.address for v, _ in room})
    beside = ""
    if _is_mixed(best, facts, taken):
        beside = ", beside this machine's other type if the card makes more than one"
    return Choice(
        kind="nvidia-vf", parent=device.physfn or "" if device else "", type=kind.name,
        address=function.address, number=kind.number, memory=kind.memory or 0,
        existing=function.current == kind.number,
        free=f"rule: {count} functions can be given it{beside}",
    )


def _none_free(
    want: Want, known: list[NvidiaVf], has: dict[PciAddress, NvidiaType], facts: HostFacts,
    info: VgpuFacts, taken: Taken,
) -> Problem:
    makes = sorted({t.name for v in known for t in v.creatable})
    found = f"what can be made: {', '.join(makes) or 'nothing'}"
    if want.type and not _LIKE_NVIDIAS.fullmatch(want.type):
        return Problem("no device of this host makes such a vGPU", found=found, allowed=str(want),
                       hint=near_name(want.type, makes) or LIST)
    cards = {_card(v, facts) for v in known}
    if cards <= taken.cards:
        return Problem(
            "no virtual function can be given this type", allowed=str(want),
            found="; ".join(f"{card} {WHOLE}" for card in sorted(cards)),
            hint=ONE_OF_TWO,
        )
    busy = [f"{v.address} has {has[v.address].name}" for v in known if v.current]
    left, remedy = left_by([v.address for v in known if v.current], info)
    return Problem(
        "no virtual function can be given this type now", allowed=str(want),
        found="; ".join([found, *busy, *filter(None, [left])]),
        hint=remedy or near_name(want.type, makes) or "end a machine with a vGPU of this card; its "
        f"other vGPUs decide what it can make; {AFTER_CRASH}",
    )


def _no_room(
    want: Want, free: list[_Fit], facts: HostFacts, info: VgpuFacts, taken: Taken
) -> Problem:
    """This machine's own tables want more than there is."""
    cards = sorted({_card(v, facts) for v, _ in free})
    return Problem(
        "no card has room for this beside the machine's other vGPUs", allowed=str(want),
        found="; ".join(
            f"{card} has {_largest(card, facts, info) >> 30}G, and is to make "
            f"{', '.join(c.type for c in _made(card, taken))}" for card in cards
        ),
        hint="take smaller types, or leave a table out",
    )


def _is_over(
    fit: _Fit, facts: HostFacts, info: VgpuFacts, taken: Taken, *, sure: bool
) -> bool:
    """Whether this machine's vGPUs of the card would then have more memory than the card.

    What a card can make at most is as much as it has left; of one that has made nothing it is the
    whole, because each card that is shared by time has a type with all of its memory (NVIDIA's
    vGPU guide, "Supported GPUs"). Elsewhere more may be left, and it is a guess.
    """
    function, kind = fit
    card = _card(function, facts)
    own = sum(c.memory for c in _made(card, taken))
    if not own or function.current == kind.number:
        return False
    if sure and not _is_idle(card, facts, info):
        return False
    return own + (kind.memory or 0) > _largest(card, facts, info)


def _is_idle(card: str, facts: HostFacts, info: VgpuFacts) -> bool:
    """Whether nothing is made of a card, and what it lists is not of MIG instances."""
    return all(
        not v.current and all(t.memory and not _MIG.search(t.name) for t in v.creatable)
        for v in _mates(card, facts, info)
    )


def _largest(card: str, facts: HostFacts, info: VgpuFacts) -> int:
    return max((t.memory or 0 for v in _mates(card, facts, info) for t in v.creatable), default=0)


def _is_mixed(fit: _Fit, facts: HostFacts, taken: Taken) -> bool:
    """Whether this machine is to have another type of the same card."""
    function, kind = fit
    return any(c.number != kind.number for c in _made(_card(function, facts), taken))


def _made(card: str, taken: Taken) -> list[Choice]:
    """What is to be made of a card for this machine."""
    return [c for c in taken.of_card.get(card, ()) if not c.existing]


def _card(function: NvidiaVf, facts: HostFacts) -> str:
    """The physical function; the virtual one itself where that is not known."""
    device = facts.device(function.address)
    return device.physfn or function.address if device else function.address


def _mates(card: str, facts: HostFacts, info: VgpuFacts) -> Iterator[NvidiaVf]:
    return (v for v in info.nvidia if _card(v, facts) == card)


def _is_nvidia(function: NvidiaVf, want: Want, facts: HostFacts) -> bool:
    device = facts.device(function.address)
    above = facts.device(device.physfn) if device and device.physfn else None
    named = (d for d in (device, above) if d is not None)
    return want.parent is None or any(is_named(d, want.parent) for d in named)


def _fits(kind: NvidiaType, want: Want) -> bool:
    if want.type is not None and want.type not in (str(kind.number), kind.name):
        return kind.name.endswith(f" {want.type}")
    return (kind.memory or 0) >= want.bytes


def _is_free(function: NvidiaVf, want: Want, facts: HostFacts, taken: Taken) -> bool:
    device = facts.device(function.address)
    if taken.has(function.address) or _card(function, facts) in taken.cards:
        return False
    if function.address in taken.claims or user_of(device):
        return False
    looked = device is not None and device.holders is not None
    return function.current == 0 or (looked and function.address == want.parent)


def _load(function: NvidiaVf, facts: HostFacts, info: VgpuFacts, taken: Taken) -> float:
    """How much of the physical function's virtual ones have a vGPU, or will."""
    mates = list(_mates(_card(function, facts), facts, info))
    used = sum(v.current != 0 or taken.has(v.address) or v.address in taken.claims for v in mates)
    return used / len(mates)
