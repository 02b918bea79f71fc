"""What a slice needs of the host and of the machine's other keys, told before anything is made."""

from __future__ import annotations

from qlaunch.facts.model import PciDevice
from qlaunch.plan.cards import is_display
from qlaunch.plan.draft import Draft
from qlaunch.plan.takeover import check_device, check_iommu, may_stay
from qlaunch.plan.vgpu_gvt import check_host
from qlaunch.plan.vgpu_screen import is_dmabuf
from qlaunch.plan.vgpu_vf import count_of, is_network
from qlaunch.plan.vgpu_want import Choice
from qlaunch.profile.vgpu import Vgpu


def check_slice(draft: Draft, key: str, table: Vgpu, choice: Choice) -> None:
    """All rules for one table."""
    _check_cirrus(draft, key)
    if choice.kind == "mdev":
        _check_screen(draft, key, table, choice)
        if choice.type.startswith("i915-"):
            _check_gvt(draft, key, table)
        return
    check_iommu(draft, key)
    if choice.kind == "nvidia-vf":
        if table.display:
            said = [k for k in ("ramfb", "xres", "yres") if getattr(table, k) and not table.any]
            draft.problem("whether NVIDIA's driver gives this vGPU a console is known at the start "
                          "only", f"{key}.display", severity="note",
                          hint=f"drop {', '.join(said)} when QEMU says that display is not on"
                          if said else "without one there is no picture of it here")
        return
    if table.display:
        draft.problem("a virtual function has no screen that QEMU could show", f"{key}.display",
                      hint="it is left out; a second [display] vga card shows the guest's start",
                      severity="warning")
    _check_function(draft, key, choice)
    _check_count(draft, key, table, choice)
    _check_network(draft, key, table, choice)


def _check_cirrus(draft: Draft, key: str) -> None:
    """A guest with a vGPU behind its Cirrus card crashes."""
    own, vga = draft.places[f"vgpu{key[5:-1]}"], draft.places.get("vga")
    if draft.profile.display.vga != "cirrus" or vga is None or own.bus != vga.bus:
        return
    if own.addr and vga.addr and own.addr > vga.addr:
        draft.problem(
            "a vGPU behind a Cirrus card crashes the guest", f"{key}.addr",
            found=f"slot {own.addr}, Cirrus at {vga.addr}",
            hint='give it a lower addr, or the machine another vga',
        )


def _check_screen(draft: Draft, key: str, table: Vgpu, choice: Choice) -> None:
    if not table.display or not is_dmabuf(choice) or _draws_with_gl(draft):
        return
    shown = str(draft.decided.get("display", draft.profile.display.type))
    draft.problem(
        "this vGPU's screen is a DMA buffer, and only a display with OpenGL can show it",
        f"{key}.display", found=f'display.type = "{shown}"',
        hint='set display.type = "gtk", "sdl", "spice" or "egl-headless"; '
        "or display = false, and look at the guest from the network",
    )


def _draws_with_gl(draft: Draft) -> bool:
    """Whether the display that was decided on has OpenGL."""
    screen = draft.decided.get("screen")
    return screen is not None and screen.gl not in ("", "off")


def _check_gvt(draft: Draft, key: str, table: Vgpu) -> None:
    check_host(draft, key)
    if table.display and table.igd_opregion is None:
        draft.problem(
            "without Intel's OpRegion the guest's driver finds no screen", f"{key}.igd_opregion",
            hint="set igd_opregion = true", severity="warning",
        )


def _check_function(draft: Draft, key: str, choice: Choice) -> None:
    """A function that is there already can be looked at: who uses it, and with whom it shares."""
    device = draft.facts.device(choice.address or "")
    if device is None:
        return
    check_device(draft, device, key)
    others = [
        m for m in draft.facts.group(device.iommu_group)
        if not m.is_bridge and m.address != device.address and not may_stay(m)
    ] if device.iommu_group is not None else []
    if others:
        draft.problem(
            f"IOMMU group {device.iommu_group} of {device.address} also holds "
            f"{', '.join(m.address for m in others)}", key,
            found="; ".join(f"{m.address} [{m.id}] on {m.driver}" for m in others),
            hint="the port above it has no ACS; try another slot of the board",
        )


def _check_count(draft: Draft, key: str, table: Vgpu, choice: Choice) -> None:
    """More than the card can have; another count than it has cannot be set while one is on."""
    card = draft.facts.device(choice.parent)
    if card is None:
        return
    total, now = card.sriov_total or 0, card.sriov_count or 0
    count = count_of(draft.vgpus.values(), choice.parent)
    if not now and is_network(card):
        _check_link(draft, key, card, count)
    if table.vfs is None:
        if is_display(card) and not now and 1 < total == count:
            draft.problem(
                f"all {total} virtual functions of {card.address} are switched on, and each has "
                f"that part of the card's memory", f"{key}.vfs", severity="warning",
                hint="vfs = 2 switches on two, with half of it each",
            )
    elif table.vfs > total:
        draft.problem(f"{card.address} can have {total} virtual functions", f"{key}.vfs",
                      found=str(table.vfs), allowed=f"1 to {total}")
    elif now and now != table.vfs:
        draft.problem(f"{now} virtual functions of {card.address} are on, and stay so many",
                      f"{key}.vfs", found=str(table.vfs), severity="note",
                      hint="the count can change when none is on")
    elif not now and count > table.vfs:
        draft.problem(f"{count} virtual functions of {card.address} are switched on, because other "
                      "tables want more", f"{key}.vfs", found=str(table.vfs), severity="note",
                      hint="say one number in all tables of this card")


def _check_link(draft: Draft, key: str, card: PciDevice, count: int) -> None:
    """Drivers start a card's queues anew for its virtual functions, and the link goes down and up.
    Told by the first table of a card."""
    first = next(n for n, c in draft.vgpus.items() if c.parent == card.address)
    used = [h.what for h in card.holders or () if h.kind in ("link", "route")]
    if used and key == f"vgpu[{first}]":
        draft.problem(
            f"{card.address} carries {used[0]}; its link may be down for a moment when its virtual "
            "functions are switched on", key, severity="warning",
            hint=f"echo {count} | sudo tee /sys/bus/pci/devices/{card.address}/sriov_numvfs does "
            "that beforehand, at a time of your choice",
        )


def _check_network(draft: Draft, key: str, table: Vgpu, choice: Choice) -> None:
    card = draft.facts.device(choice.parent)
    said = [k for k in ("mac", "vlan") if getattr(table, k) is not None]
    if card is None or not said or is_network(card):
        return
    draft.problem(f"{card.address} is no network card, and its functions have no {said[0]}",
                  f"{key}.{said[0]}", hint="drop it, or name a network card")
