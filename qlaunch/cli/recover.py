"""Put back what a dead launcher left: devices to their drivers, bridges, huge
pages, owners.

When the guest still runs without its launcher, this watches it and gives
everything back when it ends; Ctrl-C presses its power button. Running it twice
does no harm.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal

from qlaunch.children import ENDING, held_signals
from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine
from qlaunch.cli.main import tell
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_FAILED, EXIT_OK, Problem, QlaunchError, UsageError
from qlaunch.run.info import is_alive, is_supervised, machine_names
from qlaunch.run.recover import recover

EXAMPLE = """\
example:
  qlaunch recover win7
  qlaunch recover win7 --detach
  qlaunch recover --all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME or --all."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="the machine's name (qlaunch ps)")
    parser.add_argument("--all", action="store_true", help="every machine without a launcher")
    parser.add_argument(
        "--detach", action="store_true", help="watch a guest that runs in the background"
    )


def run(args: argparse.Namespace) -> int:
    """Recover one or all."""
    base = runtime_base()
    if args.all == bool(args.name):
        raise UsageError(
            Problem("name one machine, or say --all", where="qlaunch recover",
                    hint="qlaunch ps lists what is left over")
        )
    if args.name:
        return _recover(base, known_machine(base, args.name), detach=args.detach)
    names = machine_names(base)
    if not names:
        say("nothing is left over")
    idle = []
    for name in names:
        if is_supervised(f"{base}/{name}"):
            say(f"{name}: watched by its launcher, left alone")
        else:
            idle.append(name)
    alive = [name for name in idle if is_alive(f"{base}/{name}")]
    # What can be given back now comes first: a guest may be watched for days.
    codes = [_told(base, name, detach=False) for name in idle if name not in alive]
    if len(alive) > 1 and not args.detach:
        return max(*codes, *_all_at_once(base, alive))
    return max([EXIT_OK, *codes, *(_told(base, name, detach=args.detach) for name in alive)])


def _recover(base: str, name: str, *, detach: bool) -> int:
    if not detach or not is_alive(f"{base}/{name}"):
        return recover(base, name, say)
    from qlaunch.cli.detach import detached

    return detached(name, lambda watched: recover(base, name, say, on_watched=watched))


def _told(base: str, name: str, *, detach: bool) -> int:
    """One of several: what is wrong with it is no reason to leave the others."""
    try:
        return _recover(base, name, detach=detach)
    except QlaunchError as error:
        tell(error.problems)
        return error.exit_code


def _all_at_once(base: str, names: list[str]) -> list[int]:
    """Watch each in a child of its own; a signal to us is for all of them."""
    pids: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)  # one that the terminal has sent to all counts once

    with held_signals():
        for name in names:
            pids.append(_watcher(base, name))
        for number in ENDING:
            signal.signal(number, pass_on)
    codes: list[int] = []
    while pids:
        codes.append(abs(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])))
        del pids[0]
    return codes


def _watcher(base: str, name: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = EXIT_FAILED
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        code = _told(base, name, detach=False)
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
    finally:
        os._exit(code)
