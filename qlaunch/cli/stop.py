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

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import known_machine
from qlaunch.cli.ps import machine
from qlaunch.cli.text import say
from qlaunch.errors import EXIT_NOT_RESTORED, EXIT_OK, HostError, Problem
from qlaunch.run.info import find_qemu, is_alive, is_supervised, read_info
from qlaunch.run.journal import FILE_NAME

EXAMPLE = """\
example:
  qlaunch stop win7
  qlaunch stop win7 --timeout 5m
  qlaunch stop win7 --now       the guest is not asked
  qlaunch stop win7 --force     QEMU is killed; the devices are given back too
"""
POLL = 0.1


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
    wanted = _duration(args.timeout)
    base = runtime_base()
    name = known_machine(base, args.name)
    runtime = f"{base}/{name}"
    if not is_alive(runtime) or not is_supervised(runtime):
        return _without_launcher(base, name, args)
    info = read_info(runtime)
    found = machine(base, name)
    # The profile's, and what quit and the return of devices may take on top.
    patience = wanted or (info.stop_timeout if info else 60.0) + 60.0
    if args.force:
        _signal(find_qemu(runtime), signal.SIGKILL)
    elif found.launcher_pid is not None:
        _signal(found.launcher_pid, signal.SIGTERM)
        if args.now:
            time.sleep(0.5)  # two requests in one moment count as one (a terminal sends such)
            _signal(found.launcher_pid, signal.SIGTERM)
    else:
        raise HostError(Problem(f"{name} is just starting", hint="try again in a moment"))
    say(f"{name}: {'killed' if args.force else 'asked to stop'}, waiting up to {patience:g} s")
    return _wait(runtime, name, patience)


def _wait(runtime: str, name: str, patience: float) -> int:
    deadline = time.monotonic() + patience
    while is_supervised(runtime):
        if time.monotonic() > deadline:
            raise HostError(
                Problem(f"{name} has not ended within {patience:g} s",
                        hint=f"qlaunch stop '{name}' --now, then --force")
            )
        time.sleep(POLL)
    if os.path.lexists(f"{runtime}/{FILE_NAME}"):
        say(f"{name}: not everything was given back: qlaunch recover '{name}'")
        return EXIT_NOT_RESTORED
    say(f"{name}: ended, all given back")
    return EXIT_OK


def _without_launcher(base: str, name: str, args: argparse.Namespace) -> int:
    """Its launcher is gone: end QEMU here, and put back what the journal says."""
    from qlaunch.run.recover import recover

    pid = find_qemu(f"{base}/{name}")
    if pid is not None:
        _signal(pid, signal.SIGKILL if args.force else signal.SIGTERM)
    return recover(base, name, say)


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _duration(text: str | None) -> float | None:
    from qlaunch.errors import UsageError
    from qlaunch.values import parse_duration

    if text is None:
        return None
    try:
        return float(parse_duration(text))
    except ValueError as error:
        raise UsageError(
            Problem(f"--timeout takes {error}", where="qlaunch stop", found=text,
                    hint="qlaunch stop NAME --timeout 90s")
        ) from None
