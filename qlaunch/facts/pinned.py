"""Which CPUs the vCPUs of running machines are pinned to.

From the run.json that a running machine has in its runtime directory. A file left by a machine
that died is told by its lock, which nobody holds any more: /proc/locks lists those that are held
(proc(5)), and looking there disturbs no start.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from qlaunch.facts.model import Invoker
from qlaunch.facts.tree import base_of, list_names, read_lines, read_whole
from qlaunch.values import CpuSet


class _Pins(msgspec.Struct):
    vcpus: tuple[tuple[int, ...], ...] = ()


class _Run(msgspec.Struct):
    name: str
    pins: _Pins | None = None


def read_pinned(invoker: Invoker, root: Path = Path("/")) -> dict[str, CpuSet]:
    """Machine → CPUs, of those that can be seen: an ordinary user sees none of root's."""
    base = base_of(root)
    places = ["/run/qlaunch"]
    if invoker.runtime_dir:
        places.append(f"{invoker.runtime_dir}/qlaunch")
    held: set[str] | None = None
    found: dict[str, CpuSet] = {}
    for place in places:
        for name in list_names(base + place):
            run = _read_run(f"{base}{place}/{name}/run.json")
            if run is None or run.pins is None or not run.pins.vcpus:
                continue
            if held is None:
                held = _held(base)
            if _inode(f"{base}{place}/{name}/lock") in held:
                found[run.name] = CpuSet(cpu for vcpu in run.pins.vcpus for cpu in vcpu)
    return found


def _read_run(path: str) -> _Run | None:
    text = read_whole(path)
    try:
        return msgspec.json.decode(text, type=_Run) if text else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _held(base: str) -> set[str]:
    """Inodes in lines like `3: FLOCK  ADVISORY  WRITE 77 00:18:1234 0 EOF`."""
    lines = (line.split() for line in read_lines(f"{base}/proc/locks"))
    return {words[-3].rpartition(":")[2] for words in lines if "FLOCK" in words}


def is_held(lock: str, base: str) -> bool:
    """Whether somebody holds the lock of a machine's runtime directory."""
    return _inode(lock) in _held(base)


def _inode(path: str) -> str:
    try:
        return str(Path(path).stat().st_ino)
    except OSError:
        return ""
