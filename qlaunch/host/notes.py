"""What several machines have to know of a change to the host: a file below /run, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from msgspec import MsgspecError, Struct

from qlaunch.codec import from_json, to_json
from qlaunch.errors import HostError, Problem
from qlaunch.host import sysfs

T = TypeVar("T", bound=Struct)


def read(path: Path, kind: type[T]) -> T | None:
    """None when there is none that can be read."""
    try:
        return from_json(path.read_bytes(), kind)
    except (OSError, MsgspecError):
        return None


def write(path: Path, note: Struct, *, mode: int) -> None:
    """Whole or not at all; `mode` is that of a directory to be made. Raises HostError."""
    try:
        path.parent.mkdir(mode=mode, parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_bytes(to_json(note))
        fresh.replace(path)
    except OSError as error:
        raise HostError(
            Problem("what was there before cannot be noted", str(path), found=str(error),
                    hint=sysfs.way_on(error))
        ) from error
