"""Prepare this host for passthrough, once: kernel parameters, modules, huge pages,
use without root. `setup` shows what it would change; with --apply it does it.
`revert` takes back exactly that, and `show` tells what there is.

What is asked for is all that stays: a second `setup` replaces the first. Early
binding is for devices that no other driver may touch; `qlaunch run` takes the
others over when a machine starts. No driver is ever blacklisted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from qlaunch.cli.command import typed
from qlaunch.cli.text import nearest, say, write, write_json
from qlaunch.errors import EXIT_OK, HostError, Problem, UsageError
from qlaunch.values import Size, parse_size

if TYPE_CHECKING:
    from qlaunch.setup.model import Pages, Record, Setup, Wishes

EXAMPLE = """\
example:
  qlaunch host setup                      what would be changed, as a diff
  qlaunch host setup --apply
  qlaunch host setup --hugepages 2M:4096 --user anna --apply
  qlaunch host setup --early 03:00.0 03:00.1 --apply
  qlaunch host show
  qlaunch host revert --apply
"""

_ACTIONS = ("setup", "revert", "show")
_SIZES = {"2M": 2 << 20, "1G": 1 << 30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """setup, revert or show, and what setup is to do."""
    from qlaunch.setup.model import BOOTS

    parser.add_argument("action", metavar="ACTION", help="setup, revert or show")
    parser.add_argument("--apply", action="store_true", help="do it, instead of showing it")
    parser.add_argument(
        "--early", metavar="ADDRESS", nargs="+", action="extend", default=[],
        help="devices that vfio-pci gets at boot, before their own drivers",
    )
    parser.add_argument(
        "--hugepages", metavar="SIZE:COUNT", action="append", default=[],
        help="set huge pages aside at boot: 2M:4096 or 1G:16",
    )
    parser.add_argument(
        "--gvt", action="store_true",
        help="Intel's GVT-g: i915.enable_gvt=1 i915.enable_guc=0 kvm.ignore_msrs=1",
    )
    parser.add_argument(
        "--user", metavar="NAME", default="",
        help="let this account open VFIO's devices and lock memory, without root",
    )
    parser.add_argument(
        "--memlock", metavar="SIZE", help="with --user: at most this much memory; else no limit"
    )
    parser.add_argument(
        "--boot", metavar="LOADER", default="",
        help=f"which kernel parameters: {', '.join(BOOTS)}",
    )
    parser.add_argument(
        "--root", metavar="DIR", default="/",
        help="a directory that stands for /; commands are then shown and never run",
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Look, show, and do it when asked to."""
    _check(args)
    root = Path(args.root)
    if not root.is_dir():
        raise UsageError(Problem("this is no directory", where="--root", found=args.root,
                                 hint="--root takes the top of another system's files"))
    from qlaunch.setup.read import read_record

    record = read_record(root)
    if args.action == "show":
        return _show(args, root, record)
    if args.action == "revert":
        return _revert(args, root, record)
    from qlaunch.setup.make import make_setup
    from qlaunch.setup.read import read_setup

    wishes = wishes_of(args)
    facts = read_setup(root, wishes, record)
    setup = make_setup(facts, wishes, record)
    if any(p.severity == "error" for p in setup.problems):
        raise HostError(setup.problems)
    return _carry(args, root, setup, record)


def _check(args: argparse.Namespace) -> None:
    if args.action not in _ACTIONS:
        near = nearest(args.action, _ACTIONS)
        raise UsageError(Problem(
            "there is no such action", where="qlaunch host", found=args.action,
            allowed=", ".join(_ACTIONS),
            hint=f"did you mean {near}?" if near else "qlaunch host --help",
        ))
    given = [f"--{name}" for name in ("early", "hugepages", "gvt", "user", "memlock", "boot")
             if getattr(args, name)]
    if args.action != "setup" and given:
        raise UsageError(Problem(f"host {args.action} takes no {given[0]}",
                                 hint=f"qlaunch host {args.action}"))
    if args.action == "show" and args.apply:
        raise UsageError(Problem("host show changes nothing", found="--apply",
                                 hint="qlaunch host show"))


def wishes_of(args: argparse.Namespace) -> Wishes:
    """The wishes in the arguments. Raises UsageError for all that cannot be."""
    from qlaunch.cli.byhand import addresses_of
    from qlaunch.setup.model import BOOTS, Wishes

    if args.boot and args.boot not in BOOTS:
        raise UsageError(Problem("there is no such boot loader", where="--boot", found=args.boot,
                                 allowed=", ".join(BOOTS), hint="without --boot it is looked up"))
    if args.memlock and not args.user:
        raise UsageError(Problem("--memlock is the limit of an account", hint="add --user NAME"))
    return Wishes(
        early=tuple(addresses_of(args.early)), gvt=args.gvt,
        hugepages=tuple(_pages(text) for text in _each_once(args.hugepages)),
        user=args.user, memlock=_memlock(args.memlock), boot=args.boot,
    )


def _each_once(texts: list[str]) -> list[str]:
    sizes = [text.partition(":")[0] for text in texts]
    for size in sizes:
        if sizes.count(size) > 1:
            raise UsageError(Problem("this page size is named twice", where="--hugepages",
                                     found=size, hint="one --hugepages for each size"))
    return texts


def _pages(text: str) -> Pages:
    from qlaunch.setup.model import Pages

    size, _, count = text.partition(":")
    if size not in _SIZES or not (count.isascii() and count.isdigit() and len(count) < 8):
        raise UsageError(Problem("this is no size and number of huge pages", where="--hugepages",
                                 found=text, allowed="2M:COUNT, 1G:COUNT",
                                 hint="qlaunch host setup --hugepages 2M:4096"))
    return Pages(size=Size(_SIZES[size]), count=int(count))


def _memlock(text: str | None) -> Size | None:
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise UsageError(Problem("--memlock takes a size", found=text or "",
                                 allowed=str(error),
                                 hint="qlaunch host setup --user NAME --memlock 16G")) from None


# -- doing ------------------------------------------------------------------------------------


def _revert(args: argparse.Namespace, root: Path, record: Record | None) -> int:
    if record is None:
        if args.json:
            write_json({"changes": [], "commands": [], "applied": False})
        else:
            write("nothing was set up, so there is nothing to take back\n")
        return EXIT_OK
    from qlaunch.setup.make import make_revert
    from qlaunch.setup.read import read_setup

    return _carry(args, root, make_revert(read_setup(root, record.wishes, record), record), record)


def _carry(args: argparse.Namespace, root: Path, setup: Setup, record: Record | None) -> int:
    from qlaunch.cli.main import tell

    idle = setup.idle and setup.record == record
    if args.apply and not idle and _is_host(root):
        from qlaunch.cli.byhand import need_root

        need_root(f"host {args.action} --apply")
    tell(setup.problems)
    if not args.json:
        write(setup_text(setup, root, idle=idle))
    if args.apply and not idle:
        from qlaunch.cli.text import flush
        from qlaunch.setup.apply import carry_out

        flush()
        carry_out(root, setup, record, say)
    if args.json:
        write_json(_as_json(setup, applied=bool(args.apply) and not idle))
    elif not idle:
        write(_ending(args, setup, root))
    return EXIT_OK


def _is_host(root: Path) -> bool:
    return str(root.resolve()) == "/"


def setup_text(setup: Setup, root: Path, *, idle: bool) -> str:
    """The diff and the commands."""
    from qlaunch.setup.edit import diff_text

    if idle:
        return "all is as it should be: nothing to change\n"
    text = "".join(diff_text(change) for change in setup.changes)
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if setup.commands:
        head = "then runs:" if _is_host(root) else "then, on the machine itself:"
        text += "\n".join((head, *(f"  {join(c.argv)}" for c in setup.commands))) + "\n"
    return text


def _ending(args: argparse.Namespace, setup: Setup, root: Path) -> str:
    if not args.apply:
        import sys

        words = join([*sys.argv[1:], "--apply"])
        return f"\nnothing was changed; to do it: {typed(f'qlaunch {words}')}\n"
    if not _is_host(root):
        return "done; the commands above are yours to run on that machine\n"
    boot = any(c.argv[0] not in ("udevadm", "systemctl") for c in setup.commands)
    files = any(not c.path.startswith(("/etc/udev", "/etc/systemd")) for c in setup.changes)
    return "done; it holds from the next boot on\n" if boot or files else "done\n"


def _as_json(setup: Setup, *, applied: bool) -> dict[str, object]:
    from qlaunch.setup.edit import diff_text

    return {
        "applied": applied,
        "changes": [
            {"path": c.path,
             "action": "remove" if c.after is None else "create" if c.before is None else "edit",
             "diff": diff_text(c).encode("utf-8", "surrogateescape").decode("utf-8", "replace")}
            for c in setup.changes
        ],
        "commands": [list(c.argv) for c in setup.commands],
        "boot": setup.record.boot if setup.record else "",
        "parameters": list(setup.record.shown) if setup.record else [],
        "problems": [p._asdict() for p in setup.problems],
    }


# -- showing ----------------------------------------------------------------------------------


def _show(args: argparse.Namespace, root: Path, record: Record | None) -> int:
    if record is None:
        if args.json:
            write_json(None)
        else:
            write("nothing was set up on this host\n"
                  + typed("qlaunch host setup shows what could be\n"))
        return EXIT_OK
    from qlaunch.setup.edit import holds
    from qlaunch.setup.read import read_setup

    facts = read_setup(root, record.wishes, record)
    running = facts.cmdline.split()
    there = {p.path: holds(facts.files.get(p.path), p) for p in record.parts}
    if args.json:
        write_json({
            "complete": record.done, "boot": record.boot, "wishes": record.wishes,
            "parameters": [{"parameter": w, "running": w in running} for w in record.shown],
            "files": [{"path": path, "there": held} for path, held in there.items()],
        })
        return EXIT_OK
    lines = [] if record.done else ["the last setup was interrupted: do it again, or revert it"]
    lines += [f"parameter  {w}{'' if w in running else '  (from the next boot on)'}"
              for w in record.shown]
    lines += [f"file       {path}{'' if held else '  (changed since, or gone)'}"
              for path, held in there.items()]
    write("\n".join([*lines, typed("qlaunch host revert takes it back")]) + "\n")
    return EXIT_OK
