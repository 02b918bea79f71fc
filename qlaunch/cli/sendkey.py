"""Press keys in a running machine: combinations one after the other, or a text.

Names are QEMU's (ctrl, alt, shift, meta_l, delete, ret, esc, f1, kp_1 …); del,
enter, win, space and the like are understood too. A text is typed as on an
American keyboard.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from qlaunch.cli.reach import reach, talk
from qlaunch.cli.text import nearest
from qlaunch.errors import EXIT_OK, Problem, UsageError

if TYPE_CHECKING:
    from qlaunch.vm.monitor import Monitor

EXAMPLE = """\
example:
  qlaunch sendkey win7 ctrl-alt-delete
  qlaunch sendkey win7 down down ret
  qlaunch sendkey win7 --text 'root
  '                               the second line is the Return key
  qlaunch sendkey win7 --hold 2000 f8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, keys or a text, and for how long."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument("keys", metavar="KEYS", nargs="*", help="e.g. ctrl-alt-delete")
    parser.add_argument("--text", metavar="TEXT", help="type this, after KEYS")
    parser.add_argument("--hold", metavar="MS", type=int, default=60,
                        help="milliseconds that each is held down (60)")


def run(args: argparse.Namespace) -> int:
    """Press them."""
    from qlaunch.vm.keys import combination, known_keys, send, typed

    if not 1 <= args.hold <= 10_000:
        raise UsageError(Problem("--hold takes 1 to 10000 ms", where="qlaunch sendkey",
                                 found=str(args.hold), hint="qlaunch sendkey --help"))
    wanted = [combination(text) for text in args.keys] + typed(args.text or "")
    if not wanted:
        raise UsageError(Problem("which keys?", where="qlaunch sendkey",
                                 hint=f"qlaunch sendkey '{args.name}' ctrl-alt-delete"))

    async def press(monitor: Monitor) -> None:
        known = await known_keys(monitor)
        for key in (key for keys in wanted for key in keys):
            if known and key not in known:
                near = nearest(key, known)
                raise UsageError(
                    Problem("there is no such key", where="qlaunch sendkey", found=key,
                            hint=f"did you mean {near}?" if near else
                            "names are in QEMU's manual: QKeyCode; e.g. ctrl-alt-delete")
                )
        await send(monitor, wanted, args.hold)

    talk(reach(args.name), press)
    return EXIT_OK
