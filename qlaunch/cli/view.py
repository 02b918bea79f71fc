"""Look at a running machine: start the viewer that fits how it is shown (SPICE,
VNC, Looking Glass). The machine runs on when the viewer is closed.
"""

from __future__ import annotations

import argparse
import os
import shutil
from shlex import join

from qlaunch.cli.reach import Reached, reach, talk
from qlaunch.cli.text import flush, say, write, write_json
from qlaunch.cli.viewers import Choice, choose
from qlaunch.errors import EXIT_OK, HostError, Problem
from qlaunch.vm.viewing import read_viewing

EXAMPLE = """\
example:
  qlaunch view win7
  qlaunch view win7 --print          the command, for a shortcut of your own
  qlaunch view win7 --viewer spicy
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, which viewer, and --print."""
    parser.add_argument("name", metavar="NAME", help="the machine's name (qlaunch ps)")
    parser.add_argument("--viewer", metavar="PROGRAM", help="use this one, e.g. remote-viewer")
    parser.add_argument("--print", action="store_true", help="print its command, start nothing")
    parser.add_argument("--json", action="store_true", help="the command and the sockets, as JSON")


def run(args: argparse.Namespace) -> int:
    """Start it, or print its command. Returns the viewer's exit code."""
    machine = reach(args.name)
    viewing = talk(machine, read_viewing)
    choice = choose(viewing, machine.name, lambda name: shutil.which(name) is not None,
                    args.viewer)
    if args.json:
        write_json({"machine": machine.name, "command": choice.words,
                    "installed": not choice.missing, **viewing._asdict()})
        return EXIT_OK
    if args.print:
        write(join(choice.words) + "\n")
        if choice.missing:
            say(f"note: it is not installed here: {choice.missing}")
        return EXIT_OK
    can_show(choice, machine.name)
    if choice.note:
        say(f"note: {choice.note}")
    return _start(machine, choice.words)


def can_show(choice: Choice, name: str, through: str = "") -> None:
    """Raises HostError when it cannot, here and now. `through`: "on HOST " for another's."""
    if choice.missing:
        raise HostError(Problem("no viewer for this machine is installed", where=name,
                                found=f"not {choice.words[0]}", hint=choice.missing))
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    there = f"on the desktop: qlaunch {through}view '{name}'"
    if os.environ.get("SSH_CONNECTION") and not through:
        import socket

        there = f"where you sit: qlaunch on {socket.gethostname()} view '{name}'"
    raise HostError(Problem(
        "there is no screen here to show it on", where=name,
        found="neither DISPLAY nor WAYLAND_DISPLAY",
        hint=f"{there}; here: qlaunch {through}screenshot '{name}' {'- >' * bool(through)}FILE.png",
    ))


def _start(machine: Reached, words: list[str]) -> int:
    """In our place; root's command starts it as the machine's user, whose screen it is."""
    from qlaunch.facts.invoker import read_invoker

    account = machine.account
    flush()
    if os.geteuid() != 0 or account is None or read_invoker().asked != account.uid:
        os.execvp(words[0], words)  # noqa: S606 - an argv list
    from qlaunch.children import start_child
    from qlaunch.vm.spawn import clean_environment, confinement

    pid = start_child(words, fds={1: 2, 2: 2}, setup=confinement(account, None, None), cwd="/",
                      env=clean_environment(os.environ, {}, account), own_group=False)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
