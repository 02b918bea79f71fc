"""What limits machines: the control groups that we are in and above, and this process's own."""

from __future__ import annotations

from msgspec import Struct


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


class Limits(Struct, frozen=True, kw_only=True):
    """What this process may ask of the scheduler and lock (getrlimit(2)); root may all."""

    priority: int = 99  # highest real-time priority
    nice: int = -20  # lowest niceness
    memlock: int | None = None  # bytes; None is no limit
