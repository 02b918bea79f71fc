"""Power a machine off: press its power button and wait; --now tells QEMU to
quit; --force kills it.

The launcher gives the devices back, as when the guest powers off by itself;
without a launcher this command does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Literal

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine
from qlaunch.cli.ps import GIVING_BACK, without_qemu
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_NOT_RESTORED, EXIT_OK, HostError, Problem
from qlaunch.run.info import find_qemu, find_supervisor, is_supervised, kill_qemu, read_info
from qlaunch.run.journal import FILE_NAME
from qlaunch.run.story import ended_how, last_line, log_size

EXAMPLE = """\
example:
  qlaunch stop win7
  qlaunch stop win7 --timeout 5m
  qlaunch stop win7 --now       the guest is not asked
  qlaunch stop win7 --force     QEMU is killed; the devices are given back too
Once its guest has ended, stop waits; --now and --force end a hook that hangs.
"""
POLL = 0.1
LONG = 4096  # bytes of a log in which its last line is
LEAST, EVERY = 1.0, 10.0  # seconds between two lines: that differ, that tell the same


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME and how hard."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--now", action="store_true", help="tell QEMU to quit, do not ask the guest")
    how.add_argument("--force", action="store_true", help="kill QEMU")
    parser.add_argument(
        "--timeout", metavar="TIME", help="how long to wait here, e.g. 90s; default: the profile's"
    )


def run(args: argparse.Namespace) -> int:
    """Stop it and wait until everything is given back."""
    wanted = _duration(args.timeout, args.name)
    base = runtime_base()
    name = known_machine(base, args.name)
    runtime = f"{base}/{name}"
    if not is_supervised(runtime):
        # Its launcher is gone: QEMU is ended here, and what the journal says is put back.
        from qlaunch.run.recover import recover

        return recover(base, name, say, stop=_how(args))
    info = read_info(runtime)
    state_dir = info.state_dir if info else ""
    offset = log_size(state_dir)
    # The profile's, and what quit and the return of devices may take on top.
    patience = wanted or (info.stop_timeout if info else 60.0) + 60.0
    asked = _ask(runtime, name, _how(args))
    say(f"{name}: {asked}, waiting up to {patience:g} s")
    before = LONG if asked == GIVING_BACK else 0  # it may have told already what it waits for
    code = _wait(runtime, name, patience, lambda: last_line(state_dir, max(offset - before, 0)))
    if code == EXIT_OK:
        say(ended_how(state_dir, name, offset) or f"{name}: ended, all given back")
    return code


def _how(args: argparse.Namespace) -> Literal["ask", "now", "kill"]:
    if args.force:
        return "kill"
    return "now" if args.now else "ask"


def _ask(runtime: str, name: str, how: Literal["ask", "now", "kill"]) -> str:
    """Kill QEMU, or tell the launcher; what was done."""
    if how == "kill" and kill_qemu(runtime):
        return "killed"
    launcher = find_supervisor(runtime)
    if launcher is None:
        raise HostError(
            Problem(f"the launcher of {name} is just coming or going", hint="try again in a moment")
        )
    if how == "ask" and find_qemu(runtime) is None and (
        without_qemu(runtime, launcher) == GIVING_BACK  # a signal would end its hooks
    ):
        return GIVING_BACK
    with contextlib.suppress(ProcessLookupError):
        os.kill(launcher, signal.SIGUSR1 if how == "now" else signal.SIGTERM)
    if how == "kill":
        return "no QEMU runs; its launcher was told to end"
    return "to be quit, without the guest" if how == "now" else "asked to stop"


def _wait(runtime: str, name: str, patience: float, doing: Callable[[], str]) -> int:
    """`doing` is the launcher's last word on it, told when it is another and every 10 s."""
    start = told = time.monotonic()
    last = ""
    while is_supervised(runtime):
        time.sleep(POLL)
        now = time.monotonic()
        if now - start > patience:
            raise HostError(
                Problem(f"{name} has not ended within {patience:g} s",
                        hint=f"qlaunch stop '{name}' --now, then --force")
            )
        if now - told < LEAST:
            continue
        word = doing()
        if word.startswith(f"{name}: ended"):
            continue  # it is told below
        if word != last or now - told >= EVERY:
            say(f"{name}: {word or 'still waiting'} ({now - start:.0f} s)")
            last, told = word, now
    if os.path.lexists(f"{runtime}/{FILE_NAME}"):
        say(f"{name}: not everything was given back: qlaunch recover '{name}'")
        return EXIT_NOT_RESTORED
    return EXIT_OK


def _duration(text: str | None, name: str) -> float | None:
    from qlaunch.errors import UsageError
    from qlaunch.values import parse_duration

    if text is None:
        return None
    try:
        return float(parse_duration(text))
    except ValueError as error:
        raise UsageError(
            Problem(f"--timeout takes {error}", where="qlaunch stop", found=text,
                    hint=f"qlaunch stop '{name}' --timeout 90s")
        ) from None
