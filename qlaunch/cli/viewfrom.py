"""`qlaunch on HOST view NAME`: the machine's display, brought here through ssh as a unix socket.

The qlaunch over there says where the display is; the viewer is one of this machine's, and runs
until it is closed. `--print` prints its command and keeps the socket until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import shutil
from contextlib import suppress
from shlex import join
from typing import TYPE_CHECKING

import msgspec

from qlaunch.children import start_child
from qlaunch.cli.text import flush, say, write, write_json
from qlaunch.cli.view import can_show
from qlaunch.cli.viewers import Choice, choose
from qlaunch.errors import EXIT_OK, HostError, Problem
from qlaunch.vm.viewing import Viewing

if TYPE_CHECKING:
    from qlaunch.remote.ssh import Connection, There


class Told(msgspec.Struct):
    """What `view --json` says over there, as far as it matters here."""

    window: str = ""
    spice: str = ""
    vnc: str = ""


def view(connection: Connection, there: There, parsed: argparse.Namespace) -> int:
    """Show it; the viewer's exit code, or the other machine's when there is nothing to see. LOST
    when the connection was cut, whatever became of the viewer by that."""
    code, text = connection.ask(there, ["view", parsed.name, "--json"])
    if code:
        return code
    try:
        told = msgspec.json.decode(text, type=Told)
    except msgspec.DecodeError as error:
        raise HostError(Problem("qlaunch there has answered something else", found=str(error),
                                where=connection.host,
                                hint="the same version of qlaunch on both sides")) from None
    where = told.spice or told.vnc
    if not where:
        raise HostError(Problem("its picture cannot be brought here", where=connection.host,
                                hint='display.type = "spice" or "vnc" puts it on a socket'))
    from qlaunch.remote.ssh import LOST

    try:
        with connection.forwarded(where) as path:
            viewing = Viewing(window=told.window, spice=path if told.spice else "",
                              vnc="" if told.spice else path, memory="")
            choice = choose(viewing, parsed.name, lambda name: shutil.which(name) is not None,
                            parsed.viewer)
            code = _show(choice, viewing, parsed, connection)
    except HostError:
        if connection.is_cut(ask=True):
            return LOST
        raise
    return LOST if connection.is_cut(ask=True) else code


def _show(
    choice: Choice, viewing: Viewing, parsed: argparse.Namespace, connection: Connection
) -> int:
    if parsed.json or parsed.print:
        if parsed.json:
            write_json({"machine": parsed.name, "command": choice.words,
                        "installed": not choice.missing, **viewing._asdict()})
        else:
            write(join(choice.words) + "\n")
        flush()
        say("the socket is here until Ctrl-C")
        with suppress(KeyboardInterrupt):
            connection.wait()
        return EXIT_OK
    can_show(choice, parsed.name, f"on {connection.host} ")
    pid = start_child(choice.words, fds={1: 2, 2: 2}, own_group=False)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code
