"""USB: the controller of the guest's era, and the host's devices that go behind it.

A device is opened by the launcher where QEMU's account may not, and QEMU is given the open node
(usb-host,hostdevice=, which goes to libusb_wrap_sys_device); a replug makes another node, which the
launcher hands over while the guest runs (vm/replug.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from qlaunch.facts.usb_model import UsbDevice
from qlaunch.plan.draft import Draft
from qlaunch.plan.model import Place
from qlaunch.plan.plugs import PlannedUsb, PlannedUsbBus
from qlaunch.plan.steps import LendUsb
from qlaunch.plan.usbports import HUBS, usb_model
from qlaunch.profile.usb import Usb
from qlaunch.values import GuestSlot

COMPANIONS = (("usb-uhci1", 0), ("usb-uhci2", 2), ("usb-uhci3", 4))  # id, first port
_LIST = "lsusb -t shows the ports, lsusb -v the serial numbers"


def plan_controller(draft: Draft) -> None:
    """The controller, once something is plugged into it or the profile names it."""
    wanted = draft.profile.machine.usb
    if wanted == "none":
        draft.problem("this is plugged into USB, and the machine has none", draft.wants_usb,
                      found='machine.usb = "none"', hint="drop that key: the era decides then")
        return
    model = usb_model(draft)
    why = "machine.usb" if wanted else (
        f"{draft.wants_usb}; rule: {draft.profile.guest} guests have a driver for {model}"
    )
    device = {"xhci": "qemu-xhci", "ehci": "ich9-usb-ehci1",
              "uhci": "piix3-usb-uhci" if draft.is_pc else "ich9-usb-uhci1"}[model]
    key = "machine.usb" if wanted else draft.wants_usb
    if model == "ehci":
        _ehci(draft, key)
    else:
        draft.place("usb", "usb", key)
    draft.need(device, key)
    if draft.usb_hub:
        draft.need("usb-hub", draft.usb_hub)
    draft.decided["usb_bus"] = PlannedUsbBus(
        model=model, device=device, why=why, hub=HUBS[model] if draft.usb_hub else "",
        hub_why=f"{draft.usb_hub}; rule: slow devices share a hub" if draft.usb_hub else "",
    )


def _ehci(draft: Draft, key: str) -> None:
    """EHCI takes fast devices only; three UHCI companions in its slot take the others."""
    first = draft.place("usb", COMPANIONS[0][0], key)
    slot = GuestSlot(str(first.addr)).slot
    for number, name in ((1, COMPANIONS[1][0]), (2, COMPANIONS[2][0]), (7, "usb")):
        addr = draft.slots.reserve(GuestSlot(f"{slot:02x}.{number}"), key)
        draft.places[name] = Place(draft.bus, addr)
    draft.need("ich9-usb-uhci1", key)


def plan_usb(draft: Draft) -> None:
    """The [[usb]] tables, in their order."""
    taken: dict[str, str] = {}
    devices = []
    for index, table in enumerate(draft.profile.usb):
        key = f"usb[{index}]"
        if table.redirect:
            devices.append(_redirect(draft, index, table))
            continue
        draft.need("usb-host", key)
        found = _find(draft, key, table)
        if found is not None:
            first = taken.setdefault(found.name, key)
            if first != key:
                draft.problem(f"{first} is the same device", key, found=str(found),
                              hint="tell them apart by port or serial")
        devices.append(_device(draft, index, table, found))
    draft.decided["usbs"] = tuple(devices)


def _redirect(draft: Draft, index: int, table: Usb) -> PlannedUsb:
    key = f"usb[{index}].redirect"
    draft.need("usb-redir", key)
    if draft.decided.get("display") not in ("spice", "looking-glass"):
        draft.problem("only SPICE viewers hand over USB devices", key,
                      found=f"display.type is {draft.decided.get('display')}",
                      hint='set display.type = "spice"')
    return PlannedUsb(id=f"usbdev{index}", key=key, redirect=True, boot=table.boot,
                      place=_place(draft, index, redirect=True))


def _place(draft: Draft, index: int, *, redirect: bool = False) -> Place:
    before = sum(table.redirect == redirect for table in draft.profile.usb[:index])
    return draft.usb_place("redirect" if redirect else "usb", f"usbdev{index}", f"usb[{index}]",
                           index=before)


def _device(draft: Draft, index: int, table: Usb, found: UsbDevice | None) -> PlannedUsb:
    key = f"usb[{index}]"
    ident = (table.device or "").lower()
    lent = draft.account is not None or (found is not None and not found.usable)
    if lent:
        draft.steps.append(
            LendUsb(name=table.port or "", id=ident, serial=table.serial or "", why=key)
        )
    return PlannedUsb(
        id=f"usbdev{index}", key=key, name=table.port or "", ident=ident,
        serial=table.serial or "", node=found.node if found else "", boot=table.boot,
        fd=draft.fd("file", found.node) if found and draft.account is not None else None,
        lent=draft.account is not None, place=_place(draft, index),
        sought=draft.facts.usb is None or (found is None and not table.optional),
    )


def matching(
    devices: Iterable[UsbDevice], *, name: str = "", ident: str = "", serial: str = ""
) -> list[UsbDevice]:
    """The devices that all of what is given is true of."""
    return [
        d for d in devices
        if name in ("", d.name) and ident in ("", d.id) and serial in ("", d.serial)
    ]


def _find(draft: Draft, key: str, table: Usb) -> UsbDevice | None:
    """The one device that the table means; everything that stands against it is told."""
    if draft.facts.usb is None:
        return None
    found = matching(draft.facts.usb, name=table.port or "", ident=(table.device or "").lower(),
                     serial=table.serial or "")
    if len(found) > 1:
        draft.problem(
            "several USB devices match", key, found="; ".join(str(d) for d in found),
            hint=f'name its port too: port = "{found[0].name}"',
        )
    elif not found and not table.optional:
        draft.problem(
            "this USB device is not plugged in", key, found=_wanted(draft, table),
            hint=f"{_LIST}; optional = true starts without it",
        )
    if len(found) != 1:
        return None
    _check_device(draft, key, found[0])
    return found[0]


def _wanted(draft: Draft, table: Usb) -> str:
    """What was looked for, and what stands at that port instead."""
    words = [f"{k} {v}" for k, v in (("device", table.device), ("port", table.port),
                                     ("serial", table.serial)) if v]
    there = matching(draft.facts.usb or (), name=table.port or "-")
    return ", ".join(words) + (f"; there is {there[0]}" if there else "")


def _check_device(draft: Draft, key: str, device: UsbDevice) -> None:
    """What the host would miss."""
    if device.is_hub:
        draft.problem("hubs stay with the host", key, found=str(device),
                      hint="name the devices that are plugged into it")
    elif device.mounted:
        draft.problem(
            "the host has this device's file system mounted", key,
            found=f"{device} on {', '.join(device.mounted)}",
            hint=f"umount {' '.join(device.mounted)}",
        )
    elif device.in_use:
        draft.problem("the host uses this device", key, found=f"{device}: {device.in_use}",
                      hint=f"lsblk /dev/{device.blocks[0]} shows what is on it")
    elif "usbfs" in device.drivers:  # what an interface is bound to that libusb has claimed
        draft.problem("another program has this USB device", key, found=str(device),
                      hint=f"sudo fuser -v {device.node} shows which; end it first")
    if device.links:
        draft.problem(f"the host loses the network link {', '.join(device.links)}", key,
                      found=str(device), hint="ip -br link shows what it has beside them",
                      severity="warning")
    keyboards = [i for i in draft.facts.inputs or () if i.kind == "keyboard" and not i.is_virtual]
    its = [i for i in keyboards if f"/{device.name}:" in i.sysfs]
    if its and len(its) == len(keyboards):
        draft.problem(
            "this is the host's only keyboard, and nothing on it leads back to the host", key,
            found=str(device), severity="warning",
            hint="have another way in (SSH), or hand it over with [[input]] evdev and grab keys",
        )
