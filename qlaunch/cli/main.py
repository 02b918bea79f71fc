"""From the command line to one verb; every failure becomes text on stderr and a true exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from qlaunch.cli.text import drop_output, flush, folded, nearest, write
from qlaunch.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Problem, QlaunchError

# verb -> (module below qlaunch.cli, what it does)
VERBS: dict[str, tuple[str, str]] = {
    "run": ("run", "start a machine, watch it, give everything back"),
    "new": ("new", "write a first profile for this host, by six questions"),
    "plan": ("plan", "show the host steps and the command line, and why"),
    "argv": ("argv", "print QEMU's command line and nothing else"),
    "check": ("check", "say whether a profile can run here, and why not"),
    "doctor": ("doctor", "say what this host lacks for machines with devices, and the fix"),
    "devices": ("devices", "list PCI devices by IOMMU group, with holders"),
    "facts": ("facts", "write down what this host is"),
    "host": ("host", "prepare the host for passthrough, and take that back"),
    "rom": ("rom", "read a card's ROM into a file"),
    "schema": ("schema", "print the profile's JSON Schema, for editors"),
    "bind": ("bind", "hand PCI devices to VFIO by hand"),
    "unbind": ("unbind", "give PCI devices back to their host drivers"),
    "vgpu": ("vgpu", "make or remove a vGPU by hand"),
    "ps": ("ps", "list machines that run or left something behind"),
    "status": ("status", "tell one machine's state"),
    "top": ("top", "watch machines live: CPUs, memory, disks, networks"),
    "pins": ("pins", "tell where a machine's threads run, and whether they should"),
    "media": ("media", "change what is in a machine's CD drives"),
    "view": ("view", "look at a machine: start the viewer that fits"),
    "screenshot": ("screenshot", "write a picture of a machine's screen"),
    "sendkey": ("sendkey", "press keys in a machine"),
    "pause": ("pause", "let a machine stand still"),
    "resume": ("resume", "let it go on"),
    "reset": ("reset", "press its reset button"),
    "console": ("console", "be at a machine's serial port"),
    "monitor": ("monitor", "QEMU's human monitor: one command, or a prompt"),
    "qmp": ("qmp", "send one QMP command, or follow the events"),
    "detach": ("unplug", "take a device from a running guest, back to the host"),
    "attach": ("plug", "give a running guest a device that was detached"),
    "stop": ("stop", "power a machine off"),
    "selftest": ("selftest", "hand devices over and back, round by round"),
    "logs": ("logs", "show a machine's log"),
    "recover": ("recover", "put back what a dead launcher left"),
    "desktop": ("desktop", "a shortcut per profile in the desktop's menus"),
    "on": ("on", "do any of these on another machine, through ssh"),
    "completion": ("completion", "print what bash, zsh or fish needs to complete all this"),
}

MIN_WIDTH = 40  # columns of a terminal in which a text is worth folding
USAGE = """\
usage: qlaunch VERB [arguments]

Starts QEMU machines with passed-through devices from TOML profiles, and gives
the devices back.

{verbs}

qlaunch VERB --help shows a verb's options and an example.
first steps: qlaunch doctor; qlaunch new; qlaunch plan NAME; qlaunch run NAME
"""


class Parser(argparse.ArgumentParser):
    """argparse whose faults are ours: the same form and exit code as every other."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise instead of printing and exiting."""
        from qlaunch.errors import UsageError

        hint = f"{self.prog} --help"
        if ": invalid " in message:
            raise UsageError(self._no_value(message, hint))
        unknown = message.rpartition("unrecognized arguments: ")[2].split(" ")[0]
        if message.startswith("unrecognized") and unknown.startswith("-"):
            near = nearest(unknown, self._option_string_actions)
            hint = f"did you mean {near}? else: {hint}" if near else hint
        raise UsageError(Problem(message, where=self.prog, hint=hint))

    def _no_value(self, message: str, hint: str) -> Problem:
        """argparse's `argument --sort: invalid choice: 'x' (choose from 'name', 'cpu')`, or
        `argument --hold: invalid int value: 'x'`, in our form."""
        name, _, rest = message.removeprefix("argument ").partition(": invalid ")
        kind, _, rest = rest.partition(": ")
        found, _, choices = rest.partition(" (choose from ")
        found, where = found.strip("'"), f"{self.prog} {name}"
        if not choices:
            return Problem("a number is wanted", where, found, hint=hint)
        allowed = choices.removesuffix(")").replace("'", "")
        near = nearest(found, allowed.split(", "))
        return Problem(f"there is no such {kind}", where, found, allowed,
                       f"did you mean {near}?" if near else hint)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code; never raises for an expected failure."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    try:
        code = _dispatch(words)
        flush()
        return code
    except QlaunchError as error:
        tell(error.problems)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`qlaunch plan … | head`).
        drop_output()
        return EXIT_FAILED
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            sys.stderr.write("interrupted\n")
        return 130
    except UnicodeEncodeError as error:
        tell([Problem("this locale cannot spell a file's name", found=ascii(error.object),
                      hint="LC_ALL=C.UTF-8 qlaunch …")])
        return EXIT_FAILED
    except Exception as error:
        if os.environ.get("QLAUNCH_DEBUG"):
            raise
        tell(
            [
                Problem(
                    "internal fault, please report it", found=f"{type(error).__name__}: {error}",
                    hint="QLAUNCH_DEBUG=1 shows where; qlaunch recover --all puts a host back",
                )
            ]
        )
        return EXIT_FAILED


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["--as-root"]:
        from qlaunch.cli import asroot, elevate

        words = asroot.enter(words[1:], elevate.KEPT)
    if not words or words[0] in ("-h", "--help", "help"):
        write(_usage())
        return EXIT_OK if words else EXIT_USAGE
    if words[0] in ("-V", "--version"):
        from qlaunch import __version__

        write(f"qlaunch {__version__}\n")
        return EXIT_OK
    verb = words[0]
    if verb not in VERBS:
        near = nearest(verb, VERBS)
        hint = f"did you mean {near}?" if near else "qlaunch --help lists the verbs"
        tell([Problem("there is no such verb", where="qlaunch", found=verb, hint=hint)])
        return EXIT_USAGE
    if verb == "run":
        from qlaunch.cli.early import begin

        begin(words[1:])
    _import_msgspec()
    module = importlib.import_module(f"qlaunch.cli.{VERBS[verb][0]}")
    parser = Parser(
        prog=f"qlaunch {verb}", description=module.__doc__, epilog=module.EXAMPLE,
        formatter_class=_formatter, allow_abbrev=False,
    )
    module.add_arguments(parser)
    try:
        parsed, left = parser.parse_known_args(words[1:])
        if left:  # `console NAME --escape ^A PORT`: argparse takes no PORT after an option
            rest = any(action.nargs == argparse.REMAINDER for action in parser._actions)
            again = parser.parse_args if rest else parser.parse_intermixed_args
            parsed = again(words[1:])
    except SystemExit as asked:  # it has shown its help
        return int(asked.code or EXIT_OK)
    result: int = module.run(parsed)
    return result


def _open_streams() -> None:
    """A closed stdin, stdout or stderr (`qlaunch … >&-`) becomes /dev/null: what is opened next
    would take its number, and be written to."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _import_msgspec() -> None:
    """Without typing_extensions, which it would take where one happens to be installed, and inspect
    and ast with it: 10 ms for what `typing` has."""
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # refuses the import
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]


def _formatter(prog: str) -> argparse.HelpFormatter:
    """80 columns like all our texts; to ask the terminal, argparse imports shutil at each start."""
    return argparse.RawDescriptionHelpFormatter(prog, width=78)


def _usage() -> str:
    width = max(len(v) for v in VERBS)
    return USAGE.format(verbs="\n".join(f"  {v:{width}}  {text}" for v, (_, text) in VERBS.items()))


def tell(problems: Sequence[Problem]) -> None:
    """Problems to stderr, one after the other."""
    from qlaunch.cli.command import typed

    problems = [p._replace(hint=typed(p.hint)) for p in problems]
    try:
        width = os.get_terminal_size(2).columns if sys.stderr.isatty() else 0
        for problem in problems:
            sys.stderr.write(f"{folded(str(problem), width) if width > MIN_WIDTH else problem}\n")
        sys.stderr.flush()
    except OSError:
        drop_output(sys.stderr)  # nobody reads, or the disk is full: the exit code tells
