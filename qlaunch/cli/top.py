"""Watch running machines live: load of vCPUs, iothreads and QEMU's other threads
on each host CPU, memory, and what disks and NICs carry.

Disks are those QEMU sees, NICs those on a tap: what a passed-through device
does, and what user networking carries, nobody counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine, machines_of_root
from qlaunch.cli.reach import reach
from qlaunch.cli.text import write, write_json
from qlaunch.cli.topview import LEGEND, SORTS, draw
from qlaunch.cli.usage import Watcher
from qlaunch.errors import EXIT_OK, HostError, Problem, UsageError

EXAMPLE = """\
example:
  qlaunch top
  qlaunch top win7
  qlaunch top --once           one look, as text
  qlaunch top --json | jq '.machines[] | {name, resident}'
keys: q quits; arrows, Page Up and Page Down scroll; s sorts by name, CPU or
memory
"""
LOOKS = 8  # at the threads, in a second


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, how often, and in which form."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="one machine only")
    parser.add_argument("--interval", metavar="SECONDS", type=float, default=1.0,
                        help="how long each figure is measured (1)")
    parser.add_argument("--once", action="store_true",
                        help="print one look as text, as is done when stdout is no terminal")
    parser.add_argument("--sort", choices=SORTS, default="name", help="the machines' order")
    parser.add_argument("--json", action="store_true", help="one look, for machines")


def run(args: argparse.Namespace) -> int:
    """Until q, or once."""
    if not 0.1 <= args.interval <= 3600:
        raise UsageError(Problem("--interval takes 0.1 to 3600 seconds", where="qlaunch top",
                                 found=f"{args.interval:g}", hint="qlaunch top --interval 2"))
    base = runtime_base()
    name = None
    if args.name is not None:
        name = known_machine(base, args.name)
        reach(name)
    watcher = Watcher(base, name, 0 if name else len(machines_of_root()))
    if args.once or args.json or not sys.stdout.isatty() or not sys.stdin.isatty():
        return _once(watcher, args)
    return _live(watcher, args)


def _once(watcher: Watcher, args: argparse.Namespace) -> int:
    deadline = time.monotonic() + args.interval
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 1 / LOOKS))
        watcher.look()
    snapshot = watcher.take()
    if args.json:
        write_json(snapshot)
        return EXIT_OK
    screen = draw(snapshot, args.sort)
    write("\n".join([*screen.fixed, *screen.rest, "", LEGEND]) + "\n")
    return EXIT_OK


def _live(watcher: Watcher, args: argparse.Namespace) -> int:
    import curses

    from qlaunch.cli.topscreen import show
    from qlaunch.vm.attach import ToldToEnd, ending_signals

    for name in ("LINES", "COLUMNS"):  # exported, they would keep ncurses from resizing
        os.environ.pop(name, None)
    with ending_signals(), contextlib.suppress(KeyboardInterrupt, ToldToEnd):
        try:
            curses.wrapper(show, watcher, args.interval, args.sort)
        except curses.error as error:
            raise HostError(
                Problem("this terminal cannot show it", found=f"{error}",
                        hint="qlaunch top --once; echo $TERM tells what it says it is")
            ) from None
    return EXIT_OK
