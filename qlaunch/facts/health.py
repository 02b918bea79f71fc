"""How the host is set up: modules, their parameters, governors, limits, boot loader, leftovers.

Read for `doctor` and `check` only. Everything is a small file below the root; what an ordinary
user may not read stays None. Sources of the formats: Documentation/admin-guide of the kernel
(mm/transhuge, pm/cpufreq), proc(5), os-release(5), modules.dep(5), the SecureBoot variable of the
UEFI specification (4 bytes of attributes, then one of value).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from qlaunch.facts.acs import read_acs
from qlaunch.facts.bootloader import grub_command, read_boot, read_os_release, which_boot
from qlaunch.facts.health_model import (
    ExaminedFacts,
    Family,
    Health,
    Leftover,
    ModuleState,
)
from qlaunch.facts.model import HostFacts, Invoker
from qlaunch.facts.pinned import is_held
from qlaunch.facts.tree import base_of, list_names, read_attribute, read_lines, read_whole
from qlaunch.values import CpuSet

MODULES = (
    "vfio", "vfio_pci", "vfio_iommu_type1", "kvm", "kvm_intel", "kvm_amd", "tun", "vhost_net",
)  # fmt: skip
PROGRAMS = ("qemu-img", "swtpm", "virtiofsd", "passt", "nft", "dnsmasq")
_PARAMETERS = (
    "kvm.ignore_msrs", "kvm_intel.nested", "kvm_amd.nested",
    "vfio_iommu_type1.allow_unsafe_interrupts",
)  # fmt: skip
_FAMILIES: tuple[tuple[str, Family], ...] = (
    ("arch", "arch"), ("fedora", "fedora"), ("rhel", "fedora"), ("suse", "suse"),
    ("opensuse", "suse"), ("debian", "debian"), ("ubuntu", "debian"),
)  # fmt: skip
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
# Daemons that distributions keep off PATH: virtiofsd is in one of the last three.
_PROGRAM_DIRS = (
    "usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin", "usr/libexec",
    "usr/lib/qemu", "usr/lib",
)  # fmt: skip


class _Record(msgspec.Struct):
    """A journal's line, as far as it matters here (run/journal.py)."""

    record: str
    k: int | None = None


def with_health(facts: HostFacts, root: Path = Path("/")) -> ExaminedFacts:
    """The facts, and what is read here."""
    known = {name: getattr(facts, name) for name in HostFacts.__struct_fields__}
    release = facts.kernel.release if facts.kernel else ""
    health = read_health(release, facts.invoker, root)
    if facts.pci is not None:
        health = replace(health, acs=read_acs(facts.pci, root))
    return ExaminedFacts(**known, health=health)


def read_health(release: str, invoker: Invoker | None, root: Path = Path("/")) -> Health:
    """The whole of it; never raises."""
    base = base_of(root)
    about = read_os_release(base)
    starter = read_boot(root)
    boot = which_boot(starter)[0]
    folder = _modules_dir(base, release)
    there = bool(list_names(f"{base}/lib/modules") or list_names(f"{base}/usr/lib/modules"))
    governors, driver = _governors(base)
    return Health(
        system=about.get("PRETTY_NAME", ""),
        family=_family(about),
        boot=boot,
        boot_command=" ".join(grub_command(starter.programs)) if boot == "grub" else "",
        modules=_modules(base, folder),
        modules_dir=bool(folder) if folder or there else None,
        parameters={
            name: value for name in _PARAMETERS
            if (value := read_attribute(_parameter(base, name))) is not None
        },
        governors=governors,
        scaling_driver=driver,
        transparent_pages=_chosen(
            read_attribute(f"{base}/sys/kernel/mm/transparent_hugepage/enabled") or ""
        ),
        memlock=_memlock(base),
        secure_boot=_secure_boot(base),
        framebuffers=_framebuffers(base),
        bar_users=_bar_users(base),
        seats=_seats(base),
        chassis=_chassis(base),
        programs={name: _program(base, name) for name in PROGRAMS},
        leftovers=_leftovers(base, invoker),
    )


def _family(about: dict[str, str]) -> Family:
    words = [about.get("ID", ""), *about.get("ID_LIKE", "").split()]
    for word in words:
        for name, family in _FAMILIES:
            if word == name or word.startswith(f"{name}-"):
                return family
    return ""


def _modules_dir(base: str, release: str) -> str:
    places = (f"{base}/lib/modules/{release}", f"{base}/usr/lib/modules/{release}")
    return next((place for place in places if list_names(place)), "")


def _modules(base: str, folder: str) -> dict[str, ModuleState]:
    """What is loaded is in /proc/modules; built in, in modules.builtin; the rest in modules.dep."""
    loaded = {line.partition(" ")[0] for line in read_lines(f"{base}/proc/modules")}
    builtin = {_module(line) for line in read_lines(f"{folder}/modules.builtin")} if folder else {
        name for name in list_names(f"{base}/sys/module") if name not in loaded
    }
    known = (
        {_module(line.partition(":")[0]) for line in read_lines(f"{folder}/modules.dep")}
        if folder else None
    )
    states: dict[str, ModuleState] = {}
    for name in MODULES:
        if name in loaded:
            states[name] = "loaded"
        elif name in builtin:
            states[name] = "builtin"
        elif known is None:
            states[name] = "unknown"
        else:
            states[name] = "loadable" if name in known else "missing"
    return states


def _module(path: str) -> str:
    """kernel/drivers/vfio/pci/vfio-pci.ko.zst → vfio_pci."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _parameter(base: str, name: str) -> str:
    module, _, key = name.partition(".")
    return f"{base}/sys/module/{module}/parameters/{key}"


def _governors(base: str) -> tuple[dict[str, CpuSet], str]:
    """cpufreq's policies; a policy's CPUs are in `affected_cpus`, separated by blanks."""
    where = f"{base}/sys/devices/system/cpu/cpufreq"
    found: dict[str, list[int]] = {}
    driver = ""
    for name in list_names(where):
        governor = read_attribute(f"{where}/{name}/scaling_governor")
        if name.startswith("policy") and governor:
            cpus = (read_attribute(f"{where}/{name}/affected_cpus") or name[6:]).split()
            found.setdefault(governor, []).extend(int(cpu) for cpu in cpus if cpu.isdigit())
            driver = driver or read_attribute(f"{where}/{name}/scaling_driver") or ""
    return {name: CpuSet(cpus) for name, cpus in found.items()}, driver


def _chosen(text: str) -> str:
    """`always [madvise] never` → madvise."""
    return text.partition("[")[2].partition("]")[0]


def _memlock(base: str) -> int | Literal["unlimited"] | None:
    for line in read_lines(f"{base}/proc/self/limits"):
        if line.startswith("Max locked memory"):
            soft = line[len("Max locked memory"):].split()[0]
            return int(soft) if soft.isdigit() else "unlimited"
    return None


def _secure_boot(base: str) -> bool | None:
    value = read_whole(f"{base}/{_SECURE_BOOT}", 16)
    return None if value is None or len(value) != 5 else value[4] == 1


def _framebuffers(base: str) -> tuple[str, ...] | None:
    text = read_whole(f"{base}/proc/fb", 4096)
    return None if text is None else tuple(
        line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()
    )


def _bar_users(base: str) -> dict[str, tuple[str, ...]] | None:
    """Names that stand below a PCI function in /proc/iomem; its addresses are root's, not these."""
    lines = read_lines(f"{base}/proc/iomem")
    found: dict[str, list[str]] = {}
    above: list[tuple[int, str]] = []
    for line in lines:
        depth = len(line) - len(line.lstrip(" "))
        name = line.partition(" : ")[2].strip()
        while above and above[-1][0] >= depth:
            above.pop()
        if above and _ADDRESS.fullmatch(above[-1][1]) and name not in found.get(above[-1][1], ()):
            found.setdefault(above[-1][1], []).append(name)
        above.append((depth, name))
    return {address: tuple(names) for address, names in found.items()} if lines else None


def _seats(base: str) -> dict[str, str]:
    """logind's files: who is active on each seat."""
    found = {}
    for seat in list_names(f"{base}/run/systemd/seats"):
        session = _assigned(f"{base}/run/systemd/seats/{seat}").get("ACTIVE", "")
        about = _assigned(f"{base}/run/systemd/sessions/{session}") if session else {}
        if session:
            found[seat] = f"{about.get('USER') or 'somebody'} ({about.get('TYPE') or 'tty'})"
    return found


def _assigned(path: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in read_lines(path) if line[:1] != "#")


def _chassis(base: str) -> int | None:
    text = read_attribute(f"{base}/sys/class/dmi/id/chassis_type") or ""
    return int(text) if text.isdigit() else None


def _program(base: str, name: str) -> str:
    for folder in _PROGRAM_DIRS:
        path = Path(f"{base}/{folder}/{name}")
        if path.is_file() and os.access(path, os.X_OK):
            return f"/{folder}/{name}"
    return ""


def _leftovers(base: str, invoker: Invoker | None) -> tuple[Leftover, ...]:
    """Directories of machines below the two places that nobody holds; what cannot be looked into
    is root's, and left out."""
    places = ["/run/qlaunch"]
    if invoker is not None and invoker.runtime_dir:
        places.append(f"{invoker.runtime_dir}/qlaunch")
    found = []
    for place in places:
        for name in list_names(base + place):
            path = f"{base}{place}/{name}"
            inside = list_names(path)
            if name.startswith(".") or not inside or is_held(f"{path}/lock", base):
                continue
            steps = _open_steps(read_whole(f"{path}/journal"))
            found.append(Leftover(name=name, path=f"{place}/{name}", steps=steps))
    return tuple(found)


def _open_steps(journal: bytes | None) -> int | None:
    """Steps that a journal's records begin and none takes back."""
    if journal is None:
        return None
    begun: set[int | None] = set()
    undone: set[int | None] = set()
    for line in journal.splitlines():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            one = msgspec.json.decode(line, type=_Record)
            (undone if one.record == "undone" else begun).add(one.k)
    return len(begun - undone - {None})
