"""A command at a terminal whose user answers polkit's question: `agent.py PASSWORD COMMAND …`.

pkttyagent(1) asks for what the command's own process wants, as a desktop's agent does in a window.
What was seen goes to stdout. The password is typed once the terminal has stopped to echo.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import tempfile
import termios
from contextlib import suppress

ASKED = b"Password: "
WITH_AGENT = """\
pkttyagent --process $$ --notify-fd 5 5>"$1" &
cat "$1"
shift
exec "$@"
"""


def at_terminal(password: str, words: list[str]) -> int:
    """The command's exit code."""
    with tempfile.TemporaryDirectory() as place:
        ready = f"{place}/ready"
        os.mkfifo(ready)
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp("sh", ["sh", "-c", WITH_AGENT, "sh", ready, *words])  # noqa: S606
        seen, answered, status = b"", 0, None
        while True:
            readable, _, _ = select.select([terminal], [], [], 0.05)
            if readable:
                try:
                    chunk = os.read(terminal, 4096)
                except OSError:
                    break
                if not chunk:
                    break
                seen += chunk
                sys.stdout.write(chunk.decode())
                sys.stdout.flush()
            elif status is not None:
                break  # the agent may wait on for a process that nobody has waited for
            elif os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                status = os.waitpid(pid, 0)[1]
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGTERM)
            hidden = not termios.tcgetattr(terminal)[3] & termios.ECHO
            if seen.count(ASKED) > answered and hidden:
                os.write(terminal, f"{password}\n".encode())
                answered += 1
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1] if status is None else status)


sys.exit(at_terminal(sys.argv[1], sys.argv[2:]))
