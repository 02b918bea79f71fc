"""Leave the terminal: the launcher goes on in a session of its own, and tells when it runs.

Where a systemd keeps services over all logouts, `run` is one instead (cli/unit.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from shlex import join
from typing import NoReturn

from qlaunch.children import ENDING, held_signals
from qlaunch.cli.command import own_command, typed
from qlaunch.cli.main import tell
from qlaunch.cli.text import say, write
from qlaunch.errors import EXIT_FAILED, EXIT_OK, Problem, QlaunchError


def detached(name: str, session: Callable[[Callable[[], None]], int]) -> int:
    """Run `session(on_running)` in a child; returns when the guest runs, or with its exit code.

    Errors up to then are the caller's to see, on their terminal; later ones are in the log. Ctrl-C
    until then stops the start; when this process is ended otherwise, the child goes on.
    """
    tell(at_logout())
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    with held_signals():  # a Ctrl-C must not find the child before it has left the terminal
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(session, writer)
        os.close(writer)
        running, ended = _wait(pid, reader, name)
    if running:
        write(typed(f"{name} runs; qlaunch status '{name}', qlaunch stop '{name}'\n"))
        return EXIT_OK
    code = os.waitstatus_to_exitcode(ended)
    if code < 0:
        say(f"{name}: its launcher was ended by {signal.Signals(-code).name}")
        return EXIT_FAILED
    return code


def at_logout(root: Path = Path("/")) -> list[Problem]:
    """What would keep this machine from outliving the login, as warnings."""
    from qlaunch.facts.invoker import read_invoker
    from qlaunch.facts.logout import read_logout

    user = read_invoker()
    found = read_logout(user.name, user.uid, "" if user.root else user.runtime_dir, root)
    linger = f"sudo loginctl enable-linger {user.name}"
    if found.kills:
        command = f"{own_command()} {join(sys.argv[1:])}"  # sudo and systemd-run have own PATHs
        hint = f"sudo systemd-run --scope {command}"
        if not user.root:
            hint = f"{linger}; systemd-run --user --scope {command}" if found.loses else (
                f"systemd-run --user --scope {command}"
            )
        return [Problem("systemd ends this machine when you log out",
                        found=f"KillUserProcesses=yes for {found.scope}", hint=hint,
                        severity="warning")]
    if found.loses:
        return [Problem("once you have logged out everywhere, qlaunch cannot reach this machine",
                        found=f"{user.runtime_dir} is removed then: lingering is off",
                        hint=linger, severity="warning")]
    return []


def _wait(pid: int, reader: int, name: str) -> tuple[bool, int]:
    """Whether it runs, else the child's wait status. Ctrl-C is handed on to the child."""
    running = b""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # what came before is for it too
                running = running or pipe.read(1) or b""
                return running == b"r", 0 if running else os.waitpid(pid, 0)[1]
            except KeyboardInterrupt:
                say(f"{name}: stopping")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)


def _child(session: Callable[[Callable[[], None]], int], writer: int) -> NoReturn:
    code = EXIT_FAILED
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)

        def running() -> None:
            os.dup2(null, 2)
            with contextlib.suppress(OSError):  # who waited is gone; this is what outlives them
                os.write(writer, b"r")
            os.close(writer)

        code = session(running)
    except QlaunchError as error:
        tell(error.problems)
        code = error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
    except BaseException as error:
        say(f"error: internal fault, please report it\n  found:   {error!r}")
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
