"""The one door to other processes, and to writes that may hang in the kernel.

`run_child` waits for a short tool; `guarded` makes a call in a disposable child with a deadline,
because a sysfs write such as `unbind` can sleep for ever and SIGKILL then turns its writer into
D state (vfio_unregister_group_dev). The QEMU process itself is started by `vm/spawn.py` through
`start_child`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from qlaunch.errors import KERNEL_LOG, HostError, Problem, StuckError

if TYPE_CHECKING:
    from subprocess import Popen

DEADLINE = 75.0  # PCIE_RESET_READY_POLL_MS is 60 s (drivers/pci/pci.c): longer than that
PROGRESS_FIRST = 1.0  # seconds after which a wait is told
PROGRESS_EVERY = 10.0
# SIGUSR1 is `stop --now`: the guest is not asked.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


OnWait = Callable[[str, float], None]  # what is waited for, and the seconds so far


class Done(NamedTuple):
    """A finished child."""

    code: int
    out: str
    err: str


def run_child(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout: float = 30.0,
    env: Mapping[str, str] | None = None,
    daemon: bool = False,
    on_wait: OnWait | None = None, keep: int = -1,
) -> Done:
    """Run a tool to its end. Raises HostError when it is missing or does not end in time.

    `on_wait` is called after a second. After a timeout the child has been killed and reaped. A
    `daemon` detaches itself; signals held here are not blocked in it, as they are in tools. It
    has our fd `keep`.
    """
    import subprocess  # 10 ms that the way from Enter to QEMU's start does not need

    try:
        with subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env=env, pass_fds=() if keep < 0 else (keep,),
            preexec_fn=_unblocked if daemon else None,  # noqa: PLW1509 - no threads where one starts
        ) as process:
            try:
                out, err = _communicate(process, argv[0], stdin, timeout, on_wait)
            except BaseException:
                process.kill()
                raise
    except FileNotFoundError:
        raise HostError(Problem(f"{argv[0]} is not installed", hint=f"install {argv[0]}")) from None
    except PermissionError:
        raise HostError(Problem(f"{argv[0]} may not be executed", hint=_which(argv[0]))) from None
    except subprocess.TimeoutExpired:
        from shlex import join

        raise HostError(Problem(f"{argv[0]} did not end within {timeout:g} s",
                                hint=f"try it by hand: {join(argv)}")) from None
    return Done(process.returncode, out, err)


def _communicate(
    process: Popen[str], what: str, stdin: str, timeout: float, on_wait: OnWait | None
) -> tuple[str, str]:
    from subprocess import TimeoutExpired

    sent: str | None = stdin
    if on_wait is not None:
        try:
            return process.communicate(sent, PROGRESS_FIRST)
        except TimeoutExpired:
            on_wait(what, PROGRESS_FIRST)
            timeout, sent = timeout - PROGRESS_FIRST, None
    return process.communicate(sent, timeout)


def _unblocked() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Setup(NamedTuple):
    """One call made in a child before exec; `what` names it when it fails."""

    what: str
    call: Callable[[], object]
    hint: str = ""


def start_child(
    argv: Sequence[str],
    *,
    fds: Mapping[int, int] | None = None,
    setup: Sequence[Setup] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    own_group: bool = True,
) -> int:
    """Fork, run `setup` in order, exec `argv`; the pid of the running program.

    `fds` maps each number the program shall have open to the fd we hold, 0 to 2 included; those
    of 0 to 2 that are not named are /dev/null, and nothing else is open in it. Signals are at
    their defaults and unblocked. Raises HostError naming the call that failed in the child, which
    then has been reaped. The pid is the caller's to wait for.
    """
    steps = list(setup)
    if cwd is not None:
        steps.insert(0, Setup(f"chdir {cwd}", lambda: os.chdir(cwd)))
    if own_group:
        steps.insert(0, Setup("setpgid", lambda: os.setpgid(0, 0)))
    environ = dict(os.environ if env is None else env)
    reader, writer = os.pipe()
    # Blocked, so that none of our Python handlers can run in the child and write to our wakeup fd.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _exec(list(argv), dict(fds or {}), steps, environ, writer)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        try:
            report = pipe.readall()  # empty once exec has closed the other end
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    if report:
        os.waitpid(pid, 0)
        raise HostError(_start_problem(argv[0], steps, report))
    return pid


def _exec(
    argv: list[str], fds: dict[int, int], setup: list[Setup], env: dict[str, str], report: int
) -> NoReturn:
    """The child's side: never returns, and reports what failed as `index errno text`."""
    index = -1
    try:
        report = _place_fds(fds, report)
        for one in signal.valid_signals():
            # SIGPIPE and SIGXFSZ are ignored by Python itself, and exec would keep that.
            python_ignores = one in (signal.SIGPIPE, signal.SIGXFSZ)
            if python_ignores or callable(signal.getsignal(one)):
                signal.signal(one, signal.SIG_DFL)
        for index, step in enumerate(setup):  # noqa: B007 - told in the report
            step.call()
        index = len(setup)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(argv[0], argv, env)  # noqa: S606 - an argv list, and no shell is the point
    except BaseException as error:
        number = getattr(error, "errno", None) or 0
        text = os.strerror(number) if number else f"{type(error).__name__}: {error}"
        os.write(report, f"{index} {number} {text}".encode()[:4000])
    finally:
        os._exit(127)


def _place_fds(fds: dict[int, int], report: int) -> int:
    """Leave open exactly the numbers in `fds`, 0 to 2, and the returned copy of `report`."""
    for number in {0, 1, 2} - set(fds):
        fds[number] = os.open(os.devnull, os.O_RDWR)
    above = max(fds) + 1
    # All sources go above all targets first: a target may be the number of a source not yet moved.
    copies = {n: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for n, fd in fds.items()}
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, above)
    for number, copy in copies.items():
        os.dup2(copy, number)
    keep = {report, *copies}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - closing each is the loop's body
        if int(name) not in keep:
            with suppress(OSError):  # the fd listdir() itself had open
                os.close(int(name))
    return report


def _start_problem(name: str, setup: list[Setup], report: bytes) -> Problem:
    index, number, text = report.decode(errors="replace").split(" ", 2)
    step = int(index)
    if step == len(setup):
        if int(number) == errno.ENOENT:
            return Problem(f"{name} is not installed", hint=f"install {name}")
        return Problem(f"{name} could not be executed", found=text, hint=_which(name))
    what = setup[step] if step >= 0 else Setup("handing over file descriptors", int)
    return Problem(f"{name} could not be started: {what.what} failed", found=text,
                   hint=what.hint or "run as root, outside of a container")


def _which(name: str) -> str:
    return f"ls -lL \"$(command -v '{name}')\" shows who may run it"


@contextmanager
def held_signals() -> Iterator[None]:
    """The signals that end a run and arrive in the block are delivered after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def guarded(
    action: Callable[[], str | None],
    what: str,
    *,
    deadline: float = DEADLINE, on_wait: OnWait | None = None, keep: int = -1,
) -> str:
    """Do `action` in a forked child and return its text; its OSError is raised here as one.

    `on_wait(what, seconds)` is called after a second, and every 10 s. After the deadline StuckError
    is raised and the child is left alone: a second write or a kill would only add to what hangs.
    Signals wait until the call has returned, because an undo that began meanwhile would be that
    second write. The child has no fd of ours but `keep`: a lock or a VFIO group that it held for
    ever would look like life. One that finds us dead before it begins does nothing.
    """
    with held_signals():
        reader, writer = os.pipe()
        ours, pid = os.getpid(), os.fork()
        if pid == 0:
            _child(action, ours, writer, keep)
        os.close(writer)
        try:
            reply = _wait(reader, what, deadline, on_wait)
        finally:
            os.close(reader)
        os.waitpid(pid, 0)
    kind, _, text = reply.partition(" ")
    if kind == "errno":
        number, _, path = text.partition(" ")
        raise OSError(int(number), os.strerror(int(number)), path or None)
    if kind != "ok":
        raise HostError(Problem(f"{what} failed", found=text or "its child process died",
                                hint=KERNEL_LOG))
    return text


def _child(action: Callable[[], str | None], parent: int, writer: int, keep: int) -> NoReturn:
    try:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        let_go(writer, keep)
        if os.getppid() != parent:
            os._exit(0)  # nobody would take it back
        reply = f"ok {action() or ''}"
    except OSError as error:
        reply = f"errno {error.errno or errno.EIO} {error.filename or ''}"
    except BaseException as error:
        reply = f"error {error}"
    try:
        data = memoryview(reply.encode(errors="replace"))
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def let_go(*keep: int) -> None:
    """In a forked child: close every fd but these (CLOEXEC waits for an exec); 0-2 to /dev/null.

    A lock, a VFIO group or a pipe to our reader must not outlive us in a child that hangs.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if number > 2 and number not in keep:
            with suppress(OSError):  # the listing's own fd is gone by now
                os.close(number)


def _wait(reader: int, what: str, deadline: float, on_wait: OnWait | None) -> str:
    start = time.monotonic()
    chunks: list[bytes] = []
    told = PROGRESS_FIRST
    poll = select.poll()  # select() refuses fds over 1023
    poll.register(reader, select.POLLIN)
    while True:
        passed = time.monotonic() - start
        if poll.poll(1000 * max(0.0, min(deadline, told) - passed)):
            chunk = os.read(reader, 65536)
            if not chunk:
                return b"".join(chunks).decode(errors="replace")
            chunks.append(chunk)
            continue
        passed = time.monotonic() - start
        if passed >= deadline:
            raise StuckError(
                Problem(
                    f"{what} did not return within {deadline:g} s",
                    hint="do not repeat it by hand; end what holds the device, then "
                    "qlaunch recover --all",
                )
            )
        told += PROGRESS_EVERY
        if on_wait is not None:
            on_wait(what, passed)
