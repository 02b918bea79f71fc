"""Write a picture of what a running machine's emulated card shows.

The file is written whole or not at all. What a passed-through card shows is not
seen by QEMU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time

from qlaunch.cli.known import machine_name
from qlaunch.cli.reach import reach, talk
from qlaunch.cli.text import flush, say
from qlaunch.errors import EXIT_OK, HostError, Problem, UsageError

EXAMPLE = """\
example:
  qlaunch screenshot win7
  qlaunch screenshot win7 win7.png
  qlaunch screenshot win7 second.png --head 1
  qlaunch screenshot win7 - | display
"""
FORMS = ("png", "ppm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, FILE and which screen."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument("file", metavar="FILE", nargs="?",
                        help="ends in .png or .ppm; - is stdout, as PNG; NAME-TIME.png when absent")
    parser.add_argument("--head", metavar="N", type=int, help="which screen of the card, from 0")
    parser.add_argument("--device", metavar="ID", default="vga",
                        help="the card, by the id of its -device (vga)")


def run(args: argparse.Namespace) -> int:
    """Take it and write it."""
    from qlaunch.vm import screen

    if args.file is None:
        args.file = f"{machine_name(args.name)}-{time.strftime('%Y%m%d-%H%M%S')}.png"
    form = "png" if args.file == "-" else args.file.rpartition(".")[2].lower()
    if form not in FORMS:
        raise UsageError(Problem("which format?", where="qlaunch screenshot", found=args.file,
                                 allowed=".png, .ppm", hint=f"name it {args.file}.png"))
    if args.head is not None and args.head < 0:
        raise UsageError(Problem("heads are counted from 0", where="qlaunch screenshot",
                                 found=str(args.head), hint="--head 0 is the first"))
    # Without a head any console will do: a card that QEMU knows by another id, say.
    device = args.device if args.head is not None or args.device != "vga" else None
    picture = talk(reach(args.name), lambda m: screen.take(m, form, device, args.head or 0))
    if args.file == "-":
        sys.stdout.buffer.write(picture)
        flush()
        return EXIT_OK
    _write_file(args.file, picture)
    say(f"{args.file}: {len(picture) >> 10} KiB")
    if os.environ.get("QLAUNCH_VIA"):
        say(f"that is on the other machine, in {os.getcwd()}; here: "  # noqa: PTH109
            f"qlaunch screenshot '{args.name}' - >FILE.png")
    return EXIT_OK


def _write_file(path: str, data: bytes) -> None:
    """By way of a file beside it, which then takes its place."""
    if os.path.lexists(path) and not os.path.isfile(path):  # noqa: PTH113
        with open(path, "wb") as file:  # noqa: PTH123 - a pipe, /dev/stdout
            file.write(data)
        return
    target = os.path.realpath(path)
    beside = ""
    try:
        fd, beside = tempfile.mkstemp(prefix=".screenshot-", dir=os.path.dirname(target))  # noqa: PTH120
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(fd, 0o666 & ~umask)
        os.replace(beside, target)  # noqa: PTH105
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # noqa: PTH108
        raise HostError(
            Problem(f"the picture cannot be written: {error.strerror}", where=path,
                    hint=f"ls -ld '{os.path.dirname(target)}'")  # noqa: PTH120
        ) from None
