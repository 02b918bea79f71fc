"""The command line as it is typed, in this process: what it said, and that it wrote nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from qlaunch.cli.main import main

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.link",
    "os.symlink", "os.truncate", "os.utime", "shutil.rmtree",
}  # fmt: skip
HARMLESS = ("/dev/null", "/var/cache/qlaunch/", "/proc/self/")  # QEMU's answers are kept there


class Typed(NamedTuple):
    """What came of a command line."""

    code: int
    out: str
    err: str

    def faults(self) -> list[str]:
        """The headlines of errors."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


_watching: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if any("__pycache__" in str(one) for one in arguments[:2]):
        return  # a first import leaves its compiled form
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
        if not str(arguments[0]).startswith(HARMLESS) and not isinstance(arguments[0], int):
            _watching[-1].append(f"open {arguments[0]}")
    elif event in CHANGES and not str(arguments[0]).startswith(HARMLESS):
        _watching[-1].append(f"{event} {arguments[0]}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """What this process changes in file systems meanwhile."""
    if not hasattr(sys, "_qlaunch_audit"):
        sys.addaudithook(_audit)  # for good: a hook cannot be taken away
        sys._qlaunch_audit = True  # type: ignore[attr-defined]
    changes: list[str] = []
    _watching.append(changes)
    try:
        yield changes
    finally:
        _watching.pop()


Type = Callable[..., Typed]


def typing(capfd: pytest.CaptureFixture[str]) -> Type:
    """A function that runs a command line; by default it may change nothing."""

    def typed(*words: str, changes: bool = False) -> Typed:
        capfd.readouterr()
        with watched() as found:
            code = main(words)
        out, err = capfd.readouterr()
        assert changes or not found, found
        assert "Traceback" not in err, err
        assert "internal fault" not in err, err
        return Typed(code, out, err)

    return typed
