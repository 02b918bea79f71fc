"""HostFacts of this machine, of a recorded tree, or from a snapshot file.

Only what is wanted is read, and only its probe imported: what stands between Enter and the start
of QEMU is this module. A recorded tree gives what is in files; QEMU and the account are always
those of the machine that runs us.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from qlaunch.codec import from_json
from qlaunch.errors import Problem, UsageError
from qlaunch.facts.model import HostFacts, Invoker, Iommu, Kernel, Kvm, PciDevice, Wanted
from qlaunch.facts.tree import base_of, list_names, read_attribute, read_lines

_MODULES = frozenset(("mdev", "tun", "vhost_net", "bridge", "8021q", "macvlan", "macvtap"))
_KVM_NODE = "/dev/kvm"
VERSION = 1


def read_facts(wanted: Wanted, root: Path = Path("/")) -> HostFacts:
    """Look at the host; a subject that is not wanted stays None.

    Where KVM is wanted, `files` has /dev/kvm too: whether QEMU's account may open it. Raises
    HostError for an unknown [qemu] user and for a QEMU that does not answer.
    """
    from qlaunch.facts.invoker import read_invoker

    base = base_of(root)
    invoker = read_invoker(wanted.user, trusted=wanted.trusted)
    kernel = read_kernel(root)
    paths = (*wanted.files, _KVM_NODE) if wanted.kvm else wanted.files
    facts = HostFacts(
        version=VERSION,
        host=read_attribute(f"{base}/proc/sys/kernel/hostname") or os.uname().nodename,
        kernel=kernel,
        invoker=invoker,
        pci=_pci(wanted, root, kernel.release) if wanted.pci else None,
        kvm=_kvm(root) if wanted.kvm else None,
        iommu=_iommu(root) if wanted.iommu else None,
        vhost_net=Path(f"{base}/dev/vhost-net").exists(),
        vhost_usable=None if base else os.access("/dev/vhost-net", os.R_OK | os.W_OK),
        tun=Path(f"{base}/dev/net/tun").exists(),
    )
    return _with_machine(facts, wanted, root, paths, invoker)


def _with_machine(
    facts: HostFacts, wanted: Wanted, root: Path, paths: tuple[str, ...], invoker: Invoker
) -> HostFacts:
    """CPUs, memory, links, files and QEMU."""
    more: dict[str, object] = {}
    if wanted.cpus:
        from qlaunch.facts.cpus import read_cpus

        more["cpus"] = read_cpus(root)
    if wanted.memory:
        from qlaunch.facts.memory import read_memory

        more["memory"] = read_memory(root)
    if wanted.links:
        from qlaunch.facts.links import read_links

        more["links"] = read_links(root)
    if paths:
        from qlaunch.facts.files import read_files

        more["files"] = read_files(paths, invoker, root)
    if wanted.qemu is not None:
        from qlaunch.facts.qemu import read_qemu

        more["qemu"] = read_qemu(wanted.qemu, account=invoker)
    return msgspec.structs.replace(facts, **more)


def _pci(wanted: Wanted, root: Path, release: str) -> tuple[PciDevice, ...]:
    from qlaunch.facts.pci import read_pci

    devices = read_pci(root, release=release)
    if wanted.holders:
        from qlaunch.facts.holders import with_holders

        devices = with_holders(root, devices)
    return devices


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
    return Kernel(
        release=read_attribute(f"{base}/proc/sys/kernel/osrelease") or os.uname().release,
        cmdline=read_attribute(f"{base}/proc/cmdline") or "",
        modules=tuple(sorted(n for n in loaded if n in _MODULES or n.startswith(("vfio", "kvm")))),
        lockdown="" if mode == "none" else mode,
    )


class _Version(msgspec.Struct):
    """What can be read of a snapshot of any version."""

    version: int


def read_snapshot(path: Path) -> HostFacts:
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
        return from_json(raw, HostFacts)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            Problem("these are no facts of a host", where, found=str(error), hint=hint)
        ) from None
