"""Do any verb on another machine, through ssh: the profile is sent from here, and
qlaunch runs there.

Relative paths in the profile start from your home directory there, or from
--directory. Other files are looked up there; so is a profile's name that is not
found here. ssh is your own, with its configuration and its keys.

When the connection is cut, a machine started with --detach goes on; any other
verb gets what closing its terminal would send it: run presses the power button.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from qlaunch.cli.command import HERE_ONLY as NOT_THERE
from qlaunch.cli.main import VERBS, Parser, tell
from qlaunch.cli.text import nearest
from qlaunch.errors import EXIT_FAILED, HostError, Problem, ProfileError, UsageError
from qlaunch.profile.find import find_profile
from qlaunch.profile.read import pack_profile
from qlaunch.remote.ssh import LOST, Connection

EXAMPLE = """\
example:
  qlaunch on rack7 run win7.toml
  qlaunch on rack7 run win7.toml --detach     it outlives the connection
  qlaunch on root@rack7 devices --cards
  qlaunch on rack7 view win7                  its picture, here
  qlaunch on --directory /srv/vm rack7 run win7.toml
exit codes: those of the verb; 1 when the connection fails or is cut
"""
_MARK = "\0profile"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """HOST, the verb and its words, and how to get there."""
    parser.add_argument("host", metavar="[USER@]HOST", help="as for ssh")
    parser.add_argument("verb", metavar="VERB", help="any verb of qlaunch's")
    parser.add_argument("words", metavar="…", nargs=argparse.REMAINDER, help="its arguments")
    parser.add_argument(
        "--directory", metavar="DIR", default="",
        help="where it is done there, and relative paths start; your home when absent",
    )
    parser.add_argument(
        "--remote-command", metavar="PATH", default="",
        help="the qlaunch to use there, when it is neither on PATH nor in ~/.local/bin",
    )
    parser.add_argument("-F", metavar="FILE", dest="config", help="for ssh: its configuration")
    parser.add_argument("-p", metavar="PORT", dest="port", help="for ssh: the port")
    parser.add_argument("-o", metavar="OPTION", dest="options", action="append", default=[],
                        help="for ssh: any of its options")


def run(args: argparse.Namespace) -> int:
    """Connect, send, do it, and leave with its exit code."""
    parsed = _parsed(args.verb, args.words)
    if isinstance(parsed, int):
        return parsed  # its help was shown
    words, files = _with_files(args.verb, args.words, parsed)
    detached = bool(getattr(parsed, "detach", False))
    terminal = all(os.isatty(number) for number in (0, 1, 2))
    with _ended_by_signals(), _connection(args) as connection:
        there = connection.open(
            args.remote_command, _machine(args.verb, parsed), args.directory, files,
            hang_up=not terminal,
        )
        words = [word.replace(_MARK, f"{there.temporary}/") for word in words]
        if args.verb == "view":
            from qlaunch.cli.viewfrom import view

            code = view(connection, there, parsed)
        else:
            # A terminal that only reads (`… | less`) stays with whoever is in its foreground.
            code = connection.run(there, [args.verb, *words], terminal=terminal,
                                  stdin=terminal or not os.isatty(0))
        if code == LOST:
            return _lost(connection, args, detached)
        connection.close()
        return code


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP as Ctrl-C, so that the connection's socket does not stay."""
    ends = [number for number in (signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is signal.SIG_DFL]
    for number in ends:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ends:
            signal.signal(number, signal.SIG_DFL)


def _parsed(verb: str, words: list[str]) -> argparse.Namespace | int:
    """The verb's own understanding of its words: a mistake is told before anybody connects."""
    if verb not in VERBS or verb in NOT_THERE:
        near = nearest(verb, VERBS)
        problem = Problem("there is no such verb", where="qlaunch on", found=verb,
                          hint=f"did you mean {near}?" if near else "qlaunch --help lists them")
        if verb in NOT_THERE:
            problem = Problem(f"{verb} is for the machine that you sit at", where="qlaunch on",
                              hint=f"log in there, and: qlaunch {verb}")
        raise UsageError(problem)
    module = importlib.import_module(f"qlaunch.cli.{VERBS[verb][0]}")
    parser = Parser(prog=f"qlaunch {verb}", description=module.__doc__, epilog=module.EXAMPLE,
                    formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    module.add_arguments(parser)
    try:
        return parser.parse_args(words)
    except SystemExit as asked:
        return int(asked.code or 0)
    finally:
        _parsers[verb] = parser


_parsers: dict[str, Parser] = {}


def _with_files(
    verb: str, words: list[str], parsed: argparse.Namespace
) -> tuple[list[str], dict[str, bytes]]:
    """The words with files that are sent in the place of profiles, and those files."""
    files: dict[str, bytes] = {}
    words = list(words)
    for key in ("profile", "diff"):
        text = getattr(parsed, key, None)
        if not isinstance(text, str) or (key == "diff" and text == "last"):
            continue
        path = _here(text)
        at = _position(verb, words, key, text)
        if path is None or at is None:
            continue
        name = f"{path.stem}.sent"
        if name in files:
            name = f"other-{name}"
        files[name] = pack_profile(path)
        words[at] = words[at].removesuffix(text) + _MARK + name
    return words, files


def _here(text: str) -> Path | None:
    """The profile; None for a name that is not found here."""
    try:
        return find_profile(text)
    except ProfileError:
        if "/" in text or text.endswith(".toml"):
            raise
        return None


def _position(verb: str, words: list[str], key: str, text: str) -> int | None:
    """Which word has put this text there: the one with whose change it changes."""
    for at, word in enumerate(words):
        if word == text or (word.startswith("-") and word.endswith(f"={text}")):
            other = [*words[:at], word.removesuffix(text) + _MARK, *words[at + 1 :]]
            if getattr(_parsers[verb].parse_args(other), key) == _MARK:
                return at
    return None


def _machine(verb: str, parsed: argparse.Namespace) -> str:
    """What `stop` there is given when root's process could not be signalled; a foreground run's
    name as far as it is known here."""
    if verb != "run" or getattr(parsed, "detach", False) or getattr(parsed, "dry_run", False):
        return ""
    from qlaunch.profile.read import read_profile

    path = _here(parsed.profile)
    if path is None:
        return str(parsed.profile)
    try:
        return read_profile(path, parsed.overrides, root_user=False).profile.name
    except ProfileError:
        return ""  # with the paths of the other machine it may be right


def _options(args: argparse.Namespace) -> list[str]:
    given = [("-F", args.config), ("-p", args.port), *(("-o", one) for one in args.options)]
    return [word for flag, value in given if value for word in (flag, value)]


def _connection(args: argparse.Namespace) -> Connection:
    from shlex import join

    options = _options(args)
    command = ["--remote-command", args.remote_command] if args.remote_command else []
    return Connection(args.host, options, via=join([*options, *command, args.host]))


def _lost(connection: Connection, args: argparse.Namespace, detached: bool) -> int:
    """After ssh's 255: what is known of the verb."""
    if not connection.is_cut():
        tell([Problem(f"qlaunch {args.verb} was ended there by a signal", where=args.host,
                      hint=f"qlaunch on {args.host} ps")])
        return EXIT_FAILED
    become = "it was hung up on there, as when a terminal is closed"
    if args.verb == "run":
        become = "the machine's power button is pressed"
    if args.verb == "view":
        become = "the machine runs on there"
    if detached:
        become = "if the machine had started, it goes on"
    raise HostError(Problem(f"the connection was cut; {become}", where=args.host,
                            hint=f"qlaunch on {args.host} ps"))
