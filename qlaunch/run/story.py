"""What a run tells: lines on stderr, and the same lines with their time in the machine's log."""

from __future__ import annotations

import contextlib
import os
import sys
import time

LOG = "qlaunch.log"
QEMU_LOG = "qemu.log"
STAMP = len("2000-01-01 00:00:00 ")


def log_size(state_dir: str) -> int:
    """Where the machine's log ends now: for `ended_how`."""
    with contextlib.suppress(OSError):
        return os.stat(f"{state_dir}/{LOG}", follow_symlinks=False).st_size  # noqa: PTH116
    return 0


def ended_how(state_dir: str, name: str, offset: int) -> str:
    """The sentence about the machine's end that its log got after `offset`, or ""."""
    try:
        fd = os.open(
            f"{state_dir}/{LOG}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file, contextlib.suppress(OSError):
        file.seek(offset)
        for line in reversed(file.read(1 << 20).decode(errors="replace").splitlines()):
            told = line[STAMP:]
            if told.startswith(f"{name}: ended"):
                return told
    return ""


class Story:
    """Tells the user, and the log once there is one. Never raises: a closed terminal or a full
    disk must not keep a device from its driver."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._fd: int | None = None
        self._early: list[str] = []

    def to_file(self, fd: int) -> None:
        """Write to this fd from now on, and what was told before."""
        self._fd = fd
        for line in self._early:
            self._log(line)
        self._early.clear()

    def say(self, text: str) -> None:
        """One line for the user and the log."""
        if not self.quiet:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
        self.note(text)

    def note(self, text: str) -> None:
        """One line for the log only."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        line = "".join(f"{stamp} {part}\n" for part in text.splitlines() or [""])
        if self._fd is None:
            self._early.append(line)
        else:
            self._log(line)

    def _log(self, line: str) -> None:
        with contextlib.suppress(OSError):
            if self._fd is not None:
                os.write(self._fd, line.encode(errors="replace"))

    def close(self) -> None:
        """Close the log."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
