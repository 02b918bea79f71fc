"""What a step's handler promises; the engine relies on nothing else.

`capture` reads what is there now and changes nothing; its answer is written to the journal before
`apply`. `apply` changes, reads back and verifies, raising HostError (or StuckError) when the host
does not show what was asked. `undo` restores what was captured, never a constant; it is
idempotent, copes with a step that was applied half way or not at all, and returns a sentence for
the report ("0000:01:00.0 is back on amdgpu") or None when there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from msgspec import Struct

S_contra = TypeVar("S_contra", contravariant=True)

Captured = dict[str, Any]  # JSON: text, numbers, booleans, null, lists and objects of them


class Host(Struct, frozen=True, kw_only=True):
    """Where the host's trees are, and how waiting is told.

    `root` is "/" or a recorded (or fake) tree with sys/, proc/ and dev/ below it; every path a
    handler uses is `host.path("sys/bus/pci/…")`.
    """

    root: Path = Path("/")
    deadline: float = 75.0  # of one guarded write, seconds
    on_wait: Callable[[str, float], None] | None = None

    def path(self, relative: str) -> Path:
        """`relative` (without a leading slash) below the root."""
        return self.root / relative


class Handler(Protocol[S_contra]):
    """See the module's docstring."""

    def capture(self, host: Host, step: S_contra) -> Captured: ...

    def apply(self, host: Host, step: S_contra, captured: Captured) -> None: ...

    def undo(self, host: Host, step: S_contra, captured: Captured) -> str | None: ...
