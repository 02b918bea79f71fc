"""Profile and facts in, plan out. The one way to a command line, for looking and for running."""

from __future__ import annotations

import uuid

from msgspec.structs import replace

from qlaunch.facts.model import HostFacts, HostFile, Invoker
from qlaunch.plan.cards import plan_cards
from qlaunch.plan.draft import Draft
from qlaunch.plan.model import (
    Account,
    Place,
    Plan,
    PlannedCard,
    PlannedDisk,
    PlannedNic,
    PlannedSerial,
)
from qlaunch.plan.network import plan_network
from qlaunch.plan.paths import Paths, machine_paths
from qlaunch.plan.pins import plan_pins
from qlaunch.plan.platform import (
    check_devices,
    check_qemu,
    choose_accel,
    choose_display,
    memlock,
    plan_hugepages,
    ready_timeout,
)
from qlaunch.plan.steps import ReserveHugePages, Step
from qlaunch.plan.storage import check_file, plan_storage
from qlaunch.plan.takeover import plan_takeover
from qlaunch.profile.profile import Profile

VGA = {"std": "VGA", "cirrus": "cirrus-vga", "qxl": "qxl-vga", "virtio": "virtio-vga"}


def make_plan(profile: Profile, facts: HostFacts) -> Plan:
    """Decide everything. Faults do not raise: they are `plan.problems` with severity "error",
    so that a plan can be shown for a machine that lacks the devices; `run` refuses them.

    An ordinary user's plan that needs root is the one root will carry out for them.
    """
    plan = _make(profile, facts)
    invoker = facts.invoker
    if plan.needs_root and invoker is not None and not invoker.root:
        asked = replace(invoker, root=True, asked=invoker.uid)
        plan = _make(profile, replace(facts, invoker=asked))
    return plan


def _make(profile: Profile, facts: HostFacts) -> Plan:
    draft = Draft(profile, facts, _account(facts.invoker, facts.file("/dev/kvm")))
    vm_uuid, uuid_why = _uuid(profile)
    check_qemu(draft)
    accel, accel_why = choose_accel(draft)
    display, display_why = choose_display(draft)
    paths = machine_paths(profile.name, facts.invoker)
    draft.fd("lock")
    draft.fd("control")
    draft.fd("qmp")
    places = _singles(draft)
    disks = plan_storage(draft)
    nics, bridges = plan_network(draft, vm_uuid)
    ports, cards = plan_cards(draft)
    serials = _serials(draft, paths)
    _check_other_files(draft)
    steps: list[Step] = plan_takeover(draft, cards)
    steps = _insert(steps, [*bridges, *plan_hugepages(draft)])
    check_devices(draft, _device_types(profile, disks, nics, cards))
    pins = plan_pins(draft)
    return Plan(
        profile=profile, name=profile.name, uuid=vm_uuid, uuid_why=uuid_why,
        qemu=facts.qemu.path if facts.qemu else profile.qemu.binary,
        qemu_version=facts.qemu.version if facts.qemu else (0, 0, 0),
        accel=accel, accel_why=accel_why, display=display, display_why=display_why,
        runtime_dir=paths.runtime, socket_dir=paths.sockets, state_dir=paths.state,
        steps=tuple(steps), fds=tuple(draft.fds), ports=ports, disks=disks, nics=nics,
        cards=cards, serials=serials, places=places, pins=pins, account=draft.account,
        memlock=memlock(draft), ready_timeout=ready_timeout(draft),
        problems=tuple(draft.problems + draft.slots.problems),
    )


def _account(invoker: Invoker | None, kvm: HostFile | None) -> Account | None:
    if invoker is None or not invoker.root:
        return None
    groups = set(invoker.groups)
    if kvm is not None and not (kvm.readable and kvm.writable) and kvm.mode & 0o060 == 0o060:
        groups.add(kvm.gid)  # Debian's /dev/kvm is root:kvm 0660
    return Account(
        uid=invoker.uid, gid=invoker.gid, name=invoker.name, groups=tuple(sorted(groups)),
        home=invoker.home or "/", runtime_dir=invoker.runtime_dir,
    )


def _serials(draft: Draft, paths: Paths) -> tuple[PlannedSerial, ...]:
    """A file is opened by us when root starts QEMU: its account may not reach it."""
    serials = []
    for index, serial in enumerate(draft.profile.serial):
        path, fd = "", None
        if serial.type == "socket":
            path = f"{paths.sockets}/serial{index}.sock"
        elif serial.type == "file":
            path = serial.file or f"{paths.state}/serial{index}.log"
            fd = draft.fd("serial", path) if draft.account is not None else None
        else:
            fd = draft.fd("terminal", f"serial{index}")
        serials.append(PlannedSerial(index=index, type=serial.type, path=path, fd=fd))
    return tuple(serials)


def _uuid(profile: Profile) -> tuple[str, str]:
    if profile.uuid is not None:
        return profile.uuid.lower(), "uuid"
    derived = _uuid5(f"qlaunch:{profile.name}")
    return derived, "rule: the uuid is derived from the name (uuid5 of qlaunch:NAME)"


def _uuid5(name: str) -> str:
    """uuid.uuid5(NAMESPACE_URL, name), whose hashlib loads OpenSSL: 3 ms, and 3 MiB for good."""
    try:
        from _sha1 import sha1  # type: ignore[import-not-found]  # as `random` takes its own
    except ImportError:
        from hashlib import sha1
    digest = sha1(uuid.NAMESPACE_URL.bytes + name.encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def _singles(draft: Draft) -> dict[str, Place]:
    """Places of the devices a machine has at most one of, and of extra controllers."""
    profile = draft.profile
    places: dict[str, Place] = {}
    if profile.display.vga != "none":
        slot = draft.slots.take("vga", 0, "display.vga", None)
        places["vga"] = Place(draft.bus, slot)
    if profile.balloon is not None:
        slot = draft.slots.take("balloon", 0, "balloon", profile.balloon.addr)
        places["balloon0"] = Place(draft.bus, slot)
    for index, controller in enumerate(profile.controller):
        slot = draft.slots.take("controller", index, f"controller[{index}]", controller.addr)
        places[controller.id or f"{controller.type}{index}"] = Place(draft.bus, slot)
    return places


def _check_other_files(draft: Draft) -> None:
    """ROMs, firmware and ACPI tables: QEMU only reads them, by itself."""
    named = [(p.rom, f"pci[{i}].rom") for i, p in enumerate(draft.profile.pci)]
    named += [
        (t.file, f"machine.acpi_tables[{i}].file")
        for i, t in enumerate(draft.profile.machine.acpi_tables)
    ]
    named.append((draft.profile.machine.bios, "machine.bios"))
    for path, where in named:
        if path:
            check_file(draft, draft.facts.file(path), where, read_only=True, handed=False)


def _insert(steps: list[Step], more: list[Step]) -> list[Step]:
    """Bridges and huge pages go after the devices' power settings, before node owners."""
    first = next((i for i, s in enumerate(steps) if type(s).__name__ == "OwnGroup"), len(steps))
    bridges_first = sorted(more, key=lambda s: isinstance(s, ReserveHugePages))
    return steps[:first] + bridges_first + steps[first:]


def _device_types(
    profile: Profile, disks: tuple[PlannedDisk, ...], nics: tuple[PlannedNic, ...],
    cards: tuple[PlannedCard, ...],
) -> dict[str, str]:
    needed = {d.device: f"{d.key}.bus" for d in disks}
    needed.update({n.model: f"net[{n.index}].model" for n in nics})
    if cards:
        needed["vfio-pci"] = "pci[0].device"
    if profile.display.vga != "none":
        needed[VGA[profile.display.vga]] = "display.vga"
    return needed
