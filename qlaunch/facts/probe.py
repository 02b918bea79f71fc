"""HostFacts of this machine, of a recorded tree, or from a snapshot file.

Only what is wanted is read, and only its probe imported: what stands between Enter and the start
of QEMU is this module. A recorded tree gives what is in files; QEMU and the account are always
those of the machine that runs us.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from qlaunch.codec import from_json
from qlaunch.errors import Problem, UsageError
from qlaunch.facts.model import HostFacts, Invoker, Iommu, Kernel, Kvm, PciDevice, Ram, Wanted
from qlaunch.facts.tree import base_of, list_names, read_attribute, read_lines
from qlaunch.late import load

_MODULES = frozenset(("mdev", "tun", "vhost_net", "bridge", "8021q", "macvlan", "macvtap"))
_KVM_NODE = "/dev/kvm"
VERSION = 1


def read_facts(wanted: Wanted, root: Path = Path("/")) -> HostFacts:
    """Look at the host; a subject that is not wanted stays None.

    Where KVM is wanted, `files` has /dev/kvm too: whether QEMU's account may open it. So it has
    the nodes of devices that VFIO has already, for an ordinary user who would not need root. Raises
    HostError for an unknown [qemu] user and for a QEMU that does not answer.
    """
    from qlaunch.facts.invoker import read_invoker

    base = base_of(root)
    invoker = read_invoker(wanted.user, machine=wanted.machine, trusted=wanted.trusted)
    kernel = read_kernel(root)
    paths = (*wanted.files, _KVM_NODE) if wanted.kvm else wanted.files
    pci = _pci(wanted, root, kernel.release) if wanted.pci else None
    if not invoker.root:
        paths = (*paths, *_vfio_nodes(pci or ()))
    facts = HostFacts(
        version=VERSION,
        host=read_attribute(f"{base}/proc/sys/kernel/hostname") or os.uname().nodename,
        kernel=kernel,
        invoker=invoker,
        pci=pci,
        kvm=_kvm(root) if wanted.kvm else None,
        iommu=_iommu(root) if wanted.iommu else None,
        vhost_net=Path(f"{base}/dev/vhost-net").exists(),
        vhost_usable=None if base else os.access("/dev/vhost-net", os.R_OK | os.W_OK),
        tun=Path(f"{base}/dev/net/tun").exists(),
        ram=read_ram(base),
    )
    facts = _with_machine(facts, wanted, root, paths, invoker)
    if not wanted.health:
        return facts
    examined: HostFacts = load("qlaunch.facts.health:with_health")(facts, root)
    return examined


# Subjects that are read below the root and depend on nothing else.
_OF_ROOT = {
    "cgroup": "qlaunch.facts.cgroup:read_cgroup",
    "cpus": "qlaunch.facts.cpus:read_cpus",
    "memory": "qlaunch.facts.memory:read_memory",
    "vgpu": "qlaunch.facts.vgpu:read_vgpu",
    "links": "qlaunch.facts.links:read_links",
    "tuning": "qlaunch.facts.tuning:read_tuning",
}


def _with_machine(
    facts: HostFacts, wanted: Wanted, root: Path, paths: tuple[str, ...], invoker: Invoker
) -> HostFacts:
    """CPUs, memory, links, files and QEMU."""
    more: dict[str, object] = {
        subject: load(probe)(root)
        for subject, probe in _OF_ROOT.items()
        if getattr(wanted, subject)
    }
    if wanted.limits:
        from qlaunch.facts.memory import read_limits

        more["limits"] = read_limits()
    if wanted.pinned:
        more["pinned"] = load("qlaunch.facts.pinned:read_pinned")(invoker, root)
    if wanted.network:
        from qlaunch.facts.network import read_network

        more["network"] = read_network(root, firewall=wanted.firewall)
    if wanted.desktop:
        from qlaunch.facts.desktop import read_desktop

        more["desktop"] = read_desktop(invoker, root)
    more |= _plugged(wanted, root, invoker)
    if paths:
        from qlaunch.facts.files import read_files

        more["files"] = read_files(paths, invoker, root)
    if wanted.firmware or wanted.dmi:
        more |= _board(wanted, root, invoker)
    if wanted.programs:
        more["programs"] = {name: find_program(name) for name in wanted.programs}
    if wanted.qemu is not None:
        from qlaunch.facts.qemu import read_qemu

        more["qemu"] = read_qemu(wanted.qemu, account=invoker)
    return msgspec.structs.replace(facts, **more)


def _plugged(wanted: Wanted, root: Path, invoker: Invoker) -> dict[str, object]:
    """USB and input devices, vsock addresses."""
    more: dict[str, object] = {}
    if wanted.usb:
        more["usb"] = load("qlaunch.facts.usb:read_usb")(root, invoker)
    if wanted.inputs:
        more["inputs"] = load("qlaunch.facts.inputs:read_inputs")(root, wanted.evdev, invoker)
    if wanted.vsock:
        more["vsock_cids"] = load("qlaunch.facts.vsock:read_cids")(root)
    return more


def _board(wanted: Wanted, root: Path, invoker: Invoker) -> dict[str, object]:
    from qlaunch.facts.firmware import read_dmi, read_firmware

    more: dict[str, object] = {}
    if wanted.firmware:
        more["firmware"] = read_firmware(invoker, root)
    if wanted.dmi:
        # a user who asked for root is told no more than that user may read
        more["dmi"] = read_dmi(root, invoker if invoker.asked == invoker.uid else None)
    return more


# Daemons that distributions keep off PATH: virtiofsd is in one of the last two.
_PROGRAM_DIRS = (
    "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
    "/usr/libexec", "/usr/lib/qemu", "/usr/lib",
)  # fmt: skip


def find_program(name: str) -> str:
    """The path of an installed program; "" when there is none. Not the caller's PATH: it may be
    run by root."""
    paths = (f"{directory}/{name}" for directory in _PROGRAM_DIRS)
    return next((p for p in paths if Path(p).is_file() and os.access(p, os.X_OK)), "")


def _pci(wanted: Wanted, root: Path, release: str) -> tuple[PciDevice, ...]:
    from qlaunch.facts.pci import read_pci

    devices = read_pci(root, release=release)
    if wanted.overrides:
        devices = load("qlaunch.facts.overrides:with_overrides")(root, devices)
    if wanted.holders:
        from qlaunch.facts.holders import with_holders

        devices = with_holders(root, devices)
    return devices


def _vfio_nodes(devices: Iterable[PciDevice]) -> list[str]:
    """What QEMU opens for these: the container (a node of its own) and their groups."""
    groups = {d.iommu_group for d in devices if d.driver and "vfio" in d.driver} - {None}
    return [f"/dev/vfio/{name}" for name in ("vfio", *sorted(map(str, groups)))] if groups else []


def read_ram(base: str) -> Ram | None:
    """From the first lines of /proc/meminfo; None when there is none."""
    found: dict[str, int] = {}
    for line in read_lines(f"{base}/proc/meminfo")[:3]:  # MemTotal, MemFree, MemAvailable
        words = line.split()
        if len(words) == 3 and words[1].isdigit():
            found[words[0]] = int(words[1]) << 10
    if "MemTotal:" not in found or "MemAvailable:" not in found:
        return None
    return Ram(total=found["MemTotal:"], available=found["MemAvailable:"])


def _kvm(root: Path) -> Kvm:
    from qlaunch.facts.kvm import read_kvm

    return read_kvm(root)


def _iommu(root: Path) -> Iommu:
    from qlaunch.facts.iommu import read_iommu

    return read_iommu(root)


def read_kernel(root: Path = Path("/")) -> Kernel:
    """Release, command line, lockdown ("" is none) and the modules a plan may depend on.

    Built-in ones appear in /sys/module only when they have a version or parameters.
    """
    base = base_of(root)
    loaded = {line.partition(" ")[0] for line in read_lines(f"{base}/proc/modules")}
    loaded.update(list_names(f"{base}/sys/module"))
    lockdown = read_attribute(f"{base}/sys/kernel/security/lockdown") or ""
    mode = lockdown.partition("[")[2].partition("]")[0]
    release = read_attribute(f"{base}/proc/sys/kernel/osrelease") or ""
    return Kernel(
        release=release if release.isprintable() and release else os.uname().release,
        cmdline=read_attribute(f"{base}/proc/cmdline") or "",
        modules=tuple(sorted(n for n in loaded if n in _MODULES or n.startswith(("vfio", "kvm")))),
        lockdown="" if mode == "none" else mode,
    )


class _Version(msgspec.Struct):
    """What can be read of a snapshot of any version."""

    version: int


def read_snapshot(path: Path, kind: type[HostFacts] = HostFacts) -> HostFacts:
    """A file written by `qlaunch facts --json`. Raises UsageError naming the file and the fault."""
    where = str(path)
    hint = "write one with: qlaunch facts --json > FILE"
    try:
        raw = path.read_bytes()
    except OSError as error:
        fault = (error.strerror or str(error)).lower()
        raise UsageError(Problem(f"the facts cannot be read: {fault}", where, hint=hint)) from None
    try:
        version = msgspec.json.decode(raw, type=_Version).version
        if version != VERSION:
            raise UsageError(Problem(
                "these facts are of another version", where, found=str(version),
                allowed=str(VERSION), hint="write them anew with this qlaunch",
            ))
        return from_json(raw, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            Problem("these are no facts of a host", where, found=str(error), hint=hint)
        ) from None
