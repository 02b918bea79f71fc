"""Giving device nodes to the account QEMU runs as.

Every change is made through an fd on the node itself (O_PATH, no symlink followed), so that what
was looked at is what is changed. /dev/vfio/N is made by the kernel at the first bind and udev
handles it a moment later, setting owner and mode once more: we wait for udev, then change.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qlaunch.errors import HostError, Problem
from qlaunch.host import sysfs
from qlaunch.host.handler import Captured, Host
from qlaunch.plan.steps import OwnGroup, OwnNode

GROUP_MODE = 0o600


class OwnNodeHandler:
    """Owner and mode of a device node."""

    def capture(self, host: Host, step: OwnNode) -> Captured:
        """Owner, mode and inode number; nothing when the node is not there yet."""
        return capture_node(host.path(step.path.lstrip("/")))

    def apply(self, host: Host, step: OwnNode, captured: Captured) -> None:
        """See `own_node`."""
        own_node(host, host.path(step.path.lstrip("/")), (step.uid, step.gid, step.mode), captured)

    def undo(self, host: Host, step: OwnNode, captured: Captured) -> str | None:
        """See `disown_node`."""
        return disown_node(host.path(step.path.lstrip("/")), captured)


class OwnGroupHandler:
    """The same for /dev/vfio/N."""

    def capture(self, host: Host, step: OwnGroup) -> Captured:
        """See OwnNodeHandler."""
        return capture_node(_group_node(host, step))

    def apply(self, host: Host, step: OwnGroup, captured: Captured) -> None:
        """See `own_node`."""
        own_node(host, _group_node(host, step), (step.uid, step.gid, GROUP_MODE), captured)

    def undo(self, host: Host, step: OwnGroup, captured: Captured) -> str | None:
        """See `disown_node`."""
        return disown_node(_group_node(host, step), captured)


def capture_node(node: Path) -> Captured:
    """What an undo needs; empty when the node is not there."""
    try:
        with open_node(node) as fd:
            found = os.fstat(fd)
    except FileNotFoundError:
        return {}
    return _remember(found)


def own_node(host: Host, node: Path, wanted: tuple[int, int, int], captured: Captured) -> None:
    """Set uid, gid and mode once the node is there and udev is done with it.

    What a node that `capture` did not find looked like at first is added to `captured`. Raises
    HostError when it does not appear, is a link or directory, or does not change.
    """
    if not sysfs.wait_until(host, lambda: os.path.lexists(node), f"{node} to appear"):
        raise HostError(
            Problem(
                "the device node did not appear", where=str(node),
                found=f"none in {host.settle:g} s",
                hint="is the device bound to its driver, and is devtmpfs mounted on /dev?",
            )
        )
    sysfs.wait_until(host, lambda: _udev_is_done(host, node), f"udev to finish with {node}")
    uid, gid, mode = wanted
    try:
        with open_node(node) as fd:
            if not captured:
                captured.update(_remember(os.fstat(fd)))
            _change(fd, uid, gid, mode)
            found = os.fstat(fd)
    except OSError as error:
        raise HostError(
            Problem(f"the node cannot be given to uid {uid}", str(node), found=str(error),
                    hint=sysfs.way_on(error))
        ) from error
    if (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != wanted:
        raise HostError(Problem(
            f"the node was not given to uid {uid}", where=str(node),
            hint=f"a udev rule may have set it anew: start again; ls -l {node} shows what is"))


def disown_node(node: Path, captured: Captured) -> str | None:
    """Restore owner and mode; a node that is gone, or a new one of that name, needs nothing."""
    if not captured:
        return None
    try:
        with open_node(node) as fd:
            found = os.fstat(fd)
            if found.st_ino != captured["ino"] or _remember(found) == captured:
                return None
            _change(fd, captured["uid"], captured["gid"], captured["mode"])
            if _remember(os.fstat(fd)) != captured:
                raise HostError(Problem("owner and mode did not change back", where=str(node),
                                        hint=_by_hand(node, captured)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(
            Problem(
                f"owner and mode cannot be put back to {captured['uid']}:{captured['gid']} "
                f"{captured['mode']:04o}", where=str(node), found=str(error),
                hint=_by_hand(node, captured),
            )
        ) from error
    return f"{node} belongs to uid {captured['uid']} again"


def _by_hand(node: Path, captured: Captured) -> str:
    owner = f"{captured['uid']}:{captured['gid']}"
    return f"by hand: sudo chown {owner} {node} && sudo chmod {captured['mode']:o} {node}"


@contextmanager
def open_node(node: Path) -> Iterator[int]:
    """An O_PATH fd on the node itself. Raises HostError for what must not be handed over."""
    fd = os.open(node, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        # A second name of a plain file is how a user gets another's file into such a place.
        if stat.S_ISLNK(found.st_mode) or stat.S_ISDIR(found.st_mode) or found.st_nlink > 1:
            raise HostError(Problem("this is not a device node", where=str(node),
                                    hint=f"ls -ld '{node}' shows what it is"))
        yield fd
    finally:
        os.close(fd)


def _change(fd: int, uid: int, gid: int, mode: int) -> None:
    through = f"/proc/self/fd/{fd}"  # chown and chmod refuse an O_PATH fd itself (EBADF)
    os.chown(through, uid, gid)
    Path(through).chmod(mode)


def _remember(found: os.stat_result) -> Captured:
    return {
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mode": stat.S_IMODE(found.st_mode),
        "ino": found.st_ino,
    }


def _udev_is_done(host: Host, node: Path) -> bool:
    """udevd writes a device's record when its rules have run, and keeps `queue` while it works."""
    if not host.path("run/udev/control").exists():
        return True
    found = node.lstat()
    kind = "b" if stat.S_ISBLK(found.st_mode) else "c"
    record = f"run/udev/data/{kind}{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return host.path(record).exists() and not host.path("run/udev/queue").exists()


def _group_node(host: Host, step: OwnGroup) -> Path:
    return host.path(f"dev/vfio/{step.group}")
