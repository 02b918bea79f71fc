"""Which slice of which device each [[vgpu]] table gets, and which of its wishes comes true.

Done before anything else is planned, because a wish may turn out to be a whole device ([[pci]]) or
an emulated card ([display] vga): then the profile that is planned says so.
"""

from __future__ import annotations

from msgspec.structs import replace

from qlaunch.errors import Problem
from qlaunch.facts.model import PciDevice
from qlaunch.plan.draft import Draft
from qlaunch.plan.vgpu_gvt import check_refused, gvt_card, is_gvt
from qlaunch.plan.vgpu_mdev import find_mdev, fits, parents_of
from qlaunch.plan.vgpu_nvidia import find_nvidia
from qlaunch.plan.vgpu_try import find_fault, given_whole
from qlaunch.plan.vgpu_vf import find_vf
from qlaunch.plan.vgpu_want import LIST, ONE_OF_TWO, Choice, Taken, Want, is_named, want_of
from qlaunch.profile.pci import Pci
from qlaunch.profile.profile import Profile
from qlaunch.profile.vgpu import Vgpu, Wish
from qlaunch.values import PciAddress, PciSelector


def choose_vgpus(draft: Draft, uuid_of: dict[int, str]) -> None:
    """Fill `draft.vgpus` (table's number → choice), and change `draft.profile` for wishes that are
    no slice. What cannot be had is a problem of its table."""
    info = draft.facts.vgpu
    claims = {k: v for k, v in info.claims.items() if v != draft.profile.name} if info else {}
    taken = Taken(claims=claims, cards=given_whole(draft, draft.profile))
    for number, table in enumerate(draft.profile.vgpu):
        if table.any:
            _first_wish(draft, number, table, uuid_of[number], taken)
            continue
        want = want_of(table, uuid_of[number], draft, table.kind)
        found = _faultless(draft, number, want, taken)
        if isinstance(found, Problem):
            # Planned with the best one, whose fault is told in its place.
            found = choose(draft, want, taken)
        if isinstance(found, Problem):
            draft.problems.append(found._replace(where=f"vgpu[{number}]"))
            if want.kind in ("auto", "mdev") and want.of_type:
                check_refused(draft, f"vgpu[{number}]", [want])
        else:
            taken.add(found)
            draft.vgpus[number] = found


def choose(draft: Draft, want: Want, taken: Taken) -> Choice | Problem:
    """The best slice of any kind that the want allows."""
    facts, info = draft.facts, draft.facts.vgpu
    if info is None:
        return _as_written(want, taken)
    if want.kind == "auto" and not want.of_type:
        makers = parents_of(want, facts, info)
        if makers:
            return Problem(
                f"a slice of which type? {makers[0].name} makes several",
                found=", ".join(t.id for t in makers[0].types), allowed='type = "…", memory = '
                '">=512M" or resolution = ">=1920x1080"', hint=LIST,
            )
    kinds = (want.kind,) if want.kind != "auto" else (
        ("mdev", "nvidia-vf") if want.of_type else ("vf",)
    )
    finders = {"mdev": find_mdev, "vf": find_vf, "nvidia-vf": find_nvidia}
    problems: list[Problem] = []
    for kind in kinds:
        found = finders[kind](want, facts, info, taken)
        if isinstance(found, Choice):
            return found
        problems.append(found)
    # Of two refusals the one that is about what there is.
    known = any(fits(kind, want) for parent in info.parents for kind in parent.types)
    known = known or (is_gvt(want.type or "") and gvt_card(want, facts, info) is not None)
    return problems[1] if len(problems) > 1 and info.nvidia and not known else problems[0]


def _as_written(want: Want, taken: Taken) -> Choice | Problem:
    """Nobody looked at the host: what the profile says is what there is."""
    if want.kind == "mdev" or (want.kind == "auto" and want.of_type):
        return Choice(kind="mdev", parent=want.parent or "", type=want.type or "")
    if not want.parent or "." not in want.parent:
        return Problem(
            "which virtual function this is cannot be told: nobody looked what this host has",
            found=want.parent or "", hint="qlaunch facts --json > FILE writes all that is known",
        )
    address = PciAddress(want.parent)
    if taken.has(address):
        return Problem("this virtual function is another table's", found=address, hint=LIST)
    return Choice(
        kind="nvidia-vf" if want.kind == "nvidia-vf" else "vf", parent=address,
        type=want.type or "", address=address,
    )


def _first_wish(draft: Draft, number: int, table: Vgpu, uuid: str, taken: Taken) -> None:
    """Grant the first wish that can be, and tell why those before it were not."""
    key = f"vgpu[{number}].any"
    refused: list[str] = []
    hint = LIST
    for place, wish in enumerate(table.any):
        reason = _grant(draft, number, wish, uuid, taken)
        if reason is None:
            if refused:
                draft.problem(f"wish {place + 1} was granted: {wish_text(wish)}", key,
                              found="; ".join(refused), severity="note")
            return
        refused.append(f"{wish_text(wish)}: {_short(reason)}")
        hint = reason.hint or hint  # the last one's: what most hosts could give
    draft.problem("this host can give none of these", key, found="; ".join(refused), hint=hint)
    wants = (want_of(wish, uuid, draft) for wish in table.any)
    check_refused(draft, key, [want for want in wants if want.of_type])


def wish_text(wish: Wish) -> str:
    """As the profile says it."""
    said = ((k, getattr(wish, k)) for k in wish.__struct_fields__)
    return ", ".join(f'{key} = "{value}"' for key, value in said if value is not None)


def _grant(draft: Draft, number: int, wish: Wish, uuid: str, taken: Taken) -> Problem | None:
    """None when the wish is granted, else why not."""
    if wish.pci is not None:
        return _grant_card(draft, wish, taken)
    if wish.virtio is not None:
        return _grant_virtio(draft, wish, taken)
    table = draft.profile.vgpu[number]
    want = want_of(wish, uuid, draft, "vf" if wish.vf else "auto")
    found = _faultless(draft, number, replace(want, vfs=table.vfs), taken)
    if isinstance(found, Problem):
        return found
    taken.add(found)
    draft.vgpus[number] = found
    return None


def _faultless(draft: Draft, number: int, want: Want, taken: Taken) -> Choice | Problem:
    """The best slice that can be planned without a fault; where none can, why the best cannot.

    Instances of a type are alike; virtual functions are not (their groups, what is on them).
    """
    passed = taken.copy()
    first: Problem | None = None
    found = choose(draft, want, passed)
    while isinstance(found, Choice):
        fault = find_fault(draft, draft.profile, {**draft.vgpus, number: found})
        if fault is None:
            return found
        first = first or fault
        if found.address is None or found.address in passed.functions:
            break
        passed.functions.add(found.address)  # it is not to be had, and takes nothing of its card
        found = choose(draft, want, passed)
    return first or found


def _short(problem: Problem) -> str:
    return f"{problem.message} ({problem.found})" if problem.found else problem.message


def _grant_card(draft: Draft, wish: Wish, taken: Taken) -> Problem | None:
    """A whole device: the first of its id that is there and can leave the host."""
    assert wish.pci is not None  # noqa: S101 - for the type checker
    if draft.facts.pci is None:
        _hand_over(draft, _with_card(draft.profile, wish.pci), taken)
        return None
    named = [d for d in draft.facts.pci if is_named(d, wish.pci)]
    # NVIDIA's virtual functions have their card's id, and are no whole devices.
    found = [d for d in named if not d.physfn] or named
    refused: list[Problem] = []
    for device in found:
        # By its address where the id means several.
        selector = wish.pci if len(named) == 1 else PciSelector(device.address)
        wished = _with_card(draft.profile, selector)
        fault = _not_ours(draft, device, taken) or find_fault(draft, wished)
        if fault is None:
            _hand_over(draft, wished, taken)
            return None
        refused.append(fault)
    if not refused:
        return Problem("this host has no such device", hint="qlaunch devices lists what it has")
    if len(refused) == 1:
        return refused[0]
    return Problem(
        f"none of the {len(found)} such devices can be had", hint=refused[0].hint,
        found="; ".join(f"{d.address}: {_short(p)}" for d, p in zip(found, refused, strict=True)),
    )


def _with_card(profile: Profile, device: PciSelector) -> Profile:
    return replace(profile, pci=(*profile.pci, Pci(device=device, functions="all")))


def _hand_over(draft: Draft, profile: Profile, taken: Taken) -> None:
    """The profile with one card more is the machine's."""
    draft.profile, taken.cards = profile, given_whole(draft, profile)


def _not_ours(draft: Draft, device: PciDevice, taken: Taken) -> Problem | None:
    """Another table of this machine has it or slices of it, or another machine."""
    if taken.has(device.address) or any(is_named(device, p.device) for p in draft.profile.pci):
        return Problem("it is another table's")
    if any(device.address in (c.parent, c.address) for c in draft.vgpus.values()):
        return Problem("another table has a slice of it", hint=ONE_OF_TWO)
    if device.address in taken.claims:
        return Problem(f"it is in use by the machine {taken.claims[device.address]}")
    return None


def _grant_virtio(draft: Draft, wish: Wish, taken: Taken) -> Problem | None:
    """An emulated card that the host's GPU draws for, where this QEMU and host can."""
    if taken.emulated:
        return Problem("it is another table's: a machine has one such card")
    wished = with_virtio(draft.profile, wish)
    from qlaunch.profile.check_display import check_gl

    for finding in check_gl(wished):  # what the profile's reader says of such a card
        return finding.problem
    fault = find_fault(draft, wished)
    if fault is None:
        draft.profile, taken.emulated = wished, True
    return fault


def with_virtio(profile: Profile, wish: Wish) -> Profile:
    """The profile with the wish's emulated card."""
    assert wish.virtio is not None  # noqa: S101 - for the type checker
    return replace(profile, display=replace(profile.display, vga=wish.virtio))
