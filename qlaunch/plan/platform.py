"""Accelerator, QEMU binary, display and memory: what the host's parts allow."""

from __future__ import annotations

from typing import Literal

from qlaunch.plan.draft import Draft
from qlaunch.plan.steps import ReserveHugePages, Step

MIN_QEMU = (6, 2, 0)
HUGE = {"2M": 2 << 20, "1G": 1 << 30}
_GIB = 1 << 30
_INSTALL = (
    "install qemu-system-x86 (Debian, Arch), qemu-system-x86-core (Fedora) or qemu-x86 (SUSE)"
)

# Device types that a profile's key needs, and the package that brings them where they are modules.
_DISPLAY_PACKAGES = {
    "gtk": "qemu-system-gui (Debian), qemu-ui-gtk (Fedora, Arch)",
    "sdl": "qemu-system-gui (Debian), qemu-ui-sdl (Fedora, Arch)",
    "spice": "qemu-system-gui and qemu-system-modules-spice (Debian), qemu-ui-spice-core (Fedora)",
}


def choose_accel(draft: Draft) -> tuple[Literal["kvm", "tcg"], str]:
    """KVM where it is usable; by hand it is obeyed with a warning."""
    wanted = draft.profile.machine.accel
    kvm = draft.facts.kvm
    if wanted == "tcg":
        return "tcg", "machine.accel"
    usable = kvm is None or kvm.usable
    if wanted == "kvm":
        if kvm is not None and not kvm.present:
            draft.problem("this host has no KVM", "machine.accel", found=kvm.reason,
                          hint=kvm.hint or 'accel = "tcg" emulates, slowly')
        elif not usable and kvm is not None:
            draft.problem("KVM looks unusable here; taken because the profile insists",
                          "machine.accel", found=kvm.reason, hint=kvm.hint, severity="warning")
        return "kvm", "machine.accel"
    if usable or kvm is None:
        return "kvm", "rule: KVM is usable on this host"
    draft.problem("without KVM the guest is emulated and slow", "machine.accel",
                  found=kvm.reason, hint=kvm.hint, severity="warning")
    return "tcg", f"rule: {kvm.reason}"


def check_qemu(draft: Draft) -> None:
    """A QEMU that is missing, too old, or lacks the machine type."""
    qemu = draft.facts.qemu
    if qemu is None:
        binary = draft.profile.qemu.binary
        path = binary.is_path
        draft.problem(
            "there is no such program" if path else "QEMU is not installed: nothing on PATH has "
            "this name", "qemu.binary", found=binary,
            hint="name a QEMU for x86_64, or drop the key" if path else _INSTALL,
        )
        return
    if qemu.version < MIN_QEMU:
        draft.problem("this QEMU is too old", "qemu.binary",
                      found=f"{qemu.path} {_dotted(qemu.version)}",
                      allowed=f"{_dotted(MIN_QEMU)} or newer",
                      hint="install a newer one, and name it with [qemu] binary")
    machine = draft.profile.machine.type
    if qemu.machines and machine not in qemu.machines:
        near = [m for m in qemu.machines if m.rsplit("-", 1)[0] == machine.rsplit("-", 1)[0]]
        draft.problem(
            f"QEMU {_dotted(qemu.version)} has no such machine", "machine.type", found=machine,
            allowed=", ".join(near[-4:]) or "q35, pc",
            hint=f"{qemu.path} -machine help lists them",
        )


def check_devices(draft: Draft, needed: dict[str, str]) -> None:
    """Device types (type -> profile key) that this QEMU lacks."""
    qemu = draft.facts.qemu
    if qemu is None or not qemu.devices:
        return
    for device, key in needed.items():
        if not qemu.has(device):
            draft.problem(f"this QEMU has no device {device}", key,
                          found=f"{qemu.path} {_dotted(qemu.version)}",
                          hint="another QEMU can be named with [qemu] binary")


def choose_display(draft: Draft) -> tuple[str, str]:
    """The display type after "auto": a window where there is a screen and QEMU can draw one."""
    wanted = draft.profile.display.type
    qemu = draft.facts.qemu
    have = qemu.displays if qemu else ()
    if wanted != "auto":
        if wanted in _DISPLAY_PACKAGES and have and wanted not in have:
            draft.problem(f"this QEMU cannot show a {wanted} display", "display.type",
                          found=f"it has: {', '.join(have)}",
                          hint=f"install {_DISPLAY_PACKAGES[wanted]}")
        return wanted, "display.type"
    user = draft.facts.invoker
    if user is None or not user.display:
        return "none", "rule: no DISPLAY or WAYLAND_DISPLAY here"
    for kind in ("gtk", "sdl"):
        if kind in have:
            return kind, f"rule: {kind} is what this QEMU can open on your screen"
    draft.problem("this QEMU can open no window; it runs without one", "display.type",
                  hint=f"install {_DISPLAY_PACKAGES['gtk']}", severity="warning")
    return "none", "rule: this QEMU has no window display"


def plan_hugepages(draft: Draft) -> list[Step]:
    """Reserve what is missing; a size that does not divide the memory is a fault."""
    size = page_size(draft.profile.machine.hugepages)
    if size is None:
        return []
    memory = draft.profile.machine.memory
    if memory % size:
        draft.problem(
            "the memory is no whole number of huge pages", "machine.hugepages",
            found=f"{memory} in pages of {size >> 20}M", hint="round machine.memory up",
        )
    pools = [h for n in draft.facts.memory or () for h in n.hugepages if h.size == size]
    if draft.facts.memory and not pools:
        sizes = {h.size for n in draft.facts.memory for h in n.hugepages}
        draft.problem(
            "this kernel has no huge pages of this size", "machine.hugepages",
            found=f"{size >> 20}M",
            allowed=", ".join(f"{s >> 20}M" for s in sorted(sizes)) or "none",
            hint="1G pages need pdpe1gb in the CPU and hugepagesz=1G on the kernel command line",
        )
    count = -(-memory // size)
    if draft.facts.memory and sum(h.free for h in pools) >= count:
        return []
    return [ReserveHugePages(size=size, count=count, why="machine.hugepages")]


def page_size(hugepages: bool | str) -> int | None:
    """Bytes of one page, or None for ordinary memory."""
    if hugepages is False:
        return None
    return HUGE["2M" if hugepages is True else str(hugepages)]


def memlock(draft: Draft) -> int | None:
    """RAM + 1 GiB for VFIO's pinned pages (libvirt's qemuDomainGetMemLockLimitBytes)."""
    if not draft.profile.pci:
        return None
    return int(draft.profile.machine.memory) + _GIB


def ready_timeout(draft: Draft) -> float:
    """Seconds until QEMU must answer: GiB as seconds, four times that with passthrough."""
    gib = draft.profile.machine.memory / _GIB
    return max(30.0, gib * (4 if draft.profile.pci else 1) + 5 * len(draft.profile.net))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(v) for v in version)
