"""[[vgpu]] tables: places, host steps in the order of a run, and what the host must have for them.

Every slice is claimed under its name (UUID or address) before hardware is touched. The order is:
modules, virtual functions switched on and taken to VFIO, their MAC addresses, mediated devices
made, NVIDIA's types set, group nodes given to QEMU's account. All is undone backwards, so that a
function has its own MAC address again before it is reset and a host driver reads it.
"""

from __future__ import annotations

import uuid

from qlaunch.plan.draft import Draft
from qlaunch.plan.make import uuid5
from qlaunch.plan.steps import (
    CreateMdev,
    EnableVfs,
    OwnDeviceGroup,
    ResetDevices,
    SetVfNet,
    SetVgpuType,
    Step,
    TakeDevice,
)
from qlaunch.plan.takeover import load_driver
from qlaunch.plan.vgpu_check import check_slice
from qlaunch.plan.vgpu_choose import choose_vgpus
from qlaunch.plan.vgpu_model import PlannedVgpu
from qlaunch.plan.vgpu_screen import choose_screen, is_dmabuf
from qlaunch.plan.vgpu_vf import count_of
from qlaunch.plan.vgpu_want import Choice
from qlaunch.profile.vgpu import Vgpu, fits_form
from qlaunch.values import PciAddress

_SPLIT = (5, 19)  # before it, mediated devices needed the module vfio_mdev


def resolve_vgpus(draft: Draft) -> None:
    """Choose, before anything is planned: `draft.profile` may be another one afterwards."""
    choose_vgpus(draft, {n: vgpu_uuid(draft, n) for n in range(len(draft.profile.vgpu))})
    want_gl(draft)


def want_gl(draft: Draft) -> None:
    """Before the display is planned: whether a slice's screen needs OpenGL."""
    for number, choice in draft.vgpus.items():
        if draft.profile.vgpu[number].display and is_dmabuf(choice):
            draft.wants_gl = f"rule: the screen of vgpu[{number}] is a DMA buffer"


def vgpu_uuid(draft: Draft, number: int) -> str:
    """The table's UUID in lower case, else one derived from the machine's and the number."""
    text = draft.profile.vgpu[number].uuid
    if text is not None and fits_form("uuid", text):
        return str(uuid.UUID(text))
    return uuid5(f"qlaunch:{draft.uuid}:vgpu[{number}]")


def plan_vgpus(draft: Draft) -> None:
    """Places and steps of what was chosen."""
    planned: list[PlannedVgpu] = []
    for number, table in enumerate(draft.profile.vgpu):
        choice = draft.vgpus.get(number)
        if choice is None:
            continue
        key = f"vgpu[{number}]"
        ident = vgpu_uuid(draft, number)
        where = draft.place("vgpu", f"vgpu{number}", key, index=number, addr=table.addr)
        mdev, screen = choice.kind == "mdev", choose_screen(draft, key, table, choice)
        draft.need("vfio-pci-nohotplug" if screen.ramfb else "vfio-pci", key)
        planned.append(
            PlannedVgpu(
                id=f"vgpu{number}", key=key, kind=choice.kind, place=where,
                name=ident if mdev else choice.address or "",
                parent=choice.parent, type=choice.type, **screen._asdict(),
            )
        )
        draft.fd("claim", planned[-1].name)
        check_slice(draft, key, table, choice)
    draft.first_steps += _steps(draft, planned)
    draft.decided["vgpus"] = tuple(planned)


def _steps(draft: Draft, planned: list[PlannedVgpu]) -> list[Step]:
    """See the module's docstring."""
    if not planned:
        return []
    choices = [(p, draft.vgpus[int(p.key[5:-1])]) for p in planned]
    tables = {p.key: draft.profile.vgpu[int(p.key[5:-1])] for p in planned}
    steps: list[Step] = _modules(draft, [c for _, c in choices])
    functions = [(p, c) for p, c in choices if c.kind == "vf" and c.address]
    steps += _enables(functions)
    for slice_, choice in functions:
        steps += _take(draft, slice_.key, choice)
    for slice_, choice in functions:
        steps += _net(slice_.key, tables[slice_.key], choice)
    for slice_, choice in choices:
        why = f"{slice_.key}.type" if tables[slice_.key].type else slice_.key
        if choice.kind == "mdev":
            steps.append(
                CreateMdev(uuid=slice_.name, parent=choice.parent, type=choice.type,
                           existing=choice.existing, why=_told(why, choice))
            )
        elif choice.kind == "nvidia-vf" and choice.address:
            steps.append(
                SetVgpuType(address=choice.address, type=choice.number, name=choice.type,
                            existing=_seen(draft, choice.address), why=_told(why, choice))
            )
    return steps + _nodes(draft, planned)


def _seen(draft: Draft, address: PciAddress) -> int:
    """The type that an NVIDIA function has already."""
    known = draft.facts.vgpu.nvidia if draft.facts.vgpu else ()
    return next((v.current for v in known if v.address == address), 0)


def _told(why: str, choice: Choice) -> str:
    return f"{why}; {choice.free}" if choice.free else why


def _modules(draft: Draft, choices: list[Choice]) -> list[Step]:
    names = ["vfio_iommu_type1"]
    if any(c.kind == "mdev" for c in choices) and _kernel(draft) < _SPLIT:
        names.append("vfio_mdev")
    names += sorted({c.load for c in choices if c.load})
    drivers = [(name, "") for name in names]
    drivers += sorted({_driver(draft, c) for c in choices if c.kind == "vf"})
    return [load_driver(*which, why="rule: slices of devices need VFIO") for which in drivers]


def _kernel(draft: Draft) -> tuple[int, int]:
    """The running kernel's first two numbers; a new one's when nobody looked."""
    release = draft.facts.kernel.release if draft.facts.kernel else ""
    words = release.split(".")
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        return (99, 0)
    return int(words[0]), int(words[1])


def _driver(draft: Draft, choice: Choice) -> tuple[str, str]:
    """The VFIO driver for a virtual function, and its module when that is known: the kernel's
    variant driver where there is one."""
    device = draft.facts.device(choice.address or "")
    if device is not None:
        return device.vfio_driver, device.vfio_module
    known = draft.facts.vgpu.sriov if draft.facts.vgpu else ()
    named = (s for s in known if s.address == choice.parent)
    return next(((s.vfio_driver, s.vfio_module) for s in named), ("vfio-pci", ""))


def _enables(functions: list[tuple[PlannedVgpu, Choice]]) -> list[Step]:
    """One step a physical function, with all that this machine has of it."""
    steps: dict[str, Step] = {}
    for slice_, choice in functions:
        if not choice.enable or choice.parent in steps:
            continue
        uses = tuple(
            (c.number, c.address) for _, c in functions
            if c.parent == choice.parent and c.address is not None
        )
        steps[choice.parent] = EnableVfs(
            address=PciAddress(choice.parent), uses=uses, on=choice.on,
            count=count_of((c for _, c in functions), choice.parent),
            why=_told(slice_.key, choice),
        )
    return list(steps.values())


def _net(key: str, table: Vgpu, choice: Choice) -> list[Step]:
    if table.mac is None and table.vlan is None:
        return []
    return [
        SetVfNet(address=PciAddress(choice.parent), number=choice.number, mac=table.mac,
                 vlan=table.vlan, why=f"{key}.mac" if table.mac else f"{key}.vlan")
    ]


def _take(draft: Draft, key: str, choice: Choice) -> list[Step]:
    address = PciAddress(choice.address or "")
    device = draft.facts.device(address)
    known = draft.facts.vgpu.sriov if draft.facts.vgpu else ()
    ident = device.id if device else next(
        (s.vf_id for s in known if s.address == choice.parent), None
    )
    driver, module = _driver(draft, choice)
    return [
        TakeDevice(address=address, id=ident, driver=driver, module=module, why=key,
                   subsystem=device.subsystem if device else None),
        ResetDevices(addresses=(address,), why="rule: a function is reset before its return"),
    ]


def _nodes(draft: Draft, planned: list[PlannedVgpu]) -> list[Step]:
    if draft.account is None:
        return []
    return [
        OwnDeviceGroup(device=p.device.removeprefix("/sys/"), uid=draft.account.uid,
                       gid=draft.account.gid, why="rule: QEMU runs without privileges")
        for p in planned
    ]
