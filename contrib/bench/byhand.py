"""What a careful person would type, and no more: open, exec, two QMP commands.

The end of every measurement is taken here too: `Observer` sits on the second monitor that the
argv has for the user, and reads from the RESUME event when QEMU let its CPUs go.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from machine import NULL, Machine, spawn

TUNSETIFF = 0x400454CA
TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
SIOCSIFFLAGS, SIOCBRADDIF, SIOCGIFINDEX = 0x8914, 0x89A2, 0x8933
IFF_UP = 1
DIAL_EVERY = 0.001
PATIENCE = 20.0


def by_hand(machine: Machine) -> float:
    """Milliseconds from nothing to RESUME."""
    begin = time.time()
    with contextlib.ExitStack() as stack:
        fds = {0: NULL, 1: NULL, 2: 2}
        paths = {"control": str(machine.directory / "c"), "qmp": str(machine.directory / "q")}
        for number, text in machine.fds.items():
            kind, _, what = text.partition(" ")
            fds[number] = fd = _open(kind, what, paths, machine)
            stack.callback(os.close, fd)
        pid = spawn(machine.argv, fds)
    try:
        with Observer(paths["qmp"], pid) as observer, Qmp(paths["control"]) as qmp:
            qmp.ask("cont")
            resumed = observer.resumed()
            qmp.ask("quit")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.waitpid(pid, 0)
    for path in paths.values():
        Path(path).unlink(missing_ok=True)
    return (resumed - begin) * 1000


def _open(kind: str, what: str, paths: dict[str, str], machine: Machine) -> int:
    if kind in paths:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(paths[kind])
        listener.listen(4)
        return listener.detach()
    if kind == "tap":
        return _tap(machine.bridge)
    what = {"lock": str(machine.directory / "lock"), "vhost": "/dev/vhost-net"}.get(kind, what)
    return os.open(what, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _tap(bridge: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    name = fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tap%d", TAP_FLAGS))[:16]
    with socket.socket() as door:
        index = struct.unpack("16si20x", fcntl.ioctl(door, SIOCGIFINDEX, name + bytes(24)))[1]
        fcntl.ioctl(door, SIOCBRADDIF, struct.pack("16si20x", bridge.encode(), index))
        fcntl.ioctl(door, SIOCSIFFLAGS, struct.pack("16sH22x", name, IFF_UP))
    return fd


class Qmp:
    """A connection without a library. Waits for the path to appear."""

    def __init__(self, path: str, pid: int | None = None) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                self._socket.close()
                if time.monotonic() > end or (pid and _ended(pid)):
                    raise SystemExit(f"nobody listens on {path}") from None
                time.sleep(DIAL_EVERY)
        self._socket.settimeout(PATIENCE)
        self._lines = self._socket.makefile("rb")
        # Before the greeting: QEMU reads it first of all, and so no event can be missed.
        self.ask("qmp_capabilities")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._socket.close()

    def send(self, command: str) -> None:
        self._socket.sendall(json.dumps({"execute": command}).encode())

    def read(self, key: str, value: str = "") -> Any:
        """The next message that has `key` (and this value)."""
        while line := self._lines.readline():
            message = json.loads(line)
            if "error" in message:
                raise SystemExit(str(message))
            if key in message and value in ("", message[key]):
                return message
        raise SystemExit("QEMU has ended")

    def ask(self, command: str) -> Any:
        self.send(command)
        return self.read("return")


class Observer(Qmp):
    """On the user's monitor."""

    def __enter__(self) -> Observer:
        return self

    def resumed(self) -> float:
        """Seconds since the epoch by QEMU's clock, which is ours."""
        stamp = self.read("event", "RESUME")["timestamp"]
        return float(stamp["seconds"]) + float(stamp["microseconds"]) / 1e6


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
