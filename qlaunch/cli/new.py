"""Write a first profile for this host: six questions, or none with flags. It is
planned before it is written, and what the host will be without is told.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qlaunch.cli.command import typed
from qlaunch.cli.text import say, write
from qlaunch.errors import EXIT_OK, HostError, Problem, QlaunchError, UsageError
from qlaunch.values import VmName, parse_vm_name

if TYPE_CHECKING:
    from qlaunch.advise.answers import Answers
    from qlaunch.facts.model import HostFacts

EXAMPLE = """\
example:
  qlaunch new                         asks
  qlaunch new win11 --guest windows11 --card 01:00.0 --iso Win11.iso --yes
  qlaunch new old --guest windows7 --disk /dev/disk/by-id/ata-X --card none \\
      --memory 4G --cpus 4 --network bridge:br0
with --yes, what no flag says is what would have been proposed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME and the answers."""
    parser.add_argument("name", nargs="?", metavar="NAME",
                        help="the machine's name; the guest's when absent")
    parser.add_argument("--guest", metavar="ERA",
                        help="windows11, windows10, windows7, linux or other")
    parser.add_argument("--card", metavar="ADDRESS",
                        help='the graphics card for the guest ("qlaunch devices --cards"), or none')
    parser.add_argument("--cpus", metavar="N", help='virtual CPUs, or "auto"')
    parser.add_argument("--memory", metavar="SIZE", help="guest memory, such as 8G")
    parser.add_argument("--disk", metavar="DISK",
                        help="a size for a new image (64G), an image, or a device in /dev")
    parser.add_argument("--network", metavar="NET", help="nat, user, none, or bridge:NAME")
    parser.add_argument("--iso", metavar="FILE", action="append", default=[],
                        help="a CD to install from; may be said twice")
    parser.add_argument("--output", metavar="FILE", help="where to write it; ./NAME.toml if absent")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--facts", metavar="FILE",
                        help="for the host of this snapshot (qlaunch facts --json)")


def run(args: argparse.Namespace) -> int:
    """Ask, plan, write, and say what it means."""
    from qlaunch.advise.newprofile import profile_text
    from qlaunch.cli.questions import all_answers

    if args.name is not None:
        _name(args.name)
    if args.output or args.name:  # before six questions are answered for nothing
        _refuse(Path(args.output or f"{args.name}.toml"), force=args.force)
    facts = _facts(args)
    answers = all_answers(args, facts)
    name = _name(args.name or answers.guest)
    output = Path(args.output or f"{name}.toml")
    _refuse(output, force=args.force)
    if isinstance(answers.disk, str):
        answers, facts = _with_disk(answers, facts, output, recorded=bool(args.facts))
    isos = tuple(_seen_from(output, iso) for iso in args.iso)
    text = profile_text(name, answers, facts, isos)
    lines = _planned_and_written(output, text, args)
    shown = str(output)
    write(f"{shown} is written, and can run here.\n")
    write(f"While it runs, {facts.host or 'this host'} is without:\n")
    write("".join(f"  {line}\n" for line in lines))
    write(_next(shown, name, answers, isos))
    return EXIT_OK


def _name(text: str) -> VmName:
    try:
        return parse_vm_name(text)
    except ValueError as error:
        raise UsageError(Problem("this cannot be a machine's name", "NAME", found=repr(text),
                                 allowed=str(error),
                                 hint="--output FILE says where it goes")) from None


def _facts(args: argparse.Namespace) -> HostFacts:
    from qlaunch.facts.model import Wanted
    from qlaunch.facts.probe import read_facts, read_snapshot

    if args.facts:
        return read_snapshot(Path(args.facts))
    return read_facts(Wanted(holders=True, programs=("nft", "dnsmasq", "swtpm")))


def _refuse(output: Path, *, force: bool) -> None:
    """Before anything is asked of the host twice; the write itself does not overwrite either."""
    if os.path.lexists(output) and not force:
        raise HostError(Problem("there is a file already", str(output),
                                hint="another --output, or --force to write over it"))
    if not output.parent.is_dir():
        raise HostError(Problem("there is no such directory", str(output.parent),
                                hint=f"mkdir -p {output.parent}"))


def _seen_from(output: Path, path: str) -> str:
    """A path as the profile may say it: relative to its own directory, or whole."""
    if path.startswith("~"):
        return path
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - links in /dev/disk/by-id stay as they are
    if whole.parent == Path(os.path.abspath(output)).parent:  # noqa: PTH100
        return whole.name
    return str(whole)


def _with_disk(
    answers: Answers, facts: HostFacts, output: Path, *, recorded: bool
) -> tuple[Answers, HostFacts]:
    """The disk as the profile says it, and what stands there."""
    import msgspec

    path = str(answers.disk)
    whole = os.path.abspath(Path(path).expanduser())  # noqa: PTH100
    said = _seen_from(output, path)
    if not recorded:
        from qlaunch.facts.files import read_files
        from qlaunch.facts.invoker import read_invoker

        (found,) = read_files((whole,), read_invoker())
        if found.kind not in ("file", "block"):
            raise HostError(Problem(
                "there is no such disk", "--disk", found=f"{path} ({found.kind})",
                hint="a size such as 64G makes a new one",
            ))
        found = msgspec.structs.replace(found, path=said)
        facts = msgspec.structs.replace(facts, files=(*facts.files, found))
    return answers._replace(disk=said), facts


def _planned_and_written(output: Path, text: str, args: argparse.Namespace) -> list[str]:
    """Written beside its place, planned, and put there when the plan has no fault.

    Returns what the host loses. Raises HostError with the plan's faults; nothing is left then.
    """
    from qlaunch.advise.losses import losses
    from qlaunch.cli.common import plan_for
    from qlaunch.cli.main import tell
    from qlaunch.profile.read import read_profile

    beside = output.with_name(f".{output.name}.{os.getpid()}.toml")
    try:
        _write_new(beside, text)
        try:
            loaded = read_profile(beside)
        except QlaunchError as error:
            raise UsageError([
                p._replace(**{key: getattr(p, key).replace(beside.name, output.name)
                              for key in ("where", "hint")})
                for p in error.problems
            ]) from None
        facts, plan = plan_for(loaded, args.facts, holders=True)
        faults = [p for p in plan.problems if p.severity == "error"]
        if faults:
            raise HostError([*faults, Problem(
                "nothing was written, because it could not run here", str(output),
                hint="qlaunch doctor tells what the host lacks; another answer may do",
            )])
        tell([p for p in plan.problems if p.severity == "warning"])
        _put(beside, output, force=args.force)
        return losses(facts, plan)
    except OSError as error:
        raise HostError(Problem("the profile cannot be written", str(output),
                                found=error.strerror or str(error),
                                hint="--output FILE puts it elsewhere")) from None
    finally:
        beside.unlink(missing_ok=True)


def _write_new(path: Path, text: str) -> None:
    """A new file, of whoever asked where the directory is theirs."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        owner = path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(fd, owner.st_uid, owner.st_gid)
        file.write(text)


def _put(beside: Path, output: Path, *, force: bool) -> None:
    """`link` does not overwrite what has come there meanwhile."""
    if force:
        beside.replace(output)
    else:
        os.link(beside, output)


def _next(shown: str, name: str, answers: Answers, isos: tuple[str, ...]) -> str:
    from shlex import quote

    word = quote(name if shown == f"{name}.toml" else shown)
    install = answers.card is not None and not isinstance(answers.disk, str)
    lines = [f"qlaunch plan {word}"]
    if install:
        lines.append(f"qlaunch run {word} --install")
    lines.append(f"qlaunch run {word}")
    text = typed(f"next: {'; '.join(lines)}\n")
    if not isinstance(answers.disk, str) and not isos:
        say("note: the disk is empty; give it a CD to install from: [[cdrom]] in the profile")
    if not sys.stdout.isatty():
        return text
    return f"\n{text}"
