"""One connection to another machine: the user's own ssh, its configuration, its questions.

The first ssh runs the guard and is the ControlMaster that every later one goes through, so that a
password is asked for once. Nothing outlives us: the guard's input is a pipe that only we hold, and
the master ends with its last session.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from qlaunch.children import Setup, run_child, start_child
from qlaunch.errors import HostError, Problem, UsageError
from qlaunch.remote.script import guard_command, verb_command

LOST = 255  # ssh's own exit code; qlaunch has no such
ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
SOON = 1.0  # seconds in which the master ends after its sessions were cut
LAST = 5.0  # seconds for the guard to tidy up
_WORDS = {signal.SIGINT: "INT", signal.SIGTERM: "TERM", signal.SIGHUP: "HUP"}


class There(NamedTuple):
    """The other machine's answer: its qlaunch, where we are, and where our files are."""

    qlaunch: str
    version: str
    directory: str
    temporary: str


class Connection:
    """To `host`, with options for ssh. Use as a context manager around all that is done there.

    `via`: what follows `qlaunch on` in a command for the other machine.
    """

    def __init__(
        self, host: str, options: Sequence[str] = (), ssh: str = "ssh", via: str = ""
    ) -> None:
        if not host or host.startswith("-") or not host.isprintable() or " " in host:
            raise UsageError(Problem("this is no host for ssh", where="qlaunch on",
                                     found=host or '""', allowed="HOST or USER@HOST"))
        self.host, self.via = host, via
        self._ssh = [ssh, *options]
        token = secrets.token_hex(8)
        self.socket = f"{_own_directory()}/qlaunch-on-{token}"
        self._marker = f"qlaunch:{token}:"
        self._guard = 0
        self._input = -1

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(over=False)

    # -- the guard ---------------------------------------------------------------------------

    def open(
        self, qlaunch: str, machine: str, directory: str, files: Mapping[str, bytes],
        *, hang_up: bool,
    ) -> There:
        """Connect, and send the files. Raises HostError."""
        sizes = [(name, len(raw)) for name, raw in files.items()]
        command = guard_command(self._marker, qlaunch, machine, directory, hang_up=hang_up,
                                files=sizes)
        options = ["-T", "-o", "ControlMaster=yes", "-o", f"ControlPath={_percent(self.socket)}",
                   "-o", "ControlPersist=no", "-o", "RemoteCommand=none",
                   "-o", "ClearAllForwardings=yes", *self._alive()]
        told, answer = os.pipe()
        heard, self._input = os.pipe()
        try:
            self._guard = start_child(
                [*self._ssh, *options, "--", self.host, command],
                fds={0: heard, 1: answer, 2: 2}, own_group=False,
                # Its own handler would end the connection; Ctrl-C is for the verb.
                setup=[Setup("SIGINT", lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))],
            )
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(answer)
            os.close(heard)
        with os.fdopen(told, encoding="utf-8", errors="replace") as lines:
            with contextlib.suppress(BrokenPipeError):
                for raw in files.values():
                    _write_all(self._input, raw)
            return self._there(lines, qlaunch)

    def _there(self, lines: Iterator[str], qlaunch: str) -> There:
        found = {"qlaunch": "", "version": "", "directory": ""}
        for line in lines:  # what a login script prints is not ours
            mark, _, rest = line.rstrip("\n").partition(" ")
            word, _, text = rest.partition(" ")
            if mark != self._marker:
                continue
            if word == "ready":
                return There(**found, temporary=text)
            if word == "directory" and not found["qlaunch"]:
                raise HostError(Problem("there is no such directory on the other machine",
                                        where=self.host, found=text, hint="--directory names it"))
            if word not in found:
                raise HostError(self._refused(word, text, qlaunch))
            found[word] = text
        code = self._ended()
        if code == LOST:
            raise HostError(Problem("ssh could not connect, or was cut off", where=self.host,
                                    hint=f"ssh {self.host} true"))
        raise HostError(Problem("the other machine's shell did not do what it was asked",
                                where=self.host, found=f"exit code {code}",
                                hint=f"ssh {self.host} sh -c true"))

    def _refused(self, word: str, text: str, qlaunch: str) -> Problem:
        if word == "missing":
            hint = "--remote-command names it" if qlaunch else (
                f"install it there; or name it: qlaunch on --remote-command PATH {self.host} …"
            )
            return Problem("qlaunch is not installed on the other machine", where=self.host,
                           found=f"no {text or 'qlaunch'}", hint=hint)
        if word == "broken":
            return Problem("qlaunch on the other machine does not start", where=self.host,
                           found=text, hint=f"ssh {self.host} qlaunch --version")
        return Problem("the profile cannot be stored on the other machine", where=self.host,
                       found=text, hint=f"ssh {self.host} df /tmp")

    def _alive(self) -> tuple[str, ...]:
        """Options that notice a dead network, unless the user's configuration has its own."""
        done = run_child([*self._ssh, "-G", "--", self.host])
        if done.code:
            raise HostError(Problem("ssh cannot use this host or its configuration",
                                    where=self.host, found=done.err.strip(),
                                    hint=f"ssh -G {self.host}"))
        return ALIVE if "serveraliveinterval 0" in done.out.splitlines() else ()

    def is_cut(self, *, ask: bool = False) -> bool:
        """Whether the connection is gone, after a verb has ended as if it were. `ask`: after
        something else has ended, which may have had its own reason: the master tells at once."""
        if ask and self._guard and not run_child(
                [*self._ssh, *self._through(), "-O", "check", "--", self.host]).code:
            return False
        end = time.monotonic() + SOON
        while self._guard and time.monotonic() < end:
            if os.waitpid(self._guard, os.WNOHANG)[0]:
                self._guard = 0
            time.sleep(0.01)
        return not self._guard

    def wait(self) -> None:
        """Return when the connection is cut."""
        if self._guard:
            os.waitpid(self._guard, 0)
            self._guard = 0

    def _ended(self) -> int:
        pid, self._guard = self._guard, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0

    def close(self, *, over: bool = True) -> None:
        """End it. `over`: the verb has ended, and is not to be hung up on."""
        if self._input >= 0:
            if over:
                self._say("over")
            os.close(self._input)
            self._input = -1
        if not self._guard:
            return
        end = time.monotonic() + LAST
        while time.monotonic() < end:
            pid, _ = os.waitpid(self._guard, os.WNOHANG)
            if pid:
                self._guard = 0
                return
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._guard, signal.SIGTERM)
        self._ended()

    def _say(self, word: str) -> None:
        if self._input >= 0:
            with contextlib.suppress(OSError):  # cut off: the guard knows as well
                os.write(self._input, f"{word}\n".encode())

    # -- what goes through it ----------------------------------------------------------------

    def run(self, there: There, words: Sequence[str], *, terminal: bool, stdin: bool) -> int:
        """Run a verb there, with our streams. Returns its exit code, or LOST.

        SIGINT, SIGTERM and SIGHUP are handed on to it; we go on until it has ended.
        """
        command = verb_command(there.qlaunch, there.temporary, there.directory, words,
                               self.via)
        # QUIET: no "Shared connection closed". Without the master nothing shall be reached.
        options = [*self._through(), "-o", "LogLevel=ERROR", "-o", "RemoteCommand=none",
                   "-t" if terminal else "-T"]
        fds = {1: 1, 2: 2, **({0: 0} if stdin else {})}
        with self._handing_on():
            pid = start_child(
                [*self._ssh, *options, "--", self.host, command], fds=fds, own_group=not terminal
            )
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return LOST if code < 0 else code

    def ask(self, there: There, words: Sequence[str]) -> tuple[int, str]:
        """Run a verb there, and read what it writes. Its messages are ours."""
        command = verb_command(there.qlaunch, there.temporary, there.directory, words,
                               self.via)
        told, answer = os.pipe()
        options = [*self._through(), "-o", "LogLevel=ERROR", "-T"]
        try:
            pid = start_child([*self._ssh, *options, "--", self.host, command],
                              fds={1: answer, 2: 2})
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(answer)
        with os.fdopen(told, encoding="utf-8", errors="replace") as pipe:
            text = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return (LOST if code < 0 else code), text

    @contextlib.contextmanager
    def forwarded(self, remote: str) -> Iterator[str]:
        """A local socket, for this user alone, that leads to a unix socket over there."""
        local = f"{self.socket}.display"
        done = run_child([*self._ssh, *self._through(), "-O", "forward",
                          "-L", f"{local}:{remote}", "--", self.host])
        if done.code:
            raise HostError(Problem("ssh does not forward the display's socket", where=self.host,
                                    found=done.err.strip() or f"exit code {done.code}",
                                    hint="AllowStreamLocalForwarding in its sshd_config"))
        try:
            yield local
        finally:
            with contextlib.suppress(OSError):
                Path(local).unlink()

    def _through(self) -> list[str]:
        return ["-o", "ControlMaster=no", "-o", f"ControlPath={_percent(self.socket)}",
                "-o", "ProxyCommand=false"]

    @contextlib.contextmanager
    def _handing_on(self) -> Iterator[None]:
        def hand_on(number: int, _: FrameType | None) -> None:
            self._say(_WORDS[signal.Signals(number)])

        before = {number: signal.signal(number, hand_on) for number in _WORDS
                  if signal.getsignal(number) is not signal.SIG_IGN}  # nohup
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _own_directory() -> str:
    """Where the connection's socket is; ssh makes it, and takes it away."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = named.startswith("/") and len(named) < 40 and os.access(named, os.W_OK)
    return named if usable else "/tmp"  # noqa: S108 - the name is random, and ssh binds it 0600


def _percent(path: str) -> str:
    return path.replace("%", "%%")


def _write_all(fd: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(fd, view) :]
