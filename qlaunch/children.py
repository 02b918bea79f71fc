"""The one door to other processes, and to writes that may hang in the kernel.

`run_child` waits for a short tool; `guarded` makes a call in a disposable child with a deadline,
because a sysfs write such as `unbind` can sleep for ever and SIGKILL then turns its writer into
D state (vfio_unregister_group_dev). The QEMU process itself is started by `vm/spawn.py` through
`start_child`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from qlaunch.errors import HostError, Problem, StuckError

DEADLINE = 75.0  # PCIE_RESET_READY_POLL_MS is 60 s (drivers/pci/pci.c): longer than that
PROGRESS_EVERY = 10.0

Process = subprocess.Popen  # so that callers can name the type without a second door


class Done(NamedTuple):
    """A finished child."""

    code: int
    out: str
    err: str


def run_child(
    argv: Sequence[str], *, stdin: str = "", timeout: float = 30.0, env: Mapping[str, str] | None = None
) -> Done:
    """Run a tool to its end. Raises HostError when it is missing or does not end in time.

    After a timeout the child has been killed and reaped.
    """
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, errors="replace",
            timeout=timeout, env=env, check=False,
        )
    except FileNotFoundError:
        raise HostError(Problem(f"{argv[0]} is not installed", hint=f"install {argv[0]}")) from None
    except PermissionError:
        raise HostError(Problem(f"{argv[0]} may not be executed")) from None
    except subprocess.TimeoutExpired:
        raise HostError(Problem(f"{argv[0]} did not end within {timeout:g} s")) from None
    return Done(done.returncode, done.stdout, done.stderr)


def start_child(
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    setup: Callable[[], None] | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a long-lived child in its own process group; `setup` runs in it just before exec.

    Every fd but `pass_fds` is closed in the child. Raises HostError when it cannot be executed.
    """

    def prepare() -> None:
        os.setpgid(0, 0)
        if setup is not None:
            setup()

    try:
        return subprocess.Popen(
            list(argv), pass_fds=tuple(pass_fds), preexec_fn=prepare, stdin=stdin, stdout=stdout,
            stderr=stderr, env=env, cwd=cwd,
        )
    except FileNotFoundError:
        raise HostError(Problem(f"{argv[0]} is not installed", hint=f"install {argv[0]}")) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(Problem(f"{argv[0]} could not be started", found=str(error))) from None


def guarded(
    action: Callable[[], str | None],
    what: str,
    *,
    deadline: float = DEADLINE,
    on_wait: Callable[[str, float], None] | None = None,
) -> str:
    """Do `action` in a forked child and return its text; its OSError is raised here as one.

    `on_wait(what, seconds)` is called every 10 s. After the deadline StuckError is raised and the
    child is left alone: a second write or a kill would only add to what hangs.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(action, reader, writer)
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
        raise HostError(Problem(f"{what} failed", found=text or "its child process died"))
    return text


def _child(action: Callable[[], str | None], reader: int, writer: int) -> None:
    os.close(reader)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        reply = f"ok {action() or ''}"
    except OSError as error:
        reply = f"errno {error.errno or 5} {error.filename or ''}"
    except BaseException as error:
        reply = f"error {error}"
    os.write(writer, reply.encode()[:60000])
    os._exit(0)


def _wait(
    reader: int, what: str, deadline: float, on_wait: Callable[[str, float], None] | None
) -> str:
    start = time.monotonic()
    chunks: list[bytes] = []
    told = PROGRESS_EVERY
    while True:
        passed = time.monotonic() - start
        ready, _, _ = select.select([reader], [], [], max(0.0, min(deadline, told) - passed))
        if ready:
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
                    hint="do not repeat it by hand; end what holds the device, then qlaunch recover --all",
                )
            )
        told += PROGRESS_EVERY
        if on_wait is not None:
            on_wait(what, passed)
