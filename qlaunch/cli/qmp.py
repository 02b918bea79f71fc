"""Send a running machine's QEMU one QMP command, or follow its events.

The answer is printed as JSON. The machine keeps running whatever is asked; a
command may well change it.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from qlaunch.cli.reach import Reached, reach, talk
from qlaunch.cli.text import flush, nearest, say, write, write_json
from qlaunch.errors import EXIT_OK, HostError, Problem, UsageError

if TYPE_CHECKING:
    from qlaunch.vm.monitor import Monitor

EXAMPLE = """\
example:
  qlaunch qmp win7 query-status
  qlaunch qmp win7 query-pci | jq '.[0].devices[].qdev_id'
  qlaunch qmp win7 set_link '{"name": "net0", "up": false}'
  qlaunch qmp win7 --events         one line of JSON an event, until Ctrl-C
  qlaunch qmp win7 --events SHUTDOWN RESET
while events are followed no other verb has the machine's monitor
commands and their arguments: https://www.qemu.org/docs/master/interop/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, COMMAND, JSON; --events."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument("command", metavar="COMMAND", nargs="?", help="e.g. query-block")
    parser.add_argument("arguments", metavar="JSON", nargs="?",
                        help="the command's arguments, an object; - reads it from stdin")
    parser.add_argument("--events", metavar="EVENT", nargs="*",
                        help="print events (all, or those named) until the machine ends")


def run(args: argparse.Namespace) -> int:
    """Ask and print, or print what comes."""
    if args.events is not None:
        return _follow(args)
    if args.command is None:
        raise UsageError(Problem("a command is missing", where="qlaunch qmp",
                                 hint=f"qlaunch qmp '{args.name}' query-status"))
    arguments = _arguments(args.arguments)
    machine = reach(args.name)
    write_json(talk(machine, lambda monitor: _execute(
        monitor, machine.name, args.command, arguments)))
    return EXIT_OK


def _arguments(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    import msgspec

    try:
        return msgspec.json.decode(sys.stdin.read() if text == "-" else text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UsageError(
            Problem("the arguments are no JSON object", where="qlaunch qmp", found=str(error),
                    allowed="""'{"name": "net0", "up": false}'""",
                    hint="qlaunch qmp --help")
        ) from None


async def _execute(
    monitor: Monitor, name: str, command: str, arguments: dict[str, Any] | None
) -> Any:
    from qlaunch.vm.monitor import QmpError

    try:
        # Some take their time (dump-guest-memory): Ctrl-C ends the wait.
        return await monitor.execute(command, arguments, timeout=None)
    except QmpError as error:
        if error.error_class != "CommandNotFound":
            raise
        known = [str(one["name"]) for one in await monitor.execute("query-commands")]
        near = nearest(command, known)
        raise HostError(
            Problem("this QEMU has no such command", where="qlaunch qmp", found=command,
                    hint=f"did you mean {near}?" if near
                    else f"qlaunch qmp '{name}' query-commands")
        ) from None


def _follow(args: argparse.Namespace) -> int:
    if args.command is not None:
        raise UsageError(Problem("a command and --events do not go together", where="qlaunch qmp",
                                 hint=f"qlaunch qmp '{args.name}' --events"))
    from qlaunch.vm.loop import asyncio

    machine = reach(args.name)
    try:
        asyncio.run(_print_events(machine, {name.upper() for name in args.events}))
    except KeyboardInterrupt:
        return EXIT_OK
    return EXIT_OK


async def _print_events(machine: Reached, wanted: set[str]) -> None:
    from qlaunch.codec import to_json
    from qlaunch.run.talk import connect

    async with await connect(machine) as monitor:
        say(f"{machine.name}: events until it ends or Ctrl-C")
        async for event in monitor.events:
            if not wanted or event.name in wanted:
                line = {"event": event.name, "data": event.data, "seconds": event.seconds}
                write(to_json(line).decode() + "\n")
                flush()
