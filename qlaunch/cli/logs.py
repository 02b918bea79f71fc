"""Show a machine's log: what qlaunch did, then what QEMU said. -f goes on as it
grows.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from qlaunch.cli.base import runtime_base
from qlaunch.cli.known import machine_name
from qlaunch.cli.text import flush, write
from qlaunch.errors import EXIT_OK, HostError, Problem, UsageError
from qlaunch.run.info import read_info
from qlaunch.run.story import LOG, QEMU_LOG

EXAMPLE = """\
example:
  qlaunch logs win7
  qlaunch logs win7 -f
"""
POLL = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, -f, -n."""
    parser.add_argument("name", metavar="NAME", help="the machine's name")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, default=200, help="of each log (default 200)")


def run(args: argparse.Namespace) -> int:
    """Print the ends of both logs."""
    if args.lines < 0:
        raise UsageError(
            Problem("--lines takes a number of lines", where="qlaunch logs", found=str(args.lines),
                    allowed="0 or more", hint=f"qlaunch logs '{args.name}' -n 50")
        )
    directory = state_directory(args.name)
    files = [directory / LOG, directory / QEMU_LOG]
    ends: dict[Path, int] = {}
    for path in files:
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raw = b""
        except OSError as error:
            raise HostError(
                Problem(f"the log cannot be read: {error.strerror}", where=str(path),
                        hint=f"ls -l '{path}'")
            ) from None
        ends[path] = len(raw)
        lines = raw.decode(errors="replace").splitlines()[-args.lines :] if args.lines > 0 else []
        if lines and path.name == QEMU_LOG:
            write("QEMU said:\n")
        write("".join(f"{line}\n" for line in lines))
    while args.follow:
        time.sleep(POLL)
        for path in files:
            ends[path] = _more(path, ends[path])
    return EXIT_OK


def _more(path: Path, start: int) -> int:
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < start:
                start = 0  # it was begun anew
            file.seek(start)
            raw = file.read()
    except OSError:
        return start
    if raw:
        write(raw.decode(errors="replace"))
        flush()
    return start + len(raw)


def state_directory(text: str) -> Path:
    """Of a running machine from its info; of another where it would be."""
    from qlaunch.facts.invoker import read_invoker
    from qlaunch.plan.paths import machine_paths

    name = machine_name(text)
    info = read_info(f"{runtime_base()}/{name}")
    if info is not None:
        return Path(info.state_dir)
    path = Path(machine_paths(name, read_invoker()).state)
    if not path.is_dir():
        raise HostError(
            Problem(f"{name} has no log; it was never started by you", where=str(path),
                    hint="qlaunch ps; root's machines: sudo qlaunch logs")
        )
    return path
