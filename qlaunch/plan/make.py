"""Profile and facts in, plan out. The one way to a command line, for looking and for running."""

from __future__ import annotations

import uuid

from msgspec.structs import replace

from qlaunch.facts.model import HostFacts, HostFile, Invoker
from qlaunch.late import Family, called_for, load
from qlaunch.plan.cpu import plan_cpu
from qlaunch.plan.draft import Draft
from qlaunch.plan.memory import memlock, plan_memory
from qlaunch.plan.model import Account, Plan
from qlaunch.plan.pins import plan_pins
from qlaunch.plan.platform import check_devices, check_qemu, choose_accel, ready_timeout
from qlaunch.plan.rootless import nearly
from qlaunch.plan.steps import ReserveHugePages, Step
from qlaunch.plan.takeover import plan_takeover
from qlaunch.profile.profile import Profile


def make_plan(profile: Profile, facts: HostFacts) -> Plan:
    """Decide everything. Faults do not raise: they are `plan.problems` with severity "error",
    so that a plan can be shown for a machine that lacks the devices; `run` refuses them.

    An ordinary user's plan that needs root is the one root will carry out for them.
    """
    plan = _make(profile, facts)
    invoker = facts.invoker
    if plan.needs_root and invoker is not None and not invoker.root:
        asked = replace(invoker, root=True, asked=invoker.uid)
        lacking = nearly(plan, facts) if plan.cards else ()
        plan = _make(profile, replace(facts, invoker=asked))
        plan = replace(plan, problems=(*plan.problems, *lacking))
    return plan


# In this order fds are numbered and problems told.
FAMILIES: tuple[Family, ...] = (
    (("machine",), "qlaunch.plan.firmware:plan_firmware"),
    (("smbios",), "qlaunch.plan.smbios:plan_smbios"),
    (("balloon",), "qlaunch.plan.memory:plan_balloon"),
    (("disk", "cdrom", "controller"), "qlaunch.plan.storage:plan_storage"),
    (("net",), "qlaunch.plan.network:plan_network"),
    (("pci",), "qlaunch.plan.cards:plan_cards"),
    (("display",), "qlaunch.plan.display:plan_display"),  # draws on a card that stays
    (("vgpu",), "qlaunch.plan.vgpu:plan_vgpus"),
    (("audio",), "qlaunch.plan.audio:plan_audio"),
    (("serial",), "qlaunch.plan.ports:plan_serials"),
    (("parallel",), "qlaunch.plan.ports:plan_parallels"),
    (("debugcon",), "qlaunch.plan.ports:plan_debugcon"),
    (("usb",), "qlaunch.plan.usb:plan_usb"),
    (("input",), "qlaunch.plan.inputs:plan_inputs"),
    (("agent", "channel"), "qlaunch.plan.channels:plan_channels"),
    (("rng",), "qlaunch.plan.extras:plan_rng"),
    (("watchdog",), "qlaunch.plan.extras:plan_watchdog"),
    (("machine.pvpanic", "machine.vmcoreinfo"), "qlaunch.plan.extras:plan_notices"),
    (("vsock",), "qlaunch.plan.extras:plan_vsock"),
    (("tpm",), "qlaunch.plan.tpm:plan_tpm"),
    (("share",), "qlaunch.plan.shares:plan_shares"),
    (("shmem",), "qlaunch.plan.shmem:plan_shmem"),
    (("qemu.args",), "qlaunch.plan.removed:plan_args"),
)
# Controllers that are there when a device wants one.
BUSES: tuple[Family, ...] = (
    (("wants_usb",), "qlaunch.plan.usb:plan_controller"),
    (("wants_channel", "wants_agent"), "qlaunch.plan.channels:plan_bus"),
)


def _make(profile: Profile, facts: HostFacts) -> Plan:
    vm_uuid, uuid_why = _uuid(profile)
    draft = Draft(profile, facts, _account(facts.invoker, facts.file("/dev/kvm")), vm_uuid)
    if profile.vgpu:
        from qlaunch.plan.vgpu import resolve_vgpus

        resolve_vgpus(draft)
        profile = draft.profile
    check_qemu(draft)
    accel, accel_why = choose_accel(draft)
    draft.fd("lock")
    draft.fd("control")
    draft.fd("qmp")
    for plan_family in called_for(FAMILIES, profile):
        plan_family(draft)
    for plan_bus in called_for(BUSES, draft):
        plan_bus(draft)
    draft.extra_ports()
    pins, picked = plan_pins(draft)
    if profile.cpu.isolate or profile.cpu.governor is not None:
        pins = load("qlaunch.plan.isolate:plan_isolation")(draft, pins)
    cpu = plan_cpu(draft, accel, picked)
    memory = plan_memory(draft, pins)  # after the families: one may need it shared
    limit = memlock(draft)
    if facts.cgroup or profile.limits or draft.isolated:
        load("qlaunch.plan.cgroup:plan_cgroup")(draft)
    steps = [*draft.first_steps, *plan_takeover(draft, draft.decided.get("cards", ()))]
    steps = [*_insert(steps, draft.steps), *draft.last_steps]
    if _keeps_awake(profile):
        draft.fd("awake")
    check_devices(draft, draft.needs)
    return Plan(
        profile=profile, name=profile.name, uuid=vm_uuid, uuid_why=uuid_why,
        qemu=facts.qemu.path if facts.qemu else profile.qemu.binary,
        qemu_version=facts.qemu.version if facts.qemu else (0, 0, 0),
        accel=accel, accel_why=accel_why,
        runtime_dir=draft.paths.runtime, socket_dir=draft.paths.sockets,
        state_dir=draft.paths.state,
        steps=tuple(steps), fds=tuple(draft.fds), ports=tuple(draft.ports), places=draft.places,
        helpers=tuple(draft.helpers), makes=tuple(draft.makes), pins=pins,
        cpu=cpu, memory=memory, account=draft.account, memlock=limit,
        ready_timeout=ready_timeout(draft),
        problems=tuple(draft.problems + draft.slots.problems), **draft.decided,
    )


def _keeps_awake(profile: Profile) -> bool:
    """Whether the host is not to go to sleep."""
    said = profile.stop.on_host_sleep
    return said == "inhibit" or (said is None and bool(profile.pci or profile.vgpu))


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


def _uuid(profile: Profile) -> tuple[str, str]:
    if profile.uuid is not None:
        return profile.uuid.lower(), "uuid"
    derived = uuid5(f"qlaunch:{profile.name}")
    return derived, "rule: the uuid is derived from the name (uuid5 of qlaunch:NAME)"


def uuid5(name: str) -> str:
    """uuid.uuid5(NAMESPACE_URL, name), whose hashlib loads OpenSSL: 3 ms, and 3 MiB for good."""
    try:
        from _sha1 import sha1  # type: ignore[import-not-found]  # as `random` takes its own
    except ImportError:
        from hashlib import sha1
    digest = sha1(uuid.NAMESPACE_URL.bytes + name.encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def _insert(steps: list[Step], more: list[Step]) -> list[Step]:
    """Bridges and huge pages go after the devices' power settings, before node owners."""
    first = next((i for i, s in enumerate(steps) if type(s).__name__ == "OwnGroup"), len(steps))
    bridges_first = sorted(more, key=lambda s: isinstance(s, ReserveHugePages))
    return steps[:first] + bridges_first + steps[first:]
