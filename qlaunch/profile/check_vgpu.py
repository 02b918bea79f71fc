"""Rules about [[vgpu]] tables: what contradicts what, and the forms of their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlaunch.errors import Problem
from qlaunch.profile.keys import KeyPath
from qlaunch.profile.places import Finding
from qlaunch.profile.profile import Profile
from qlaunch.profile.vgpu import FORMS, Vgpu, Wish, fits_form

_LIST = "qlaunch devices --vgpu lists what this host has"
# Keys of a table that say what to take, and so do not go with a list of wishes.
_CHOICE = ("parent", "type", "memory", "resolution")
# Keys for a mediated device, which a plain virtual function has not.
_MDEV_ONLY = ("type", "memory", "resolution", "uuid", "display")
_VF_ONLY = ("mac", "vlan", "vfs")


def check_forms(profile: Profile) -> Iterator[Finding]:
    """Texts that must have a form."""
    for number, table in enumerate(profile.vgpu):
        yield from _forms(("vgpu", number), table)
        for place, wish in enumerate(table.any):
            yield from _forms(("vgpu", number, "any", place), wish)


def _forms(path: KeyPath, table: Vgpu | Wish) -> Iterator[Finding]:
    for key, (_, form) in FORMS.items():
        text = getattr(table, key, None)
        if text is not None and not fits_form(key, text):
            least = f">={text.lstrip('<>= ')}"
            right = key in ("memory", "resolution") and fits_form(key, least)
            yield Finding((*path, key), Problem(
                "this is not understood", found=f'"{text}"', allowed=form,
                hint=f'write {key} = "{least}"' if right else "",
            ))


def check_wishes(profile: Profile) -> Iterator[Finding]:
    """A wish is for one thing, and a table with wishes says nothing beside them."""
    for number, table in enumerate(profile.vgpu):
        for place, wish in enumerate(table.any):
            named = [k for k in ("pci", "vf", "virtio") if getattr(wish, k) is not None]
            if wish.type or wish.memory or wish.resolution:
                named.append("type")
            if len(named) != 1:
                problem = Problem(
                    "a wish is for one thing", found=", ".join(named) or "nothing",
                    allowed="one of pci, type (or memory, resolution), vf, virtio",
                )
                yield Finding(("vgpu", number, "any", place), problem)
        said = [key for key in _CHOICE if table.any and getattr(table, key) is not None]
        if table.any and table.kind != "auto":
            said.insert(0, "kind")
        for key in said:
            problem = Problem("a table with a list of wishes does not say this as well",
                              hint="put it into the wishes")
            yield Finding(("vgpu", number, key), problem, (("vgpu", number, "any"),))


def check_choice(profile: Profile) -> Iterator[Finding]:
    """It can be told what is wanted."""
    for number, table in enumerate(profile.vgpu):
        if table.any:
            continue
        wanted = table.type or table.memory or table.resolution
        if not wanted and table.kind in ("mdev", "nvidia-vf"):
            problem = Problem("of which type?", allowed='type = "…", memory = ">=512M" or '
                              'resolution = ">=1920x1080"', hint=_LIST)
            yield Finding(("vgpu", number), problem)
        elif not wanted and table.parent is None:
            problem = Problem("a slice of what?", allowed="a type, a parent, or any = [wishes]",
                              hint=_LIST)
            yield Finding(("vgpu", number), problem)


def check_kind(profile: Profile) -> Iterator[Finding]:
    """Keys of one kind are not said of another."""
    for number, table in enumerate(profile.vgpu):
        others: tuple[str, ...] = ()
        of_type = table.type or table.memory or table.resolution
        if table.kind == "vf":
            others = _MDEV_ONLY
        elif table.kind in ("mdev", "nvidia-vf"):
            others = _VF_ONLY if table.kind == "mdev" else (*_VF_ONLY, "uuid")
        elif of_type and not table.any:
            others = _VF_ONLY
        for key in others:
            said = getattr(table, key)
            if said is None or said is False:
                continue
            problem = Problem(f'this is not for kind = "{table.kind}"',
                              hint="leave the key out, or change kind")
            if table.kind == "auto":
                problem = Problem("this is for virtual functions, and those have no type",
                                  hint='name the card alone: parent = "…"')
            yield Finding(("vgpu", number, key), problem, (("vgpu", number, "kind"),))


def check_screen(profile: Profile) -> Iterator[Finding]:
    """What is about the vGPU's screen needs one (hw/vfio/pci.c, vfio_realize)."""
    for number, table in enumerate(profile.vgpu):
        said = ["ramfb"] if table.ramfb else []
        said += [k for k in ("xres", "yres") if getattr(table, k) is not None]
        for key in said:
            if not table.display:
                problem = Problem("this needs the vGPU's screen", hint="set display = true")
                yield Finding(("vgpu", number, key), problem, (("vgpu", number, "display"),))
        if (table.xres is None) != (table.yres is None):
            key = "xres" if table.yres is None else "yres"
            problem = Problem("a width and a height go together",
                              hint="for example xres = 1920 and yres = 1080")
            yield Finding(("vgpu", number, key), problem)


def check_twice(profile: Profile) -> Iterator[Finding]:
    """No two tables with one UUID or MAC, and one that shows the firmware's text: QEMU ends at a
    second file of that name (fw_cfg_add_file_callback)."""
    for key in ("uuid", "mac"):
        seen: dict[str, int] = {}
        for number, table in enumerate(profile.vgpu):
            value = getattr(table, key)
            first = number if value is None else seen.setdefault(value.lower(), number)
            if first != number:
                problem = Problem(f"vgpu[{first}] has the same", found=value,
                                  hint="each slice has its own: uuidgen makes one"
                                  if key == "uuid" else "leave one of the two out")
                yield Finding(("vgpu", number, key), problem, (("vgpu", first, key),))
    texts = [number for number, table in enumerate(profile.vgpu) if table.ramfb]
    if texts and profile.display.vga == "ramfb":
        problem = Problem("the card ramfb shows the firmware's text already", found="ramfb = true",
                          hint='leave it out here, or set display.vga = "none"')
        yield Finding(("vgpu", texts[0], "ramfb"), problem, (("display", "vga"),))
    for number in texts[1:]:
        problem = Problem(f"vgpu[{texts[0]}] shows the firmware's text already",
                          found="ramfb = true", hint="leave it out here")
        yield Finding(("vgpu", number, "ramfb"), problem, (("vgpu", texts[0], "ramfb"),))


def check_cards(profile: Profile) -> Iterator[Finding]:
    """No virtual function with the MAC of one of the machine's emulated cards."""
    macs = {net.mac.lower(): number for number, net in enumerate(profile.net) if net.mac}
    for number, table in enumerate(profile.vgpu):
        first = macs.get((table.mac or "").lower())
        if first is not None:
            problem = Problem(f"net[{first}] has the same MAC address", found=str(table.mac),
                              hint="change it in one of the two, or leave one table out")
            yield Finding(("vgpu", number, "mac"), problem, (("net", first, "mac"),))


VGPU_CHECKS: tuple[Callable[[Profile], Iterator[Finding]], ...] = (
    check_forms, check_wishes, check_choice, check_kind, check_screen, check_twice,
    check_cards,
)
