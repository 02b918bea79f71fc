"""The CD drives of a running machine: what is in them, and putting something else in.

The new image is made a block node before the tray is touched, so that one that cannot be used
changes nothing. A guest that has locked the tray is asked, as by the button of a real drive:
Linux and Windows let go of a disc that nobody reads, and open the tray themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qlaunch.errors import HostError, Problem
from qlaunch.vm.loop import asyncio
from qlaunch.vm.monitor import Monitor, QmpError

PATIENCE = 10.0  # seconds that the guest has to open the tray
_EVERY = 0.5
_FDSET = "/dev/fdset/"


class Drive(NamedTuple):
    """A drive whose medium can be changed; `file` and `node` are "" for an empty one."""

    id: str
    file: str
    tray_open: bool
    locked: bool
    node: str


async def read_drives(monitor: Monitor) -> list[Drive]:
    """All of them, by id. Raises HostError."""
    names = await _fdset_names(monitor)
    found = []
    for block in await monitor.execute("query-block"):
        if not block.get("removable"):
            continue
        inserted = block.get("inserted") or {}
        file = str(inserted.get("file", ""))
        found.append(
            Drive(
                id=str(block.get("qdev") or block.get("device")).rpartition("/")[2],
                file=names.get(_fdset(file), file), tray_open=bool(block.get("tray_open")),
                locked=bool(block.get("locked")), node=str(inserted.get("node-name", "")),
            )
        )
    return sorted(found)


async def _fdset_names(monitor: Monitor) -> dict[int | None, str]:
    """What the files behind fd sets are called: their paths, as whoever handed them over said."""
    sets = await monitor.execute("query-fdsets")
    return {
        int(one["fdset-id"]): str(fd["opaque"])
        for one in sets for fd in one["fds"] if fd.get("opaque")
    }


def _fdset(file: str) -> int | None:
    number = file.removeprefix(_FDSET)
    return int(number) if number != file and number.isdigit() else None


async def change(
    monitor: Monitor, drive: Drive, fd: int, path: str, *, block: bool, force: bool
) -> None:
    """Put the file that `fd` is open on in the drive; `path` is what it is called.

    Raises HostError. Before the tray is open nothing is changed; a disc that then does not go in
    is taken out again, and the old one put back.
    """
    lent = (await monitor.add_fd(fd, path))["fdset-id"]
    node = f"{drive.id}-medium{lent}"
    try:
        await monitor.execute("blockdev-add", {
            "driver": "raw", "node-name": node, "read-only": True,
            "file": {"driver": "host_device" if block else "file", "filename": f"{_FDSET}{lent}"},
        })
    except HostError:
        await _quietly(monitor, "remove-fd", {"fdset-id": lent})
        raise
    try:
        await _open_tray(monitor, drive.id, force=force)
        await _exchange(monitor, drive, node)
    except HostError:
        await _quietly(monitor, "blockdev-del", {"node-name": node})
        await _quietly(monitor, "remove-fd", {"fdset-id": lent})
        raise
    await _forget(monitor, drive)


async def _exchange(monitor: Monitor, drive: Drive, node: str) -> None:
    where = {"id": drive.id}
    await monitor.execute("blockdev-remove-medium", where)
    try:
        await monitor.execute("blockdev-insert-medium", {**where, "node-name": node})
    except HostError:
        if drive.node:
            await _quietly(monitor, "blockdev-insert-medium", {**where, "node-name": drive.node})
        await _quietly(monitor, "blockdev-close-tray", where)
        raise
    await monitor.execute("blockdev-close-tray", where)


async def eject(monitor: Monitor, drive: Drive, *, force: bool) -> None:
    """Open the tray and take out what is in it. Raises HostError."""
    await _open_tray(monitor, drive.id, force=force)
    await monitor.execute("blockdev-remove-medium", {"id": drive.id})
    await _forget(monitor, drive)


async def _open_tray(monitor: Monitor, ident: str, *, force: bool) -> None:
    """A locked one is opened by the guest, which each refusal of QEMU asks for it, or unlocked."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while True:
        refused: QmpError | None = None
        try:
            await monitor.execute("blockdev-open-tray", {"id": ident, "force": force})
        except QmpError as error:
            refused = error
        drive = next((d for d in await read_drives(monitor) if d.id == ident), None)
        if drive is not None and drive.tray_open:
            return
        if refused is not None and (drive is None or not drive.locked):
            raise refused
        if loop.time() > deadline:
            raise HostError(
                Problem("the guest has locked the drive and does not open it", where=ident,
                        found=f"asked, and waited {PATIENCE:g} s",
                        hint="unmount the disc in the guest, or take it with --force")
            )
        await asyncio.sleep(_EVERY)


async def _forget(monitor: Monitor, old: Drive) -> None:
    """What was in the drive is closed: the host may have its file back."""
    if not old.node:
        return
    blocks: Sequence[Mapping[str, Any]] = await monitor.execute("query-named-block-nodes")
    file = next((str(b["file"]) for b in blocks if b.get("node-name") == old.node), "")
    await _quietly(monitor, "blockdev-del", {"node-name": old.node})
    if (lent := _fdset(file)) is not None:
        await _quietly(monitor, "remove-fd", {"fdset-id": lent})


async def _quietly(monitor: Monitor, command: str, arguments: Mapping[str, object]) -> None:
    with contextlib.suppress(QmpError):
        await monitor.execute(command, arguments)
