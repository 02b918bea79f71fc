"""Read a card's ROM into a file, for rom = "FILE" in its [[pci]].

Says what is in it, and warns of a copy that the card's own start has changed.
Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os

from qlaunch.cli.base import runtime_base
from qlaunch.cli.byhand import asked_devices, need_root
from qlaunch.cli.main import tell
from qlaunch.cli.text import say, write
from qlaunch.errors import EXIT_OK, HostError, Problem

EXAMPLE = """\
example:
  qlaunch rom 03:00.0 gtx560.rom
  qlaunch rom 03:00.0 gtx560.rom --force    write over the file
A card that a guest has is not touched.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ADDRESS, FILE and --force."""
    parser.add_argument("address", metavar="ADDRESS", help="PCI address (qlaunch devices)")
    parser.add_argument("file", metavar="FILE", help="where to; may not be there yet")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")


def run(args: argparse.Namespace) -> int:
    """Read and write it."""
    need_root("rom")
    from qlaunch.host.handler import telling
    from qlaunch.host.rom import doubts, images, read_rom
    from qlaunch.run.manual import claimed

    _, (found,) = asked_devices([args.address])
    with claimed(runtime_base(), [found.address], say):
        rom = read_rom(telling(say), found.address)
    _save(args.file, rom, force=args.force)
    tell([p._replace(where=args.file)
          for p in doubts(rom, found.id, boot_vga=bool(found.boot_vga))])
    parts = ", ".join(f"{image.kind} for {image.ids}" for image in images(rom)) or "unknown parts"
    write(f"{args.file}: {len(rom)} bytes, {parts}\n")
    return EXIT_OK


def _save(path: str, rom: bytes, *, force: bool) -> None:
    """The file is the asking user's. Raises HostError; half a file is not left."""
    from qlaunch.facts.invoker import read_invoker

    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    flags |= os.O_TRUNC if force else os.O_EXCL
    try:
        fd = os.open(path, flags, 0o644)
        try:
            invoker = read_invoker()
            if invoker.asked is not None:
                os.fchown(fd, invoker.uid, invoker.gid)
            view = memoryview(rom)
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
            raise
        finally:
            os.close(fd)
    except FileExistsError:
        raise HostError(Problem("the file is there already", where=path,
                                hint="--force writes over it")) from None
    except OSError as error:
        raise HostError(Problem(f"the file cannot be written: {error.strerror}", where=path,
                                hint=f"namei -l '{path}' shows what is in the way")) from None
