"""The lab host's own QMP monitor, used from inside the lab host.

It is how a test looks at the monitor plugged into the passed-through card: QEMU emulates the card,
so it can tell what the card shows, whoever drives it. It arrives as a virtio-serial port, which
stays open in QEMU over many users: a greeting comes only to the first, and answers are told by
their id.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .png import png_from_ppm

PORTS = Path("/sys/class/virtio-ports")
COLUMNS, ROWS = 80, 25


class MonitorError(RuntimeError):
    """QMP said no, or nothing."""


def port(name: str = "labqmp") -> Path:
    """By sysfs: the links in /dev/virtio-ports are udev's."""
    for entry in PORTS.iterdir():
        if (entry / "name").read_text().strip() == name:
            return Path("/dev") / entry.name
    raise MonitorError(f"no virtio port is named {name}")


class Monitor:
    """Synchronous QMP; one user at a time (the port's second open says EBUSY)."""

    def __init__(self, device: Path | None = None, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self._ids = itertools.count(time.monotonic_ns())
        self._pending = b""
        self._fd = os.open(device or port(), os.O_RDWR | os.O_NONBLOCK)
        try:
            self.execute("qmp_capabilities")
        except MonitorError as error:
            if "already complete" not in str(error):
                self.close()
                raise

    def close(self) -> None:
        os.close(self._fd)

    def execute(self, command: str, **arguments: object) -> Any:
        """The `return` member of the answer."""
        number = next(self._ids)
        message = {"execute": command, "arguments": arguments, "id": number}
        self._send(json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + self.timeout
        while True:
            answer = json.loads(self._line(deadline))
            if answer.get("id") != number:
                continue
            if "error" in answer:
                raise MonitorError(f"{command}: {answer['error']['desc']}")
            return answer["return"]

    def human(self, command: str) -> str:
        """A command of the human monitor and what it prints."""
        return str(self.execute("human-monitor-command", **{"command-line": command}))

    def screen_text(self) -> list[str]:
        """The text screen, 25 lines of 80 characters, of the card that VGA accesses go to.

        Text memory tells the truth only in text mode: in a graphics mode it is whatever was left.
        """
        dump = self.human(f"xp /{COLUMNS * ROWS * 2}bx 0xb8000")
        memory = bytes(int(byte, 16) for byte in re.findall(r"\b0x([0-9a-f]{2})\b", dump))
        text = memory[::2].decode("cp437").replace("\0", " ")
        return [text[at : at + COLUMNS] for at in range(0, COLUMNS * ROWS, COLUMNS)]

    def wait_for_text(self, wanted: str, timeout: float = 120.0) -> list[str]:
        """The screen as soon as `wanted` is on it."""
        return self.wait_for(lambda lines: wanted in "\n".join(lines), timeout, wanted)

    def wait_for(self, accept: Callable[[list[str]], bool], timeout: float, what: str) -> list[str]:
        deadline = time.monotonic() + timeout
        while True:
            lines = self.screen_text()
            if accept(lines):
                return lines
            if time.monotonic() > deadline:
                shown = "\n".join(line.rstrip() for line in lines)
                raise MonitorError(f"{what}: not on the screen after {timeout:.0f} s\n{shown}")
            time.sleep(0.5)

    def screendump(self, path: Path, device: str = "gpu0") -> Path:
        """What the card's monitor shows, as a PNG. QEMU writes it, outside: use a shared path."""
        try:
            self.execute("screendump", filename=str(path), device=device, format="png")
        except MonitorError:
            ppm = path.with_suffix(".ppm")
            self.execute("screendump", filename=str(ppm), device=device)
            path.write_bytes(png_from_ppm(ppm.read_bytes()))
            ppm.unlink()
        return path

    def _send(self, data: bytes) -> None:
        while data:
            self._poll(select.POLLOUT, time.monotonic() + self.timeout)
            data = data[os.write(self._fd, data) :]

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._pending:
            self._poll(select.POLLIN, deadline)
            self._pending += os.read(self._fd, 1 << 16)
        line, self._pending = self._pending.split(b"\n", 1)
        return line

    def _poll(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._fd, events)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise MonitorError(f"the monitor did not answer within {self.timeout:.0f} s")
