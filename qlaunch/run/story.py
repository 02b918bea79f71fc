"""What a run tells: lines on stderr, and the same lines with their time in the machine's log."""

from __future__ import annotations

import contextlib
import os
import sys
import time

LOG = "qlaunch.log"
QEMU_LOG = "qemu.log"
STAMP = len("2000-01-01 00:00:00 ")
LARGE = 4 << 20  # bytes; a log that is larger at a start is set aside
KEPT = 2  # of those set aside: .1 is the newest
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def open_log(path: str) -> int:
    """A log to append to, begun anew when it is large. Raises OSError."""
    fd = os.open(path, _FLAGS, 0o600)
    if os.fstat(fd).st_size <= LARGE:
        return fd
    try:
        for number in range(KEPT, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                older = f"{path}.{number - 1}" if number > 1 else path
                os.replace(older, f"{path}.{number}")  # noqa: PTH105
        new = os.open(path, _FLAGS, 0o600)
    except OSError:
        return fd  # one that grows is better than none
    os.close(fd)
    return new


def log_size(state_dir: str) -> int:
    """Where the machine's log ends now: for `ended_how`."""
    with contextlib.suppress(OSError):
        return os.stat(f"{state_dir}/{LOG}", follow_symlinks=False).st_size  # noqa: PTH116
    return 0


def ended_how(state_dir: str, name: str, offset: int) -> str:
    """The sentence about the machine's end that its log got after `offset`, or ""."""
    lines = _lines_after(state_dir, offset)
    return next((line for line in reversed(lines) if line.startswith(f"{name}: ended")), "")


def last_line(state_dir: str, offset: int) -> str:
    """The last that its log got after `offset`, or ""."""
    return next(reversed(_lines_after(state_dir, offset)), "")


def _lines_after(state_dir: str, offset: int) -> list[str]:
    """Without their time."""
    try:
        fd = os.open(
            f"{state_dir}/{LOG}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return []
    with os.fdopen(fd, "rb") as file, contextlib.suppress(OSError):
        file.seek(offset if offset <= os.fstat(fd).st_size else 0)  # it was begun anew
        return [line[STAMP:] for line in file.read(1 << 20).decode(errors="replace").splitlines()]
    return []


class Story:
    """Tells the user, and the log once there is one. Never raises: a closed terminal or a full
    disk must not keep a device from its driver. A log that cannot be written is told once."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._fd: int | None = None
        self._early: list[str] = []
        self._failed = False

    def to_file(self, fd: int) -> None:
        """Write to this fd from now on, and what was told before."""
        self._fd = fd
        for line in self._early:
            self._log(line)
        self._early.clear()

    def say(self, text: str) -> None:
        """One line for the user and the log."""
        if not self.quiet:
            _tell(text)
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
        if self._fd is None:
            return
        data = line.encode(errors="replace")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            if not self._failed:
                self._failed = True
                _tell(f"warning: the log cannot be written ({error.strerror}); "
                      "what happens is told here only")

    def close(self) -> None:
        """Close the log."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
