"""Show what `run` would do: the host steps in order, then the command line, each
with its reason.

Beside each step and option stands the profile line or the rule that put it
there. Nothing is changed; root is not needed; a machine that lacks the devices
gets warnings.
"""

from __future__ import annotations

import argparse
import re
from shlex import quote

from msgspec import Struct

from qlaunch.argv.render import plan_options, render_argv
from qlaunch.cli.common import (
    Made,
    add_profile_arguments,
    located,
    make,
    plan_for,
    quirks_in,
    warnings_of,
)
from qlaunch.cli.main import tell
from qlaunch.cli.text import write, write_json
from qlaunch.errors import EXIT_OK, Problem, UsageError
from qlaunch.plan.model import PinPlan, Plan
from qlaunch.plan.steps import Step
from qlaunch.profile.read import find_profile, read_profile

WIDTH = 80
EXAMPLE = """\
example:
  qlaunch plan win7.toml
  qlaunch plan win7.toml --diff last          what changed since the last start
  qlaunch plan win7.toml --diff other.toml
  qlaunch plan win7.toml --facts rack7.json   the same on another machine
"""
_BREAK = re.compile(r"(?<= )|(?<=[^,],)(?=[^,])")  # after a space, or one comma
_KEY = re.compile(r"[a-z_]+(\[\d+\])?(\.[a-z_]+(\[\d+\])?)*")


class ShownStep(Struct, frozen=True):
    """One host step in `--json`."""

    text: str
    root: bool
    why: str
    step: Step


class ShownOption(Struct, frozen=True):
    """One option in `--json`."""

    words: tuple[str, ...]
    why: str


class Shown(Struct, frozen=True):
    """`plan --json`."""

    name: str
    uuid: str
    qemu: str
    qemu_version: tuple[int, int, int]
    needs_root: bool
    steps: tuple[ShownStep, ...]
    argv: tuple[str, ...]
    options: tuple[ShownOption, ...]
    fds: dict[str, str]
    problems: tuple[dict[str, str], ...]
    pins: PinPlan | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROFILE, --json, --diff."""
    add_profile_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--diff", metavar="OTHER", help='another profile, or "last": the last start'
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    made = make(args)
    if args.diff:
        tell([*warnings_of(made), *quirks_in(made)])
        write(_diff(args, made))
    elif args.json:
        write_json(shown(made))
    else:
        tell([*warnings_of(made), *quirks_in(made)])
        write(plan_text(made))
    return EXIT_OK


def shown(made: Made) -> Shown:
    """The plan as `--json` prints it."""
    plan = made.plan
    return Shown(
        plan.name, plan.uuid, plan.qemu, plan.qemu_version, plan.needs_root,
        tuple(ShownStep(str(s), True, reason(s.why, made), s) for s in plan.steps),
        tuple(render_argv(plan)),
        tuple(ShownOption(o.words, reason(o.why, made)) for o in plan_options(plan)),
        {str(f.number): f"{f.kind} {f.of}".strip() for f in plan.fds},
        tuple(
            p._asdict()
            for p in (*made.loaded.warnings, *located(plan.problems, made.loaded))
        ),
        plan.pins,
    )


def reason(why: str, made: Made) -> str:
    """Key paths in `why` become `win7.toml:12 cpu.cores`; keys left at their default say so."""
    parts = []
    for part in why.split("; "):
        origin = made.loaded.origin(part) if _KEY.fullmatch(part) else None
        if origin is None:
            parts.append(part)
        else:
            parts.append(f"{origin} {part}" if origin else f"default {part}")
    return "; ".join(parts)


def plan_text(made: Made) -> str:
    """The whole, at most 80 columns wide where the words allow it: an option that is longer goes on
    in the next line (`argv` has it in one)."""
    plan = made.plan
    lines = [f"{plan.name}: {_summary(plan)}", ""]
    if plan.steps:
        lines.append("host steps, in order (undone in reverse), all as root:")
        for number, step in enumerate(plan.steps, 1):
            lines += _line(f"{number:3}  {step}", reason(step.why, made), 5)
        lines.append("")
    if plan.makes:
        lines += ["made when missing, and kept:"]
        lines += [line for make in plan.makes
                  for line in folded(f"  {make.path}: {make.what}", 4)] + [""]
    lines += _helpers(plan)
    lines += _threads(made)
    lines.append("command line:")
    lines.append(quote(plan.qemu))
    for option in plan_options(plan):
        words = " ".join(quote(w) for w in option.words)
        lines += _line(f"  {words}", reason(option.why, made), 6)
    return "\n".join(lines) + "\n"


def _summary(plan: Plan) -> str:
    version = ".".join(map(str, plan.qemu_version))
    steps = f"{len(plan.steps)} host steps, then " if plan.steps else "no host steps, only "
    account = f" as {plan.account.name}" if plan.account else ""
    pins = "; vCPUs pinned" if plan.pins and plan.pins.vcpus else ""
    return f"{steps}QEMU {version} ({plan.accel}){account}{pins}"


def _helpers(plan: Plan) -> list[str]:
    """What is opened for QEMU and goes away with it."""
    lines = []
    for nic in plan.nics:
        if nic.kind == "tap":
            where = f" on bridge {nic.bridge}" if nic.bridge else ""
            vhost = ", vhost" if nic.vhost_fds else ""
            lines.append(f"  a tap{where} for net{nic.index} ({nic.queues} queue(s){vhost})")
        elif nic.kind == "macvtap":
            lines.append(f"  {nic.ifname} for net{nic.index} ({nic.queues} queue(s))")
    lines += [f"  {f.of} as fd {f.number}" for f in plan.fds if f.kind == "file"]
    lines += [
        f"  a temporary file for the writes to {d.file} as fd {d.overlay}"
        for d in plan.disks if d.overlay is not None
    ]
    lines += [f"  {' '.join(map(quote, h.argv))} for {h.key}" for h in plan.helpers]
    lines = [part for line in lines for part in folded(line, 4)]
    return ["opened for QEMU, gone when it ends:", *lines, ""] if lines else []


def _threads(made: Made) -> list[str]:
    """Which host CPUs the machine's threads run on, and how they are scheduled."""
    pins = made.plan.pins
    if pins is None:
        return []
    lines = []
    step = made.plan.cpu.threads
    for first in range(0, len(pins.vcpus), step):
        cpus = " ".join(str(one) for one in pins.vcpus[first : first + step])
        names = f"vCPU {first}" if step == 1 else f"vCPUs {first}-{first + step - 1}"
        lines.append(f"  {names:12} on CPU {cpus.replace(' ', ' and ')}")
    for name, where in (("emulator", pins.emulator), ("iothreads", pins.iothreads)):
        lines += [f"  {name:12} on CPU {where}"] * (where is not None)
    if pins.sched or pins.nice is not None:
        priority = f", priority {pins.priority}" if pins.priority else ""
        nice = f", nice {pins.nice}" if pins.nice is not None else ""
        lines.append(f"  {'vCPUs':12} scheduled as {pins.sched or 'other'}{priority}{nice}")
    why = _line("threads:", reason(pins.why, made), 2)
    return [*why, *lines, ""]


def _line(text: str, why: str, indent: int) -> list[str]:
    if not why:
        return folded(text, indent)
    comment = f"# {why}"
    if len(text) + 2 + len(comment) <= WIDTH:
        return [f"{text:{max(len(text), WIDTH - 2 - len(comment))}}  {comment}"]
    from textwrap import wrap

    pad = " " * indent
    comments = wrap(why, WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")
    return [*folded(text, indent), *comments]


def folded(text: str, indent: int) -> list[str]:
    """In lines of WIDTH, broken after spaces and commas; a longer word stays whole."""
    lines = [""]
    for part in _BREAK.split(text):
        if lines[-1].strip() and len(lines[-1]) + len(part.rstrip()) > WIDTH:
            lines.append(" " * indent)
        lines[-1] += part
    return [line.rstrip() for line in lines]


def plan_lines(plan: Plan) -> list[str]:
    """Steps and options, one a line: what `--diff` compares and a start leaves behind."""
    return [f"step: {step}" for step in plan.steps] + [
        " ".join(quote(w) for w in option.words) for option in plan_options(plan)
    ]


def _diff(args: argparse.Namespace, made: Made) -> str:
    from difflib import unified_diff

    if args.diff == "last":
        old, name = _last(made.plan), "last start"
    else:
        other = read_profile(find_profile(args.diff), ())
        old, name = plan_lines(plan_for(other, args.facts, holders=False)[1]), args.diff
    new = plan_lines(made.plan)
    text = "\n".join(unified_diff(old, new, name, args.profile, lineterm="", n=1))
    return text + "\n" if text else "no difference\n"


def _last(plan: Plan) -> list[str]:
    path = f"{plan.state_dir}/last"
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is not imported here
            return file.read().splitlines()
    except FileNotFoundError:
        raise UsageError(
            Problem(f"{plan.name} has not been started yet", where=path,
                    hint="--diff OTHER.toml compares with another profile")
        ) from None
    except OSError as error:
        raise UsageError(Problem("the last start cannot be read", path, str(error),
                                 hint="--diff OTHER.toml compares with another profile")) from None


