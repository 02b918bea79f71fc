"""What other processes need to know of a running machine: `run.json` in its runtime directory.

The journal says what was done to the host; this says where the machine is and how it is ended, so
that `status`, `stop` and `recover` can find it after the launcher is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import MsgspecError, Struct, to_builtins

from qlaunch.codec import from_json, to_json
from qlaunch.errors import HostError, Problem
from qlaunch.plan.model import Account, PinPlan, Plan, PlannedCard
from qlaunch.run.locks import LOOKING, is_locked, open_own, remedy, try_lock, write_locked
from qlaunch.run.noted import note_qemu, read_noted
from qlaunch.values import parse_vm_name

if TYPE_CHECKING:
    from qlaunch.vm.process import QemuProcess

FILE = "run.json"
LOCK = "lock"
SUPERVISOR = "supervisor"
CONTROL = "control.sock"
QMP = "qmp.sock"
KILLED = "killed"  # the pid of the QEMU that `stop --force` has killed


class Info(Struct, frozen=True, kw_only=True):
    """One running machine."""

    name: str
    uuid: str
    profile: str
    started: float  # seconds since the epoch
    launcher: int  # who started it; `find_supervisor` tells who watches it
    runtime_dir: str
    socket_dir: str
    state_dir: str
    stop_timeout: float
    ready_timeout: float = 60.0
    devices: tuple[str, ...] = ()
    vcpus: int = 1
    memory: int = 0  # bytes
    pins: PinPlan | None = None
    after: tuple[tuple[str, ...], ...] = ()
    usbs: tuple[dict[str, Any], ...] = ()  # PlannedUsbs, whose type only their machines load
    cards: tuple[PlannedCard, ...] = ()
    account: Account | None = None
    trusted: bool = False  # the profile is root's own
    cgroup: str = ""  # QEMU's, below /sys/fs/cgroup

    @property
    def control(self) -> str:
        """Path of the launcher's own QMP socket."""
        return f"{self.runtime_dir}/{CONTROL}"


def info_of(plan: Plan, profile: str, started: float, *, trusted: bool) -> Info:
    """The info of a plan that is being carried out by this process."""
    return Info(
        name=plan.name, uuid=plan.uuid, profile=profile, started=started, launcher=os.getpid(),
        runtime_dir=plan.runtime_dir, socket_dir=plan.socket_dir, state_dir=plan.state_dir,
        stop_timeout=float(plan.profile.stop.timeout),
        devices=(*(c.address for c in plan.cards), *(v.name for v in plan.vgpus)),
        vcpus=plan.profile.cpu.count, memory=int(plan.profile.machine.memory), pins=plan.pins,
        after=plan.profile.hooks.after, ready_timeout=plan.ready_timeout, account=plan.account,
        trusted=trusted, usbs=tuple(to_builtins(usb) for usb in plan.usbs), cards=plan.cards,
        cgroup=plan.cgroup,
    )


def write_info(info: Info) -> None:
    """Replace the file in one step. Raises OSError."""
    path = f"{info.runtime_dir}/{FILE}"
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, to_json(info))
    finally:
        os.close(fd)
    os.replace(f"{path}.new", path)  # noqa: PTH105 - pathlib is not imported for a start


def note_start(plan: Plan, process: QemuProcess) -> None:
    """Leave QEMU's pid in the runtime directory, and what `plan --diff last` compares with in the
    state directory, as far as they can be written."""
    note_qemu(plan.runtime_dir, process.pid, process.starttime)
    from shlex import quote

    from qlaunch.argv.render import plan_options
    from qlaunch.run.account import as_account

    lines = [f"step: {step}" for step in plan.steps]
    lines += [" ".join(quote(w) for w in option.words) for option in plan_options(plan)]
    with as_account(plan), contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(f"{plan.state_dir}/last", flags, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def read_info(runtime_dir: str) -> Info | None:
    """What the file says; None when there is none, or it cannot be read, or is not our own: root
    runs its hooks and removes what it names."""
    try:
        with os.fdopen(open_own(f"{runtime_dir}/{FILE}"), "rb") as file:
            return from_json(file.read(), Info)
    except (OSError, MsgspecError, RecursionError):
        return None


def machine_names(base: str) -> list[str]:
    """Machines with a runtime directory: running, or leaving something behind."""
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        return sorted(
            entry.name for entry in entries
            if entry.is_dir(follow_symlinks=False) and _is_name(entry.name)
        )
    return []


def _is_name(text: str) -> bool:
    try:
        parse_vm_name(text)
    except ValueError:
        return False
    return True


def is_alive(runtime_dir: str) -> bool:
    """Whether launcher or QEMU holds the machine's lock, or QEMU runs and has let go of it."""
    return is_locked(f"{runtime_dir}/{LOCK}") or has_qemu(runtime_dir)


def has_qemu(runtime_dir: str) -> bool:
    """Whether there is a QEMU of the machine, whatever its lock says; also one that is being taken
    down. What it has inherited it can unlock for all who share it, and close."""
    return read_noted(runtime_dir) is not None or find_qemu(runtime_dir) is not None


def is_supervised(runtime_dir: str) -> bool:
    """Whether a launcher watches it."""
    return is_locked(f"{runtime_dir}/{SUPERVISOR}")


def try_supervise(runtime_dir: str) -> int | None:
    """Become the machine's supervisor; the lock's fd, or None when there is one.

    It is taken before the machine's own lock, and lets others know whom to send a stop request.
    Raises HostError when it cannot be written.
    """
    deadline = time.monotonic() + LOOKING
    while (fd := try_lock(f"{runtime_dir}/{SUPERVISOR}")) is None:
        # What a dead launcher has just forked has this lock, until it has closed all it was given.
        if find_supervisor(runtime_dir) is not None or time.monotonic() > deadline:
            return None
        time.sleep(0.005)
    try:
        write_locked(fd, f"{runtime_dir}/{SUPERVISOR}", b"%d" % os.getpid())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(f"{runtime_dir}/{SUPERVISOR}")  # noqa: PTH108
        os.close(fd)
        raise HostError(
            Problem(f"the lock cannot be written: {error.strerror}",
                    where=f"{runtime_dir}/{SUPERVISOR}", hint=remedy(error, runtime_dir))
        ) from None
    return fd


def find_supervisor(runtime_dir: str) -> int | None:
    """The pid of the launcher (or `recover`) that watches the machine."""
    path = f"{runtime_dir}/{SUPERVISOR}"
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            pid = int(file.read(32))
    except (OSError, ValueError):
        return None
    return pid if is_locked(path) and _identity(path) in set(_open_files(pid)) else None


def find_qemu(runtime_dir: str) -> int | None:
    """The pid of the machine's QEMU: the one that its launcher has noted, or who has the lock open
    and says `-name guest=NAME`. None for one that the kernel is taking down.

    Looking at open files finds it even when the launcher died before it could note the pid; and
    none of the launcher's own processes says such a name.
    """
    noted = read_noted(runtime_dir)
    if noted is not None:
        return None if noted.exiting else noted.pid
    if not os.path.lexists(f"{runtime_dir}/{LOCK}"):
        return None
    for pid in _processes():
        if is_qemu(runtime_dir, pid):
            return pid
    return None


def is_qemu(runtime_dir: str, pid: int) -> bool:
    """Whether this process is the machine's QEMU."""
    noted = read_noted(runtime_dir)
    if noted is not None and noted.pid == pid:
        return not noted.exiting
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            words = os.fsdecode(file.read()).split("\0")
    except OSError:
        return False
    name = "guest=" + os.path.basename(runtime_dir)  # noqa: PTH119
    named = (b for a, b in zip(words, words[1:], strict=False) if a == "-name")  # noqa: RUF007
    if not any(one.split(",")[0] == name for one in named):
        return False
    lock = _identity(f"{runtime_dir}/{LOCK}")
    return lock is not None and lock in _open_files(pid)


def kill_qemu(runtime_dir: str) -> bool:
    """Send SIGKILL to the machine's QEMU; whether there was one."""
    pid = find_qemu(runtime_dir)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            if is_qemu(runtime_dir, pid):  # still, now that the number cannot be another's
                _note_kill(runtime_dir, pid)
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                return True
        finally:
            os.close(fd)
    return False


def _note_kill(runtime_dir: str, pid: int) -> None:
    """For the launcher, which otherwise would take it for the kernel's doing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        fd = os.open(f"{runtime_dir}/{KILLED}", flags, 0o600)
        try:
            os.write(fd, b"%d" % pid)
        finally:
            os.close(fd)


def was_killed(runtime_dir: str, pid: int) -> bool:
    """Whether `kill_qemu` did it."""
    with contextlib.suppress(OSError), open(f"{runtime_dir}/{KILLED}", "rb") as file:  # noqa: PTH123
        return file.read(20) == b"%d" % pid
    return False


def _processes() -> Iterator[int]:
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            yield int(name)


def _open_files(pid: int) -> Iterator[tuple[int, int]]:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            found = _identity(f"/proc/{pid}/fd/{name}")
            if found is not None:
                yield found


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino
