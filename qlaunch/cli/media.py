"""Show what is in a running machine's CD drives, change it, or take it out.

A file is opened by this command and handed to QEMU, whose own account need not
be able to read it.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine
from qlaunch.cli.text import columns, nearest, say, write, write_json
from qlaunch.errors import EXIT_OK, HostError, Problem, UsageError
from qlaunch.run.info import Info, is_alive, read_info

if TYPE_CHECKING:
    from qlaunch.vm.media import Drive

EXAMPLE = """\
example:
  qlaunch media win7                        what is in the drives
  qlaunch media win7 change virtio-win.iso
  qlaunch media win7 change disc2.iso --drive cd1
  qlaunch media win7 eject cd0
  qlaunch media win7 eject --force          the guest is not asked
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, what to do, with which file or drive."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument(
        "action", nargs="?", choices=("show", "change", "eject"), default="show",
        help="show (the default), change FILE, or eject [DRIVE]",
    )
    parser.add_argument("what", metavar="FILE|DRIVE", nargs="?",
                        help="the image to put in; the drive to empty")
    parser.add_argument("--drive", metavar="DRIVE",
                        help="cd0 is the first [[cdrom]]; may be left out when there is one")
    parser.add_argument("--force", action="store_true", help="open a drive the guest has locked")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Do it, and show the drives."""
    _check(args)
    if args.action == "change":
        args.what = os.path.abspath(args.what)  # noqa: PTH100 - links are the file's own business
    base = runtime_base()
    name = known_machine(base, args.name)
    info = read_info(f"{base}/{name}")
    if info is None or not is_alive(f"{base}/{name}"):
        raise HostError(Problem(f"{name} does not run", hint=f"qlaunch status '{name}'"))
    if args.action == "change":
        fd, block = open_medium(info, args.what)
        try:
            drives, told = _in_loop(_act(info, args, fd, block=block), name, args.what)
        finally:
            os.close(fd)
    else:
        drives, told = _in_loop(_act(info, args, -1, block=False), name)
    _show(name, args, drives, told)
    return EXIT_OK


def _check(args: argparse.Namespace) -> None:
    where = "qlaunch media"
    if args.action == "change" and not args.what:
        raise UsageError(Problem("change needs a file", where=where,
                                 hint=f"qlaunch media '{args.name}' change FILE"))
    if args.action == "show" and (args.what or args.force):
        raise UsageError(Problem("to show the drives takes nothing else", where=where,
                                 hint=f"qlaunch media '{args.name}'"))
    if args.action == "eject" and args.what:
        if args.drive not in (None, args.what):
            raise UsageError(Problem("two drives are named", where=where,
                                     found=f"{args.what}, {args.drive}",
                                     hint=f"qlaunch media '{args.name}' lists them"))
        args.drive = args.what


def open_medium(info: Info, path: str) -> tuple[int, bool]:
    """(fd, whether it is a block device), read-only, with the rights of the machine's user.

    A drive of the host is opened by root for a user's machine too, as at its start. Raises
    HostError.
    """
    from qlaunch.run.account import as_account

    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with as_account(info):
            fd = os.open(path, flags)
    except PermissionError as error:
        fd = _as_root(path, flags)
        if fd < 0:
            raise _not_opened(path, error) from None
    except OSError as error:
        raise _not_opened(path, error) from None
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        raise HostError(Problem("this is no file or block device", where=path,
                                hint="name an ISO image or a drive like /dev/sr0"))
    return fd, stat.S_ISBLK(mode)


def _as_root(path: str, flags: int) -> int:
    """A block device; -1 for anything else, which is not opened to look."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        if os.geteuid() != 0 or not stat.S_ISBLK(os.fstat(handle).st_mode):
            return -1
        return os.open(f"/proc/self/fd/{handle}", flags)
    except OSError:
        return -1
    finally:
        os.close(handle)


def _not_opened(path: str, error: OSError) -> HostError:
    return HostError(
        Problem(f"the file cannot be opened: {error.strerror}", where=path,
                hint=f"namei -l '{path}' shows what is in the way")
    )


def _in_loop(
    work: Coroutine[Any, Any, tuple[list[Drive], str]], name: str, path: str = ""
) -> tuple[list[Drive], str]:
    """Raises HostError, with the machine's name, and whoever holds the file at `path`."""
    from qlaunch.vm.loop import asyncio
    from qlaunch.vm.words import lock_remedy

    try:
        return asyncio.run(work)
    except HostError as error:
        if path and lock_remedy(str(error)):
            from qlaunch.facts.imagelock import read_image_lock

            holder = read_image_lock(path).by or "a process that is not yours"
            raise HostError(Problem("another QEMU writes to this file", where=path, found=holder,
                                    hint="shut that machine down first")) from error
        error.of(name)
        raise


async def _act(
    info: Info, args: argparse.Namespace, fd: int, *, block: bool
) -> tuple[list[Drive], str]:
    from qlaunch.run.talk import connect
    from qlaunch.vm import media

    monitor = await connect(info)
    async with monitor:
        drives = await media.read_drives(monitor)
        if args.action == "show":
            return drives, ""
        drive = _choose(drives, args.drive, info.name)
        if args.action == "change":
            await media.change(monitor, drive, fd, args.what, block=block, force=args.force)
            told = f"{drive.id}: {args.what}"
        else:
            await media.eject(monitor, drive, force=args.force)
            told = f"{drive.id}: {drive.file or 'nothing'} is out"
        return await media.read_drives(monitor), told


def _choose(drives: list[Drive], wanted: str | None, name: str) -> Drive:
    ids = [drive.id for drive in drives]
    if not drives:
        raise HostError(Problem(f"{name} has no CD drive",
                                hint="[[cdrom]] in its profile is one, empty without a file"))
    if wanted is None and len(drives) > 1:
        raise UsageError(Problem("which drive?", where="qlaunch media", allowed=", ".join(ids),
                                 hint=f"--drive {ids[0]}"))
    drive = next((d for d in drives if wanted in (None, d.id)), None)
    if drive is None:
        near = nearest(wanted or "", ids)
        raise UsageError(Problem("there is no such drive", where="qlaunch media",
                                 found=wanted or "", allowed=", ".join(ids),
                                 hint=f"did you mean {near}?" if near else ""))
    return drive


def _show(name: str, args: argparse.Namespace, drives: list[Drive], told: str) -> None:
    if args.json:
        write_json({
            "machine": name,
            "drives": [
                {"id": d.id, "file": d.file, "tray_open": d.tray_open, "locked": d.locked}
                for d in drives
            ],
        })
    elif args.action == "show":
        rows = [
            (d.id, "open" if d.tray_open else "locked" if d.locked else "closed", d.file or "-")
            for d in drives
        ]
        write(columns(rows, ("DRIVE", "TRAY", "MEDIUM")) if rows else f"{name} has no CD drive\n")
    else:
        say(told)
