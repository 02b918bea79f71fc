"""Start QEMU as an ordinary user, confined, with exactly the file descriptors of the plan.

What QEMU would do itself (-runas, -daemonize) dies of SIGSYS under its own sandbox, so limits,
CPUs and account are set here, between fork and exec. PR_SET_NO_NEW_PRIVS is left to the sandbox
option, whose seccomp filter sets it: ctypes, the only way to prctl, would cost more than the fork.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qlaunch.children import Setup, start_child
from qlaunch.vm.process import QemuProcess

if TYPE_CHECKING:
    from qlaunch.plan.model import Account
    from qlaunch.values import CpuSet

KEPT = (
    "PATH", "HOME", "LANG", "XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY",
    "DBUS_SESSION_BUS_ADDRESS", "PULSE_SERVER",
)  # fmt: skip
KEPT_PREFIX = "PIPEWIRE_"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def start_qemu(
    argv: Sequence[str],
    *,
    fds: Mapping[int, int],
    stderr_fd: int,
    account: Account | None = None,
    memlock: int | None = None,
    cpus: CpuSet | None = None,
    env: Mapping[str, str] | None = None,
    cgroup: str = "",
) -> QemuProcess:
    """Start QEMU; returns once the program has been executed, which is before it has read argv.

    `fds` maps planned numbers to the fds we hold; ours stay open and are the caller's to close.
    stdout and stderr go to `stderr_fd` and stdin is /dev/null. After HostError, which names the
    call that failed, no process is left.
    """
    held = {**fds, 1: stderr_fd, 2: stderr_fd}
    pid = start_child(
        argv,
        fds=held,
        setup=confinement(account, memlock, cpus, cgroup),
        env=clean_environment(os.environ, env or {}, account),
        cwd="/",
    )
    return QemuProcess.of_child(pid)


def confinement(
    account: Account | None, memlock: int | None, cpus: CpuSet | None, cgroup: str = "", *,
    powers: bool = False,
) -> list[Setup]:
    """The calls made in the child, in order: what needs root first, then who it becomes.

    `cgroup` is the plan's: below /sys/fs/cgroup, or "" for ours. With `powers` an ordinary user's
    capabilities stay: for what is the user's own.
    """
    calls = [
        # A core file would be the guest's memory, lying on the host's disk.
        Setup("setrlimit(RLIMIT_CORE, 0)", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
    ]
    if cgroup:
        calls.append(Setup(f"entering the cgroup {cgroup}", lambda: _enter(cgroup)))
    if memlock is not None:
        calls.append(_memlock(memlock))
    if cpus is not None:
        calls.append(
            Setup(
                f"sched_setaffinity to CPUs {cpus}",
                lambda: os.sched_setaffinity(0, cpus),
                hint="check that these CPUs are online and in this session's cpuset",
            )
        )
    calls += _become(account) if account is not None else []
    if not powers and (account is not None or os.geteuid() != 0) and _has_capabilities():
        from qlaunch.vm.powers import drop_capabilities

        calls.append(Setup("dropping all capabilities", drop_capabilities))
    calls.append(Setup("umask", lambda: os.umask(0o077)))
    return calls


def _has_capabilities() -> bool:
    """Whether a child of ours may have some that no change of its uid takes away: ambient ones, as
    a unit's AmbientCapabilities= gives, and inheritable ones. capabilities(7)"""
    kinds = ("CapInh",) if os.geteuid() == 0 else ("CapInh", "CapPrm", "CapEff", "CapAmb")
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:  # noqa: PTH123
        return any(int(line[8:], 16) for line in lines if line.startswith(kinds))


def _enter(cgroup: str) -> None:
    fd = os.open(f"/sys/fs/cgroup{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")  # whoever writes it
    finally:
        os.close(fd)


def _memlock(limit: int) -> Setup:
    return Setup(
        f"setrlimit(RLIMIT_MEMLOCK, {limit})",
        lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit)),
        hint="run as root, or raise the user's memlock limit in /etc/security/limits.d",
    )


def _become(account: Account) -> list[Setup]:
    uid, gid = account.uid, account.gid
    groups = list(account.groups)

    def verify() -> None:
        found = (os.getresuid(), os.getresgid(), sorted(os.getgroups()))
        if found != ((uid,) * 3, (gid,) * 3, sorted(set(groups))):
            raise RuntimeError(f"still {found}")

    who = f"{account.name} ({uid}:{gid})"
    if os.geteuid() != 0 and uid == os.geteuid():
        return []  # already that user, and not allowed to choose groups
    return [
        Setup(f"setgroups to those of {who}", lambda: os.setgroups(groups)),
        Setup(f"setgid to that of {who}", lambda: os.setresgid(gid, gid, gid)),
        Setup(f"setuid to that of {who}", lambda: os.setresuid(uid, uid, uid)),
        Setup(f"becoming {who}", verify),
    ]


def clean_environment(
    base: Mapping[str, str], extra: Mapping[str, str], account: Account | None = None
) -> dict[str, str]:
    """What QEMU needs of `base` for display, sound and messages; `extra` wins.

    Home and session are the account's: root's would be where its sound and display are not.
    """
    kept = {k: v for k, v in base.items() if k in KEPT or k.startswith(KEPT_PREFIX)}
    if account is not None:
        kept["HOME"] = account.home
        kept.pop("XDG_RUNTIME_DIR", None)
        if account.runtime_dir:
            kept["XDG_RUNTIME_DIR"] = account.runtime_dir
    return {"PATH": PATH, **kept, **extra}
