"""`run --detach` where systemd is PID 1: the launcher is a transient service, qlaunch-NAME.

So no login is about it, and whatever ends it, systemd then runs `qlaunch recover NAME`, which
watches a guest that still runs, or gives back what is left. Until the guest runs, the launcher
speaks to whoever waits on the terminal, over a socket; from then on to systemd's journal.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from qlaunch.children import start_child
from qlaunch.cli.command import typed
from qlaunch.cli.main import tell
from qlaunch.cli.notify import notify
from qlaunch.cli.text import say, write
from qlaunch.errors import EXIT_FAILED, EXIT_OK, HostError, Problem, QlaunchError

ASKED = "QLAUNCH_UNIT"  # to the service: the socket's name; from the user: "no"
PROPERTIES = (
    "KillMode=process",  # QEMU outlives its launcher; `recover` goes on watching it
    "OOMPolicy=continue",  # who was killed is the launcher's to see
    "Delegate=yes",  # QEMU's own group is in the service's
    # The launcher's deadlines know the guest's memory, its devices and [stop] timeout.
    "TimeoutStartSec=infinity", "TimeoutStopSec=infinity",
    "LimitMEMLOCK=infinity",
)
# The host's shutdown ends it before these go, on which its disks (NFS, iSCSI) may lie, as in
# contrib/systemd/qlaunch@.service. A user's manager has no such units.
ORDER = "After=network-online.target remote-fs.target"
GOING = 30.0  # seconds that the service of an earlier run may take to end
# What profiles, accounts, windows and sound depend on; secrets of a shell are not told to systemd.
_KEPT = frozenset((
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "DISPLAY", "WAYLAND_DISPLAY",
    "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "SUDO_UID", "SUDO_GID", "SUDO_USER", "PKEXEC_UID",
    "SSH_CONNECTION",
))
_KEPT_KINDS = ("LC_", "XDG_", "QLAUNCH_", "PULSE_", "PIPEWIRE_", "SDL_", "GTK_", "GDK_")
_CREDENTIALS = struct.Struct("3i")  # ucred: pid, uid, gid (socket(7))


def unit_name(name: str) -> str:
    """The service of a machine; escaped as systemd.unit(5) says."""
    plain = "".join(c if c.isalnum() or c in "-._" else f"\\x{ord(c):02x}" for c in name)
    return f"qlaunch-{plain}.service"


def command(name: str, manager: str, address: str, environ: Mapping[str, str]) -> list[str]:
    """The systemd-run that starts this very command again as a service. `manager` is "system" or
    "user"."""
    own = [sys.executable, "-I", "-m", "qlaunch"]
    properties = (*PROPERTIES, ORDER) if manager == "system" else PROPERTIES
    after = " ".join(_quoted(word) for word in (*own, "recover", name))
    kept = {k: v for k, v in environ.items() if k in _KEPT or k.startswith(_KEPT_KINDS)}
    kept[ASKED] = address
    return [
        "systemd-run", f"--{manager}", "--quiet", "--collect", "--service-type=notify",
        f"--unit={unit_name(name)}", f"--description=Machine {name} (qlaunch)",
        f"--working-directory={Path.cwd()}", f"--property=ExecStopPost=-{after}",
        *(f"--property={each}" for each in properties),
        *(f"--setenv={k}={v}" for k, v in sorted(kept.items()) if v and v.isprintable()),
        "--", *(word.replace("$", "$$") for word in (*own, *sys.argv[1:])),
    ]


def _quoted(word: str) -> str:
    """One word of a command in a unit: systemd would expand $, and quotes hold the rest."""
    for before, after in (("\\", "\\\\"), ('"', '\\"'), ("$", "$$")):
        word = word.replace(before, after)
    return f'"{word}"'


def is_service() -> bool:
    """Whether this process is the service that somebody waits for."""
    return os.environ.get(ASKED, "") not in ("", "no")


def manager() -> str:
    """Whose service it can be: the manager's that outlives this login. "" without one."""
    import shutil

    from qlaunch.facts.invoker import read_invoker
    from qlaunch.facts.logout import read_manager

    if os.environ.get(ASKED) == "no" or shutil.which("systemd-run") is None:
        return ""
    user = read_invoker()
    return read_manager("" if user.root else user.name, user.runtime_dir)


# -- who waits ------------------------------------------------------------------------------------


def in_unit(name: str, manager: str) -> int:
    """Start it and wait until the guest runs or the start has failed; the exit code.

    Errors up to then are shown here. Ctrl-C stops the start; when this process is ended otherwise,
    the service goes on. Raises HostError when the machine runs, or systemd starts nothing.
    """
    from qlaunch.cli.base import runtime_base
    from qlaunch.facts.holders import ssh_client
    from qlaunch.run.info import is_alive

    environ = dict(os.environ)
    environ["SSH_CONNECTION"] = ssh_client(Path("/")) or ""  # that way back is not to be cut
    stop = _Stop(name)
    until = time.monotonic() + GOING
    while True:
        if is_alive(f"{runtime_base()}/{name}"):
            raise HostError(Problem(f"{name} is running",
                                    hint=f"qlaunch status '{name}'; qlaunch stop '{name}'"))
        code, said = _start(name, manager, environ, stop)
        if code is not None:
            return code
        if "already" not in said or time.monotonic() > until or stop.asked:
            break
        time.sleep(0.1)  # the service of the run before is about to end
    option = "--user " if manager == "user" else ""
    raise HostError(Problem("systemd has not started the machine", name, found=said,
                            hint=f"journalctl {option}-u '{unit_name(name)}' -n 20"))


def _start(
    name: str, manager: str, environ: Mapping[str, str], stop: _Stop
) -> tuple[int | None, str]:
    """The service's exit code; None when it never spoke, with systemd-run's words."""
    address = f"qlaunch-{os.getpid()}-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"\0{address}")
        door.listen(1)
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as words:
            argv = command(name, manager, address, environ)
            try:
                pid = start_child(argv, fds={1: writer, 2: writer})
            finally:
                os.close(writer)
            try:
                code = _listen(door, words, stop)
                said = "" if code is not None else words.read().decode(errors="replace").strip()
                return code, said
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)  # it only waits; the service does not end with it
                os.waitpid(pid, 0)


class _Stop:
    """Ctrl-C while we wait is the launcher's, once it is there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = False
        self.port: socket.socket | None = None
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: object) -> None:
        say(f"{self.name}: stopping")
        self.asked = True
        self.pass_on()

    def pass_on(self) -> None:
        """Now, if it is known whom to tell."""
        if self.asked and self.port is not None:
            with contextlib.suppress(OSError):
                os.kill(_peer(self.port)[0], signal.SIGTERM)


def _listen(door: socket.socket, words: BinaryIO, stop: _Stop) -> int | None:
    """The exit code that the service tells; None when it never spoke."""
    port = _accepted(door, words)
    if port is None:
        return None
    with port:
        stop.port = port
        stop.pass_on()
        while True:
            said = port.recv(65536)
            text, _, end = said.partition(b"\0")
            with contextlib.suppress(OSError):
                os.write(2, text)
            if end == b"r":
                write(typed(f"{stop.name} runs; qlaunch status '{stop.name}', "
                            f"qlaunch stop '{stop.name}'\n"))
                return EXIT_OK
            if end or not said:  # without a word it was killed, and systemd undoes what it did
                return int(end or EXIT_FAILED)


def _accepted(door: socket.socket, words: BinaryIO) -> socket.socket | None:
    """The service's connection; None once systemd-run has given up. Strangers are turned away."""
    poll = select.poll()
    poll.register(door, select.POLLIN)
    poll.register(words, select.POLLHUP)
    while True:
        ready = dict(poll.poll())
        if door.fileno() not in ready:
            return None
        port, _ = door.accept()
        if _peer(port)[1] == os.geteuid():
            return port
        port.close()


def _peer(port: socket.socket) -> tuple[int, int, int]:
    data = port.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(data)


# -- the service ----------------------------------------------------------------------------------


def reported(session: Callable[[Callable[[], None]], int]) -> int:
    """In the service: `session(on_running)`, with what it says shown to whoever waits. Raises
    HostError when nobody waits, or somebody else."""
    with contextlib.closing(_Report(os.environ.pop(ASKED))) as report:

        def running() -> None:
            notify("READY=1\nSTATUS=the guest runs")
            report.finish("r")

        code = EXIT_FAILED
        try:
            code = session(running)
        except QlaunchError as error:
            tell(error.problems)
            code = error.exit_code
        except KeyboardInterrupt:
            say("interrupted")
        finally:
            report.finish(str(code))
    return code


class _Report:
    """Our stderr goes to who waits, until the outcome has been told; then to the journal."""

    def __init__(self, address: str) -> None:
        self._port = socket.socket(socket.AF_UNIX)
        try:
            self._port.connect(f"\0{address}")
            stranger = _peer(self._port)[1] != os.geteuid()
        except OSError as error:
            self._port.close()
            raise HostError(Problem("who asked for this machine does not wait any more",
                                    found=error.strerror or "")) from None
        if stranger:
            self._port.close()
            raise HostError(Problem("somebody else asked for this machine"))
        self._journal = os.dup(2)
        os.dup2(self._port.fileno(), 2)
        self._told = False

    def finish(self, word: str) -> None:
        """Once; later words are not sent."""
        if self._told:
            return
        self._told = True
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(self._journal, 2)
        with contextlib.suppress(OSError):  # who waited is gone
            self._port.sendall(f"\0{word}".encode())
        self._port.close()

    def close(self) -> None:
        """Let go of the journal's copy."""
        os.close(self._journal)
