"""Whether /dev/kvm can run an ordinary guest.

That it opens is not enough: on some nested machines a VM can be created while `-cpu host` makes
QEMU abort and an ordinary kernel hangs for ever. What tells them apart is that /proc/cpuinfo has
neither vmx nor svm. A recorded tree is judged by its files only.
"""

from __future__ import annotations

import os
from pathlib import Path

from qlaunch.facts.model import Kvm
from qlaunch.facts.tree import base_of

_KVM_GET_API_VERSION = 0xAE00  # include/uapi/linux/kvm.h
_KVM_CREATE_VM = 0xAE01
_API_VERSION = 12


def read_cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """The first CPU's flags; read no further, because the file grows with every CPU."""
    text = b""
    try:
        fd = os.open(f"{base_of(root)}/proc/cpuinfo", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return frozenset()
    try:
        while (piece := os.read(fd, 8192)) and len(text) < 1 << 16:
            text += piece
            at = text.find(b"\nflags")
            if at >= 0 and (end := text.find(b"\n", at + 1)) >= 0:
                line = text[at:end].decode(errors="replace")
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    finally:
        os.close(fd)
    return frozenset()


def read_kvm(root: Path = Path("/")) -> Kvm:
    """/dev/kvm as this process may use it; see HostFacts.file("/dev/kvm") for QEMU's account."""
    base = base_of(root)
    flags = read_cpu_flags(root)
    extension = flags & {"vmx", "svm"}
    if not Path(f"{base}/dev/kvm").exists():
        reason, hint = _why_absent(flags)
        return Kvm(present=False, usable=False, reason=reason, hint=hint)
    if not extension:
        return Kvm(
            present=True, usable=False,
            reason="/dev/kvm is there, but the CPU shows neither vmx nor svm: an ordinary guest "
            "would hang or abort in it",
            hint='use accel = "tcg" here, or run on a machine with hardware virtualisation',
        )
    reason, hint = _try(f"{base}/dev/kvm") if not base else ("", "")
    return Kvm(
        present=True, usable=not reason, reason=reason, hint=hint,
        extension="svm" if "svm" in extension else "vmx",
    )


def _why_absent(flags: frozenset[str]) -> tuple[str, str]:
    if flags & {"vmx", "svm"}:
        module = "kvm_intel" if "vmx" in flags else "kvm_amd"
        return "there is no /dev/kvm: the module is not loaded", f"modprobe {module}"
    if "hypervisor" in flags:
        return (
            "there is no /dev/kvm: this is a virtual machine without nested virtualisation",
            "give it the host's CPU features (-cpu host) with nesting on, or use accel = \"tcg\"",
        )
    return (
        "there is no /dev/kvm: the CPU shows neither vmx nor svm",
        "switch on VT-x (Intel) or SVM (AMD) in the BIOS setup",
    )


def _try(path: str) -> tuple[str, str]:
    """Open, ask, create an empty VM: (reason, hint), empty when all goes well."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return "/dev/kvm may not be opened by this user", "usermod -aG kvm USER, and log in again"
    except OSError as error:
        return f"/dev/kvm cannot be opened: {error.strerror}", "see dmesg | grep -i kvm"
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION)
        if version != _API_VERSION:
            return f"/dev/kvm speaks version {version}, not {_API_VERSION}", "use another kernel"
        os.close(fcntl.ioctl(fd, _KVM_CREATE_VM, 0))
    except OSError as error:
        return (
            f"/dev/kvm cannot create a machine: {error.strerror}",
            "another hypervisor may hold the CPU (VirtualBox, VMware): stop it",
        )
    finally:
        os.close(fd)
    return "", ""
