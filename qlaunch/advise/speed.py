"""What makes guests slow, or stops them for want of memory: pages, limits, clocks."""

from __future__ import annotations

from collections.abc import Iterator

from qlaunch.advise.finding import Evidence, Finding, Host
from qlaunch.values import Size

_GOVERNOR = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
_THP = "/sys/kernel/mm/transparent_hugepage/enabled"
# Drivers whose "powersave" lets the CPU go as fast as it is asked to (Documentation/admin-guide/pm)
_OWN_WAY = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
_ENOUGH = 1 << 30  # bytes that VFIO asks for beside the guest's memory


def hugepages(host: Host) -> Iterator[Finding]:
    """Reserved ones, and the transparent ones that all other guests live by."""
    pools = [(n.id, p) for n in host.facts.memory or () for p in n.hugepages if p.total]
    evidence = tuple(
        Evidence(f"/sys/devices/system/node/node{node}/hugepages/hugepages-{p.size >> 10}kB",
                 f"nr_hugepages {p.total}, free_hugepages {p.free}")
        for node, p in pools
    )
    mode = host.health.transparent_pages
    if mode == "never":
        yield Finding(
            subject="hugepages", level="warning",
            message="transparent huge pages are off: guests' memory is slow",
            evidence=(Evidence(_THP, mode), *evidence),
            reason="without them the CPU walks more page tables for guests than for programs",
            fix=(f"echo madvise | sudo tee {_THP}",
                 "or hugepages = true in the profile, which reserves them for the run"),
        )
        return
    held = sum(p.total * p.size for _, p in pools)
    text = f"{Size(held)} are reserved" if pools else "none reserved; a profile's are for its run"
    idle = sum(p.free * p.size for _, p in pools)
    total = sum(node.total for node in host.facts.memory or ())
    if pools and total and idle * 2 > total:
        yield Finding(
            subject="hugepages", level="warning", evidence=evidence,
            message=f"{Size(idle)} of {Size(total)} are reserved and unused",
            reason="nothing but guests with hugepages can use that memory",
            fix=("echo 0 | sudo tee /proc/sys/vm/nr_hugepages",
                 "a profile with hugepages = true reserves what it needs and gives it back"),
        )
        return
    shown = (Evidence(_THP, mode),) if mode else ()
    yield Finding(subject="hugepages", level="ok", message=text, evidence=(*evidence, *shown))


def memlock(host: Host) -> Iterator[Finding]:
    """What an account may lock; root's launcher raises it for its guests."""
    limit = host.health.memlock
    if limit is None:
        return
    shown = limit if isinstance(limit, str) else str(Size(limit))
    evidence = (Evidence("/proc/self/limits", f"Max locked memory {shown}"),)
    if isinstance(limit, str) or limit >= _ENOUGH:
        yield Finding(subject="memlock", level="ok", message=f"{shown} may be locked",
                      evidence=evidence)
        return
    who = "your account" if not host.root else "this session"
    yield Finding(
        subject="memlock", level="note", evidence=evidence,
        message=f"{who} may lock {shown}: machines with passed-through devices start through root",
        reason="VFIO locks all of the guest's memory; the launcher raises the limit as root",
        fix=("for use without root, of devices that VFIO has from the host's start on (--early), "
             "and then log in again:",
             f"qlaunch host setup --user {_account(host)} --apply"),
    )


def _account(host: Host) -> str:
    """Whoever asks, behind sudo or not."""
    invoker = host.facts.invoker
    known = invoker is not None and (bool(invoker.asked) or not invoker.root)
    return invoker.name if invoker is not None and known else "NAME"


def governor(host: Host) -> Iterator[Finding]:
    """Whether the CPUs speed up for guests."""
    health = host.health
    if not health.governors:
        return
    said = ", ".join(f"{name} on CPUs {cpus}" for name, cpus in sorted(health.governors.items()))
    evidence = (Evidence(_GOVERNOR, f"{said} ({health.scaling_driver or 'driver not told'})"),)
    slow = health.governors.get("powersave")
    if slow and health.scaling_driver not in _OWN_WAY:
        yield Finding(
            subject="governor", level="warning", evidence=evidence,
            message=f"CPUs {slow} stay at their lowest clock",
            reason=f"powersave of {health.scaling_driver or 'this driver'} never speeds up",
            fix=(f"echo schedutil | sudo tee {_GOVERNOR}",
                 'or governor = "performance" in [cpu] of a profile with pin, for the run'),
        )
    else:
        yield Finding(subject="governor", level="ok", message=said, evidence=evidence)
