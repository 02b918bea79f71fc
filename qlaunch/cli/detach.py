"""Leave the terminal: the launcher goes on in a session of its own, and tells when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from qlaunch.cli.main import tell
from qlaunch.cli.text import write
from qlaunch.errors import EXIT_FAILED, EXIT_OK, QlaunchError


def detached(name: str, session: Callable[[Callable[[], None]], int]) -> int:
    """Run `session(on_running)` in a child; returns when the guest runs, or with its exit code.

    Errors up to then are the caller's to see, on their terminal; later ones are in the log.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(session, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        running = pipe.read(1) == b"r"
    if running:
        write(f"{name} runs; qlaunch status '{name}', qlaunch stop '{name}'\n")
        return EXIT_OK
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _child(session: Callable[[Callable[[], None]], int], writer: int) -> NoReturn:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def running() -> None:
        os.dup2(null, 2)
        os.write(writer, b"r")
        os.close(writer)

    code = EXIT_FAILED
    try:
        code = session(running)
    except QlaunchError as error:
        tell(error.problems)
        code = error.exit_code
    except BaseException as error:
        sys.stderr.write(f"error: internal fault, please report it\n  found:   {error!r}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)
