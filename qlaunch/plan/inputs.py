"""Input devices of the guest, and those of the host that feed them (evdev).

QEMU opens an evdev node by path (ui/input-linux.c), so the node is lent to its account; the path
stays as the profile has it, because by-id names outlive a replug.
"""

from __future__ import annotations

from qlaunch.facts.usb_model import HostInput
from qlaunch.plan.draft import Draft
from qlaunch.plan.plugs import PlannedEvdev, PlannedInput
from qlaunch.plan.steps import OwnNode
from qlaunch.profile.inputs import Input
from qlaunch.values import HostPath

DEVICES = {
    ("usb", "tablet"): "usb-tablet", ("usb", "keyboard"): "usb-kbd", ("usb", "mouse"): "usb-mouse",
    ("virtio", "tablet"): "virtio-tablet-pci", ("virtio", "keyboard"): "virtio-keyboard-pci",
    ("virtio", "mouse"): "virtio-mouse-pci", ("virtio", "multitouch"): "virtio-multitouch-pci",
}
_KEYS = "ctrl-ctrl"  # QEMU's own default
_NODES = "ls -l /dev/input/by-id"


def plan_inputs(draft: Draft) -> None:
    """The guest's devices in profile order, then what feeds them."""
    devices = []
    counts = {"usb": 0, "virtio": 0}
    for index, table in enumerate(draft.profile.input):
        device = DEVICES.get((bus_of(table), table.type or ""))
        if device is None:
            continue  # evdev alone, or PS/2, which is there
        key, ident = f"input[{index}].type", f"input{index}"
        draft.need(device, key)
        bus = bus_of(table)
        number = counts[bus]
        counts[bus] += 1
        where = draft.usb_place("input", ident, key, index=number) if bus == "usb" else (
            draft.place("input", ident, f"input[{index}]", index=number, addr=table.addr)
        )
        devices.append(PlannedInput(id=ident, key=key, device=device, place=where))
    draft.decided["inputs"] = tuple(devices)
    draft.decided["evdevs"] = _evdevs(draft)


def bus_of(table: Input) -> str:
    """The bus, with its default."""
    return table.bus or ("virtio" if table.type == "multitouch" else "usb")


def _evdevs(draft: Draft) -> tuple[PlannedEvdev, ...]:
    tables = [(n, t, t.evdev) for n, t in enumerate(draft.profile.input) if t.evdev is not None]
    found = {n: _host_input(draft, path) for n, _, path in tables}
    keyboards = [n for n, table, path in tables if _is_keyboard(found[n], path)]
    first = keyboards[0] if len(tables) > 1 and keyboards else None
    if any(table.grab is not None for n, table, _ in tables if n in keyboards):
        first = None
    planned = []
    for n, table, path in tables:
        key = f"input[{n}].evdev"
        _check(draft, key, path, found[n])
        if table.grab and n not in keyboards:
            draft.problem("grab keys are pressed on a keyboard, and this is none",
                          f"input[{n}].grab", found=path, hint="set grab = true for the keyboard")
        repeat = table.repeat if table.repeat is not None else n in keyboards
        planned.append(PlannedEvdev(
            id=f"evdev{n}", key=key, path=path, grab_all=bool(table.grab) or n == first,
            grab_keys=table.grab_keys, repeat=repeat,
            why=key + ("; rule: the first keyboard's grab keys move all" if n == first else ""),
        ))
    if tables and not keyboards:
        draft.problem(
            "no keyboard is handed over, so no key brings these back",
            f"input[{tables[0][0]}].evdev", severity="warning",
            hint="hand a keyboard over too, or have another way in (SSH)",
        )
    _check_only_keyboard(draft, [(n, t) for n, t, _ in tables if n in keyboards], found)
    return tuple(planned)


def _host_input(draft: Draft, path: str) -> HostInput | None:
    return next((i for i in draft.facts.inputs or () if path in i.paths), None)


def _is_keyboard(found: HostInput | None, path: str) -> bool:
    """By its keys; by udev's name for it when nobody looked."""
    return found.kind == "keyboard" if found else path.endswith("-kbd")


def _check(draft: Draft, key: str, path: str, found: HostInput | None) -> None:
    """Whether QEMU can read it; a node that its account may not open is lent to it."""
    file = draft.facts.file(path)
    if draft.facts.inputs is None or file is None:
        return
    if file.kind == "missing":
        draft.problem("no such input device", key, found=path, hint=_NODES)
    elif found is None:
        draft.problem("this is no input device with events", key, found=f"{path}: {file.kind}",
                      hint=_NODES)
    elif not found.usable:
        who = draft.account or draft.facts.invoker
        draft.steps.append(OwnNode(
            path=HostPath(found.node), uid=who.uid if who else 0, gid=who.gid if who else 0,
            why=f"{key}; rule: QEMU opens input devices by itself",
        ))


def _check_only_keyboard(
    draft: Draft, handed: list[tuple[int, Input]], found: dict[int, HostInput | None]
) -> None:
    """All keyboards of the host go to the guest at its start: say what brings them back."""
    nodes = {i.node for i in draft.facts.inputs or () if i.kind == "keyboard" and not i.is_virtual}
    given = {device.node for n, _ in handed if (device := found[n]) is not None}
    if nodes and nodes <= given:
        n, table = handed[0]
        draft.problem(
            "the host has no other keyboard: while the guest has it, only its grab keys bring it "
            "back", f"input[{n}].evdev", found=table.grab_keys or _KEYS, severity="warning",
            hint="press them together; have another way in (SSH) before the first try",
        )
