"""What of a table's screen keys goes to QEMU for the slice that was chosen.

A list of wishes says them for all its wishes, so what one cannot take is left out of that one and
noted; QEMU would end (vfio_realize, hw/vfio/pci.c): `ramfb` and the sizes need a console that is
there, the sizes its EDID too, which only a DMA buffer's console has (hw/vfio/display.c), and
`x-igd-opregion` a region that only Intel's own devices have (hw/vfio/igd.c).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from qlaunch.plan.cards import is_display
from qlaunch.plan.draft import Draft
from qlaunch.plan.vgpu_want import Choice
from qlaunch.profile.vgpu import Vgpu

# Types whose screen is a DMA buffer (VFIO_GFX_PLANE_TYPE_DMABUF), which needs OpenGL to be shown;
# the others' is memory that QEMU copies.
_DMABUF = ("i915-", "mbochs-")
_SAID_OF_VF = "this slice has no screen that QEMU is sure to find"


class Screen(NamedTuple):
    """QEMU's properties of one slice."""

    display: Literal["", "on", "auto"]
    ramfb: bool
    sized: bool  # xres and yres
    opregion: bool | None


def is_dmabuf(choice: Choice) -> bool:
    """Whether the screen of what was chosen is known to be a DMA buffer."""
    return choice.kind == "mdev" and choice.type.startswith(_DMABUF)


def choose_screen(draft: Draft, key: str, table: Vgpu, choice: Choice) -> Screen:
    """As the table says it, as far as the slice can."""
    opregion = _opregion(draft, key, table, choice)
    if not table.display or choice.kind == "vf":
        return Screen("", ramfb=False, sized=False, opregion=opregion)
    sure = choice.kind == "mdev" or not table.any
    if table.ramfb and not sure:
        _left_out(draft, f"{key}.ramfb", _SAID_OF_VF)
    edid = is_dmabuf(choice) or not table.any
    if table.xres is not None and not edid:
        _left_out(draft, f"{key}.xres", "this slice's screen is not known to have an EDID"
                  if sure else _SAID_OF_VF)
    return Screen(
        "on" if choice.kind == "mdev" else "auto", ramfb=table.ramfb and sure,
        sized=table.xres is not None and edid, opregion=opregion,
    )


def _left_out(draft: Draft, where: str, why: str) -> None:
    draft.problem(f"{why}: it is left out", where, severity="note",
                  hint="it is said for another of the wishes")


def _opregion(draft: Draft, key: str, table: Vgpu, choice: Choice) -> bool | None:
    """A virtual function of Intel's graphics has no OpRegion, and QEMU from 10.1 on looks for one
    unless it is told not to."""
    card = draft.facts.device(choice.parent)
    intel = card is not None and is_display(card) and card.id.startswith("8086:")
    off = False if choice.kind == "vf" and intel else None
    if not table.igd_opregion:
        return off if table.igd_opregion is None else False
    unknown = card is None and (draft.facts.pci is None or choice.type.startswith("i915-"))
    if choice.kind == "mdev" and (intel or unknown):
        return True
    text = "only a mediated device of Intel's graphics has an OpRegion"
    if table.any:
        _left_out(draft, f"{key}.igd_opregion", text)
    else:
        draft.problem(text, f"{key}.igd_opregion", found=f"{choice.kind} of {choice.parent}",
                      hint="leave igd_opregion out")
    return off
