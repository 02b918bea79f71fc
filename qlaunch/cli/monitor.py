"""QEMU's human monitor: one command, or a prompt with history when none is given.

Ctrl-D leaves the prompt. The words are QEMU's own; its `quit` ends the machine,
and is asked about at a terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from qlaunch.cli.reach import Reached, ask, reach
from qlaunch.cli.text import flush, say, write
from qlaunch.errors import EXIT_FAILED, EXIT_OK, HostError

EXAMPLE = """\
example:
  qlaunch monitor win7 info status
  qlaunch monitor win7 'info mtree -f'
  qlaunch monitor win7              a prompt; Tab completes, Ctrl-D leaves it
"""
FAULTS = ("Error: ", "unknown command: ", "invalid parameter", "invalid option")
ENDING = ("quit", "q")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME and a command."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument("command", metavar="COMMAND", nargs="*",
                        help="e.g. info block, in quotes when it has options; none: a prompt")


def run(args: argparse.Namespace) -> int:
    """Print the answer, or answer until Ctrl-D."""
    machine = reach(args.name)
    if args.command:
        text = tell_monitor(machine, " ".join(args.command))
        write(text)
        return EXIT_FAILED if text.startswith(FAULTS) else EXIT_OK
    if not sys.stdin.isatty():
        return _script(machine)
    return _prompt(machine)


def tell_monitor(machine: Reached, line: str) -> str:
    """The monitor's answer, lines ending in newlines. Raises HostError."""
    try:
        said = ask(machine, "human-monitor-command", {"command-line": line})
    except HostError:
        if line.strip() in ENDING:  # it does as it is told, and does not answer
            return ""
        raise
    text = str(said).replace("\r\n", "\n")
    return text if not text or text.endswith("\n") else f"{text}\n"


def _script(machine: Reached) -> int:
    """Each line of stdin; the first that fails ends it."""
    for line in sys.stdin:
        if not line.strip():
            continue
        text = tell_monitor(machine, line.rstrip("\n"))
        write(text)
        flush()
        if text.startswith(FAULTS):
            return EXIT_FAILED
    return EXIT_OK


def _prompt(machine: Reached) -> int:
    tell_monitor(machine, "info status")  # whether it can be had at all, before anything is typed
    say(f"{machine.name}: QEMU's monitor; help tells its commands, Ctrl-D leaves")
    with _editing(machine):
        for line in _typed(f"({machine.name}) "):
            if line in ENDING and not _sure(machine.name):
                continue
            try:
                write(tell_monitor(machine, line))
            except HostError as error:
                say(str(error))
                with contextlib.suppress(HostError):
                    reach(machine.name)
                    continue
                return EXIT_FAILED
            if line in ENDING:
                return EXIT_OK
    return EXIT_OK


def _typed(prompt: str) -> Iterator[str]:
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:  # the line is given up, as in a shell
            sys.stdout.write("\n")
            continue
        if line:
            yield line


def _sure(name: str) -> bool:
    try:
        answer = input(f"this ends {name} at once; Ctrl-D only leaves. End it? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        sys.stdout.write("\n")
        return False
    return answer.strip().lower() in ("y", "yes")


@contextlib.contextmanager
def _editing(machine: Reached) -> Iterator[None]:
    """Line editing, with completion of the first words; none where Python lacks readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    words = [line.split(" ")[0] for line in tell_monitor(machine, "help").splitlines()]
    names = [name for word in words for name in word.split("|")]
    infos = [" ".join(line.split()[:2]) for line in tell_monitor(machine, "help info").splitlines()]
    choices = sorted({*names, *infos} - {""})

    def complete(text: str, state: int) -> str | None:
        found = [one for one in choices if one.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer_delims("\n")  # "info st" is completed as a whole
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
