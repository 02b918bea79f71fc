"""A qlaunch at a terminal: a pseudo-terminal of its own, which is its controlling one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time


class Terminal:
    """A qlaunch on a pseudo-terminal of its own."""

    def __init__(
        self, *words: str, rows: int = 24, columns: int = 80, term: str = "xterm"
    ) -> None:
        self.ours, self.theirs = pty.openpty()
        self.fds = [self.ours, self.theirs]
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.text = b""
        self.child = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "qlaunch", *words], stdin=self.theirs,
            stdout=self.theirs, stderr=self.theirs, env={**os.environ, "TERM": term},
        )

    def type(self, data: bytes) -> None:
        os.write(self.ours, data)

    def until(self, text: bytes, seconds: float = 30) -> bytes:
        """All that came since the last call, up to and with a text."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self.ours], [], [], 0.2)[0]:
                self.text += os.read(self.ours, 4096)
        before, found, self.text = self.text.partition(text)
        return before + found

    def end(self, seconds: float = 30) -> int:
        """Its exit code; nothing of what it does to the terminal may be left."""
        deadline = time.monotonic() + seconds
        while self.child.poll() is None:
            assert time.monotonic() < deadline, self.text
            if select.select([self.ours], [], [], 0.1)[0]:
                self.text += os.read(self.ours, 4096)
        while select.select([self.ours], [], [], 0.1)[0]:
            self.text += os.read(self.ours, 4096)
        assert termios.tcgetattr(self.theirs) == self.before
        self.close()
        return int(self.child.returncode)

    def close(self) -> None:
        """For a test that has failed: nothing of it runs on."""
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(30)
        while self.fds:
            os.close(self.fds.pop())

    def __del__(self) -> None:
        self.close()
