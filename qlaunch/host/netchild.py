"""A forked helper that talks to network links for the launcher.

Importing pyroute2 takes 70 ms and 15 MiB, which the launcher does not want to wait for or to carry
while a guest runs: the helper imports it while other work goes on, serves requests over a socket
pair and takes the memory with it when it ends. Little is imported here, so that it can be started
before anything else.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

from qlaunch import children
from qlaunch.errors import KERNEL_LOG, HostError, Problem, StuckError

_MESSAGE = 1 << 16


class NetChild:
    """The helper process. `start` begins the import; `call` starts it when it is not running."""

    def __init__(self, deadline: float = children.DEADLINE) -> None:
        self.deadline = deadline
        self.pid = 0
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Fork it, unless it runs."""
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with children.held_signals():
            pid = os.fork()
            if pid == 0:
                _serve(theirs)
            self.pid, self._socket = pid, ours
        theirs.close()

    def call(self, verb: str, lock: int = -1, **arguments: object) -> dict[str, Any]:
        """See Net. After StuckError that helper is left alone; the next call has a new one."""
        import json  # its two milliseconds are not every machine's

        self.start()
        assert self._socket is not None  # noqa: S101 - for the type checker
        with children.held_signals():
            try:
                fds = [] if lock < 0 else [lock]
                socket.send_fds(self._socket, [json.dumps([verb, arguments]).encode()], fds)
                poll = select.poll()
                poll.register(self._socket, select.POLLIN)
                if not poll.poll(1000 * self.deadline):
                    self._socket.close()
                    self._socket = None
                    text = f"the network did not {verb} within {self.deadline:g} s"
                    raise StuckError(Problem(text, hint=KERNEL_LOG))
                raw = self._socket.recv(_MESSAGE)
            except OSError:
                raw = b""
        if not raw:
            self.close()
            raise HostError(Problem(
                "the network helper ended unexpectedly",
                hint=f"{sys.executable} -c 'import pyroute2' tells whether it can work at all"))
        answer: dict[str, Any] = json.loads(raw)
        if "problem" in answer:
            raise HostError(Problem(*answer["problem"]))
        return answer

    def close(self) -> None:
        """End it; idle by then, so it is simply killed."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _serve(theirs: socket.socket) -> NoReturn:
    """The helper's life: until the other end closes, which a killed launcher does as well."""
    try:
        import json

        for number in children.ENDING:
            signal.signal(number, signal.SIG_IGN)
        children.let_go(theirs.fileno())
        from qlaunch.host.net import Links, preload

        preload()
        links = Links()
        while True:
            # A request that waits here outlives its launcher.
            raw, locks, _, _ = socket.recv_fds(theirs, _MESSAGE, 1)
            if not raw:
                break
            verb, arguments = json.loads(raw)
            try:
                answer = links.call(verb, **arguments)
            except HostError as error:
                answer = {"problem": list(error.problems[0])}
            except Exception as error:
                answer = {"problem": [f"cannot {verb} the link", "", str(error), "", KERNEL_LOG]}
            for fd in locks:
                os.close(fd)
            theirs.send(json.dumps(answer).encode())
    finally:
        os._exit(0)
