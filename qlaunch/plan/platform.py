"""Accelerator and QEMU binary: what the host's parts allow."""

from __future__ import annotations

from typing import Literal

from qlaunch.plan.draft import Draft

_BOARDS = ("pc-q35-", "pc-i440fx-")
MIN_QEMU = (6, 2, 0)
_GIB = 1 << 30
_INSTALL = (
    "install qemu-system-x86 (Debian, Arch), qemu-system-x86-core (Fedora) or qemu-x86 (SUSE)"
)


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
    elif qemu.machines and machine not in ("q35", "pc") and not machine.startswith(_BOARDS):
        draft.problem("no machine of this kind is put together here", "machine.type",
                      found=machine, allowed="q35, pc, or one of theirs, like pc-q35-7.2")


def check_devices(draft: Draft, needed: dict[str, str]) -> None:
    """Device types (type -> profile key) that this QEMU lacks."""
    qemu = draft.facts.qemu
    if qemu is None or not qemu.devices:
        return
    for device, key in needed.items():
        if not qemu.has(device):
            from qlaunch.plan.packages import install_hint

            draft.problem(f"this QEMU has no device {device}", key,
                          found=f"{qemu.path} {_dotted(qemu.version)}",
                          hint=install_hint(device, qemu.version)
                          or "another QEMU can be named with [qemu] binary")


def ready_timeout(draft: Draft) -> float:
    """Seconds until QEMU must answer: GiB as seconds, four times that with passthrough."""
    gib = draft.profile.machine.memory / _GIB
    passed = draft.profile.pci or draft.profile.vgpu
    return max(30.0, gib * (4 if passed else 1) + 5 * len(draft.profile.net))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(v) for v in version)
