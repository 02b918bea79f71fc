"""What a step's handler promises; the engine relies on nothing else.

`capture` reads what is there now and changes nothing; its answer is written to the journal before
`apply`. `apply` changes, reads back and verifies, raising HostError (or StuckError) when the host
does not show what was asked; it may add to `captured` what only it could know (pages really
given, a node that was not there before), and the journal keeps that with "applied"; and it may
correct what `capture` had read (somebody has made a device of that name since), which the journal
keeps for good, even when `apply` fails. `undo` restores what was captured, never a constant; it is
idempotent, copes with a step that was applied half way or not at all (then without what `apply`
would have added), and returns a sentence for the report ("0000:01:00.0 is back on amdgpu") or None
when there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from qlaunch.children import Done

S_contra = TypeVar("S_contra", contravariant=True)

Captured = dict[str, Any]  # JSON: text, numbers, booleans, null, lists and objects of them


class Door(Protocol):
    """The calls by which the kernel is changed or probed: one seam for a fake kernel."""

    def write(self, path: Path, data: bytes) -> None:
        """One write(2) to an existing file. Raises the kernel's OSError."""

    def try_open(self, path: Path) -> None:
        """Open and close a device node. Raises the kernel's OSError (EBUSY: somebody has it)."""

    def mkdir(self, path: Path) -> None:
        """mkdir(2) where the kernel makes the files in it (control groups)."""

    def rmdir(self, path: Path) -> None:
        """rmdir(2) of such a directory. Raises the kernel's OSError (EBUSY: not empty)."""

    def run(self, argv: Sequence[str], stdin: str = "", *, daemon: bool = False) -> Done:
        """Run a tool (modprobe, nft) to its end, or a daemon that detaches itself."""

    def send_signal(self, pid: int, number: int) -> None:
        """Send a signal. Raises ProcessLookupError."""


class Net(Protocol):
    """The door to network links: `Links` in this process, `NetChild` in a helper of its own."""

    def call(self, verb: str, lock: int = -1, **arguments: object) -> Captured:
        """Carry out one request. Raises HostError; StuckError when it does not end in time.

        A helper keeps `lock` (an fd) open until the request has been carried out.
        """


class Host(Struct, frozen=True, kw_only=True):
    """Where the host's trees are, how it is changed, and how waiting is told.

    `root` is "/" or a recorded (or fake) tree with sys/, proc/ and dev/ below it; every path a
    handler uses is `host.path("sys/bus/pci/…")`.
    """

    root: Path = Path("/")
    deadline: float = 75.0  # of one guarded write, seconds
    settle: float = 5.0  # how long a node may take to appear, or its last user to let go
    on_wait: Callable[[str, float], None] | None = None
    door: Door | None = None  # None: the real kernel
    journal: str = ""  # who writes to the kernel shares the lock of this file: see host/writers.py
    net: Net | None = None  # None: pyroute2 in this process

    def path(self, relative: str) -> Path:
        """`relative` (without a leading slash) below the root."""
        return self.root / relative


def telling(say: Callable[[str], None]) -> Host:
    """The running host, whose waits are told as a line each."""
    return Host(on_wait=lambda what, seconds: say(
        f"still waiting for the kernel: {what} ({seconds:.0f} s)"
    ))


class Handler(Protocol[S_contra]):
    """See the module's docstring."""

    def capture(self, host: Host, step: S_contra) -> Captured: ...

    def apply(self, host: Host, step: S_contra, captured: Captured) -> None: ...

    def undo(self, host: Host, step: S_contra, captured: Captured) -> str | None: ...
