"""Emulated graphics and what shows them: the display type and the card's place.

What needs more than that (OpenGL, passwords, buses, Looking Glass) is in `screen.py`, which is
loaded only for profiles that ask for it.
"""

from __future__ import annotations

from qlaunch.plan.draft import Draft
from qlaunch.profile.display import GL_CARDS, Display

VGA = {
    "std": "VGA", "cirrus": "cirrus-vga", "qxl": "qxl-vga", "virtio": "virtio-vga",
    "virtio-gl": "virtio-vga-gl", "venus": "virtio-vga-gl", "rutabaga": "virtio-vga-rutabaga",
    "ramfb": "ramfb", "bochs": "bochs-display",
}
WINDOWS = ("gtk", "sdl")
_PLAIN_TYPES = ("none", "gtk", "sdl", "vnc", "spice")


def plan_display(draft: Draft) -> None:
    """The display type, the emulated card's place, and what else the screen takes."""
    display = draft.profile.display
    kind, why = choose_display(draft)
    draft.decided["display"], draft.decided["display_why"] = kind, why
    if kind in ("spice", "looking-glass"):
        draft.wants_agent = "display.type"
    if display.vga != "none":
        if display.vga != "ramfb":  # no PCI device
            draft.place("cirrus" if display.vga == "cirrus" else "vga", "vga", "display.vga")
        draft.need(VGA[display.vga], "display.vga")
    plain = kind in _PLAIN_TYPES and display.vga not in GL_CARDS
    if not plain or draft.wants_gl or display != Display(type=display.type, vga=display.vga):
        from qlaunch.plan.screen import plan_screen

        plan_screen(draft, kind)


def choose_display(draft: Draft) -> tuple[str, str]:
    """The display type, and why: a window only where there is a screen and QEMU can draw one.

    Without a screen (a login over SSH, a service) the same profile runs all the same: what would be
    in the window is on a unix socket for a viewer, and that is told.
    """
    wanted = draft.profile.display.type
    qemu = draft.facts.qemu
    have = qemu.displays if qemu else ()
    user = draft.facts.invoker
    named = {"DISPLAY", "WAYLAND_DISPLAY"} & set(draft.profile.qemu.env or ())
    no_screen = not named and (user is None or not user.display)
    if wanted in WINDOWS and have and user is not None and no_screen:
        return _without_screen(draft, wanted, have)
    if wanted != "auto":
        backend = "spice" if wanted == "looking-glass" else wanted
        if have and backend not in have:
            from qlaunch.plan.packages import install_hint

            draft.problem(f"this QEMU cannot show a {backend} display", "display.type",
                          found=f"it has: {', '.join(have)}",
                          hint=install_hint(f"display {backend}"))
        return wanted, "display.type"
    if no_screen:
        return _without_screen(draft, wanted, have)
    for kind in WINDOWS:
        if kind in have:
            return kind, f"rule: {kind} is what this QEMU can open on your screen"
    from qlaunch.plan.packages import install_hint

    draft.problem("this QEMU can open no window; it runs without one", "display.type",
                  hint=install_hint("display gtk"), severity="warning")
    return "none", "rule: this QEMU has no window display"


def _no_screen(draft: Draft) -> str:
    user = draft.facts.invoker
    return (user.no_display if user else "") or "neither DISPLAY nor WAYLAND_DISPLAY is set"


def _without_screen(draft: Draft, wanted: str, have: tuple[str, ...]) -> tuple[str, str]:
    """VNC, else SPICE, which brings devices of its own; nothing, when there is nothing to see."""
    card = draft.profile.display.vga
    if card == "none" and not draft.wants_gl:
        return "none", f"rule: {_no_screen(draft)}, and no emulated card"
    # VNC shows no picture that a GPU has drawn without an emulated card.
    kind = next((k for k in (("spice",) if card == "none" else ("vnc", "spice")) if k in have), "")
    if kind:
        draft.problem(
            f"there is no screen here for a window; its picture is on a {kind.upper()} socket",
            "display.type", found=_no_screen(draft),
            hint=f"qlaunch view '{draft.profile.name}'",
            severity="note" if wanted == "auto" else "warning",
        )
        return kind, f"rule: {_no_screen(draft)}, so {kind} on a socket"
    if have and (card in GL_CARDS or wanted != "auto"):
        from qlaunch.plan.packages import install_hint

        draft.problem(
            "there is no screen here for a window, and this QEMU has no other display",
            "display.type", found=f"it has: {', '.join(have)}",
            hint=install_hint("display spice"),
            severity="error" if card in GL_CARDS else "warning",
        )
    return "none", f"rule: {_no_screen(draft)}"
