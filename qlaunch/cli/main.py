"""From the command line to one verb; every failure becomes text on stderr and a true exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from qlaunch.cli.text import drop_output, flush, nearest, write
from qlaunch.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Problem, QlaunchError

# verb -> (module below qlaunch.cli, what it does)
VERBS: dict[str, tuple[str, str]] = {
    "run": ("run", "start a machine, watch it, give everything back"),
    "plan": ("plan", "show the host steps and the command line, and why"),
    "argv": ("argv", "print QEMU's command line and nothing else"),
    "check": ("check", "say whether a profile can run here, and why not"),
    "devices": ("devices", "list PCI devices by IOMMU group, with holders"),
    "facts": ("facts", "write down what this host is"),
    "schema": ("schema", "print the profile's JSON Schema, for editors"),
    "bind": ("bind", "hand PCI devices to VFIO by hand"),
    "unbind": ("unbind", "give PCI devices back to their host drivers"),
    "ps": ("ps", "list machines that run or left something behind"),
    "status": ("status", "tell one machine's state"),
    "stop": ("stop", "power a machine off"),
    "logs": ("logs", "show a machine's log"),
    "recover": ("recover", "put back what a dead launcher left"),
}

USAGE = """\
usage: qlaunch VERB [arguments]

Starts QEMU machines with passed-through devices from TOML profiles, and gives
the devices back.

{verbs}

qlaunch VERB --help shows a verb's options and an example.
first steps: qlaunch devices; qlaunch plan PROFILE; qlaunch run PROFILE
"""


class Parser(argparse.ArgumentParser):
    """argparse whose faults are ours: the same form and exit code as every other."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise instead of printing and exiting."""
        from qlaunch.errors import UsageError

        hint = f"{self.prog} --help"
        unknown = message.rpartition("unrecognized arguments: ")[2].split(" ")[0]
        if message.startswith("unrecognized") and unknown.startswith("-"):
            near = nearest(unknown, self._option_string_actions)
            hint = f"did you mean {near}? else: {hint}" if near else hint
        raise UsageError(Problem(message, where=self.prog, hint=hint))


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
        parsed = parser.parse_args(words[1:])
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
    try:
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        sys.stderr.flush()
    except OSError:
        drop_output(sys.stderr)  # nobody reads, or the disk is full: the exit code tells
