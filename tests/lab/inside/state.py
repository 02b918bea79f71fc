"""The lab host's state to compare before and after: everything that a run may change.

By plain reads of sysfs, procfs and devtmpfs, and never by qlaunch's own code.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from .host import PCI

RUN = Path("/run/qlaunch")
MDEVS = Path("/sys/bus/mdev/devices")
MDEV_PARENTS = Path("/sys/class/mdev_bus")
OF_A_DEVICE = (
    "driver_override", "reset_method", "d3cold_allowed", "power/control", "sriov_numvfs",
    "sriov_drivers_autoprobe",
)  # fmt: skip
SYSCTLS = (
    "vm/nr_hugepages", "vm/nr_overcommit_hugepages", "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding",
)  # fmt: skip
# Made once, for all machines.
KEPT = frozenset(RUN / name for name in (".host.lock", ".by-uid", ".bound", ".claims", ".sriov"))
HELPERS = frozenset(("swtpm", "virtiofsd", "dnsmasq"))
STARTED = ("qlaunch", "at_call.py", "at_stage.py", "at_step.py", "qemu-system-x86_64")


def host_state() -> dict[str, str]:
    """Name to what was found. Once udev has seen all: an interface that came back has its name by
    then."""
    if Path("/run/udev/control").exists():
        subprocess.run(["udevadm", "settle", "--timeout=60"], check=True)
    parts = (_pci, _mediated, _nodes, _memory, _cpus, _network, _groups, _files, _processes)
    return {key: text for part in parts for key, text in part()}


def changed(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Of two states: what was otherwise, came, or went."""
    return {
        key: (before.get(key, "not there"), after.get(key, "gone"))
        for key in sorted({*before, *after}) if before.get(key) != after.get(key)
    }


Found = Iterator[tuple[str, str]]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:  # some can only be written, or go while they are read
        return str(error.strerror)


def _names(paths: Iterable[Path]) -> str:
    return " ".join(sorted(path.name for path in paths))


def _link(path: Path) -> str:
    return path.resolve().name if path.exists() else ""


def _pci() -> Found:
    for device in sorted((PCI / "devices").iterdir()):
        yield f"{device.name} driver", _link(device / "driver")
        for name in OF_A_DEVICE:
            if (device / name).exists():
                yield f"{device.name} {name}", _read(device / name)


def _mediated() -> Found:
    """Those that there are, and how many of each type there could be."""
    if not MDEV_PARENTS.exists():
        return
    for device in sorted(MDEVS.iterdir()):
        yield f"mdev {device.name}", f"{_link(device / 'mdev_type')} {_link(device / 'driver')}"
    for left in sorted(MDEV_PARENTS.glob("*/mdev_supported_types/*/available_instances")):
        yield str(left), _read(left)


def _nodes() -> Found:
    """Owners and modes. What comes back has a new number where the kernel counts on, so these are
    compared by how many there are of each."""
    vfio = Path("/dev/vfio")
    yield "groups", _names(p for p in vfio.iterdir() if p.name != "vfio")
    for node in vfio.iterdir():
        yield str(node), _owner(node)
    # Sound, USB and input come back a while after their controllers: tests of theirs wait for them.
    nodes = (p for p in Path("/dev/dri").rglob("*") if p.is_char_device())
    yield "/dev/dri", str(sorted(Counter(map(_owner, nodes)).items()))
    for node in (Path("/dev/kvm"), *Path("/dev").glob("nvme*"), *Path("/dev").glob("tap*")):
        if node.exists():
            yield str(node), _owner(node)


def _owner(node: Path) -> str:
    try:
        found = node.lstat()
    except FileNotFoundError:
        return "gone"
    return f"{found.st_uid}:{found.st_gid} {found.st_mode:o}"


def _memory() -> Found:
    """Huge pages: the host's and each node's pools, of all sizes."""
    pools = [
        *Path("/sys/kernel/mm/hugepages").glob("*/nr_*hugepages"),
        *Path("/sys/devices/system/node").glob("node*/hugepages/*/nr_hugepages"),
    ]
    for pool in sorted(pools):
        yield str(pool), _read(pool)
    for name in SYSCTLS:
        yield name, _read(Path("/proc/sys", name))


def _cpus() -> Found:
    """Governors, and the CPUs of interrupts: by who takes them, as their numbers are given anew."""
    for governor in sorted(Path("/sys/devices/system/cpu/cpufreq").glob("*/scaling_governor")):
        yield str(governor), _read(governor)
    yield "unbound work", _read(Path("/sys/devices/virtual/workqueue/cpumask"))
    yield "new interrupts", _read(Path("/proc/irq/default_smp_affinity"))
    masks: dict[str, list[str]] = {}
    for number in Path("/sys/kernel/irq").iterdir():
        if who := _read(number / "actions"):
            mask = _read(Path("/proc/irq", number.name, "smp_affinity"))
            masks.setdefault(f"interrupts of {who}", []).append(mask)
    yield from ((who, " ".join(sorted(found))) for who, found in masks.items())


def _network() -> Found:
    """Links with what they are part of, addresses, and the firewall without its counters."""
    links = sorted(Path("/sys/class/net").iterdir())
    yield "links", _names(links)
    for link in links:
        if link.is_dir():  # bonding_masters is a file
            own = " ".join(_read(link / name) for name in ("address", "mtu", "flags"))
            yield f"link {link.name}", f"{own} {_link(link / 'master')}".rstrip()
    yield "addresses", _said("ip", "-o", "address")
    yield "firewall", _said("nft", "-s", "list", "ruleset")


def _said(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return "not installed"
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _groups() -> Found:
    cgroups = Path("/sys/fs/cgroup")
    yield "cgroups", " ".join(sorted(str(p) for p in cgroups.rglob("*") if p.is_dir()))
    if (cgroups / "cgroup.subtree_control").exists():
        yield "controllers", _read(cgroups / "cgroup.subtree_control")
    for cpus in cgroups.rglob("cpuset.cpus"):
        yield str(cpus), _read(cpus)


def _files() -> Found:
    """Files and directories in memory, a line each."""
    for path in Path("/dev/shm").rglob("*"):
        yield str(path), _owner(path)
    for path in RUN.rglob("*"):
        if path not in KEPT:
            yield str(path), _owner(path)


def _processes() -> Found:
    """Machines, launchers and helpers. What has ended and was not waited for has no words."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            words = [word.rpartition("/")[2] for word in cmdline(process)]
            found += [word for word in words[:3] if word in HELPERS or word in STARTED]
    yield "processes", " ".join(sorted(found))


def cmdline(process: Path) -> list[str]:
    """The words of one below /proc."""
    try:
        return (process / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []
