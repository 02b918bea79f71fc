"""What limits machines, or keeps the host off their CPUs: the control groups that we are in and
above, this process's own limits, cpufreq's policies."""

from __future__ import annotations

from msgspec import Struct

from qlaunch.values import CpuSet


class CgroupLevel(Struct, frozen=True, kw_only=True):
    """One directory of the unified hierarchy (cgroup-v2.rst); of its controllers those that a
    limit may need."""

    path: str  # below /sys/fs/cgroup; "" is the top, "/system.slice" a group
    has: tuple[str, ...] = ()  # cgroup.controllers
    on: tuple[str, ...] = ()  # cgroup.subtree_control: what groups in it are limited by
    top: bool = False  # the host's own: it may have processes and limited groups in it
    domain: bool = True  # False: threaded, no place for a whole process
    mine: bool = False  # this account may make a group in it and move a process there
    root: bool = False  # root may


class CpuPolicy(Struct, frozen=True, kw_only=True):
    """CPUs whose clock is set together (/sys/devices/system/cpu/cpufreq/policyN)."""

    cpus: CpuSet
    governor: str
    offered: tuple[str, ...] = ()  # governors that it may have


class Tuning(Struct, frozen=True, kw_only=True):
    """Who else decides about CPUs."""

    policies: tuple[CpuPolicy, ...] = ()  # (): no cpufreq, as in a virtual machine
    irqbalance: int | None = None  # its pid, when it runs
    systemd: bool = False  # is PID 1: the one writer of control groups


class Limits(Struct, frozen=True, kw_only=True):
    """What this process may ask of the scheduler and lock (getrlimit(2)); root may all."""

    priority: int = 99  # highest real-time priority
    nice: int = -20  # lowest niceness
    memlock: int | None = None  # bytes; None is no limit
