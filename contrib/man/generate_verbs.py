"""qlaunch(1) and a page for each group of verbs, from the verbs' own help.

`python contrib/man/generate_verbs.py` writes them beside this file, and a test compares.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

from qlaunch.cli.main import VERBS

HERE = Path(__file__).parent
GROUPS = {
    "qlaunch-profile": (
        "profiles: write, look at, check and start them",
        ("new", "plan", "argv", "check", "schema", "run", "selftest"),
    ),
    "qlaunch-machine": (
        "machines that run",
        (
            "ps", "status", "top", "pins", "view", "console", "screenshot", "sendkey", "media",
            "monitor", "qmp", "pause", "resume", "reset", "detach", "attach", "stop", "logs",
            "recover",
        ),
    ),
    "qlaunch-host": (
        "the host and its devices",
        ("doctor", "devices", "host", "bind", "unbind", "vgpu", "rom", "facts"),
    ),
    "qlaunch-more": ("other machines, desktops and shells", ("on", "desktop", "completion")),
}
EXITS = (
    ("0", "fine"), ("1", "failed; the host is as it was"),
    ("2", "the command line or the profile is at fault"),
    ("3", "something could not be given back: what, and the command that retries, is told"),
)


def pages() -> dict[str, str]:
    """File name → page."""
    made = {f"{name}.1": _group(name, text, verbs) for name, (text, verbs) in GROUPS.items()}
    return {"qlaunch.1": _overview(), **made}


def _overview() -> str:
    lines = [
        _title("QLAUNCH"), ".SH NAME",
        "qlaunch \\- start QEMU machines with passed\\-through devices from profiles",
        ".SH SYNOPSIS", ".B qlaunch", "VERB [arguments]", ".SH DESCRIPTION",
        "Takes devices from their host drivers, starts QEMU paused and without privileges, pins",
        "its threads, lets the guest run, and gives the devices back, whatever happens.",
        "A machine is described by a profile, see", ".BR qlaunch.toml (5).", ".SH VERBS",
    ]
    where = {verb: name for name, (_, verbs) in GROUPS.items() for verb in verbs}
    for verb, (_, text) in VERBS.items():
        lines += [".TP", f".B {verb}", f"{_roff(text)}: see", f".BR {_roff(where[verb])} (1)."]
    lines += [".SH EXIT STATUS"]
    for code, text in EXITS:
        lines += [".TP", f".B {code}", _roff(text)]
    lines += [".SH ENVIRONMENT", ".TP", ".B QLAUNCH_DEBUG",
              "When set, an internal fault shows where it happened.",
              ".SH SEE ALSO", ".BR qlaunch.toml (5),"]
    lines += [f".BR {_roff(name)} (1)," for name in GROUPS]
    return "\n".join([*lines, ".BR qemu (1)"]) + "\n"


def _group(name: str, text: str, verbs: tuple[str, ...]) -> str:
    lines = [_title(name.upper()), ".SH NAME", f"{_roff(name)} \\- {_roff(text)}", ".SH SYNOPSIS"]
    there = [verb for verb in verbs if verb in VERBS]
    for number, verb in enumerate(there):
        lines += [".br"] * (number > 0) + [f".B qlaunch {verb}", _roff(_usage(verb))]
    for verb in there:
        lines += [f".SH qlaunch {verb}", *_verb(verb)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR qlaunch (1),", ".BR qlaunch.toml (5)"]) + "\n"


def _verb(verb: str) -> Iterator[str]:
    module = importlib.import_module(f"qlaunch.cli.{VERBS[verb][0]}")
    for paragraph in (module.__doc__ or "").strip().split("\n\n"):
        yield _roff(" ".join(paragraph.split()))
        yield ".PP"
    for action in _parser(verb)._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        yield ".TP"
        yield f".B {_roff(_name(action))}"
        yield _roff(action.help or "")
    example = module.EXAMPLE.rstrip().splitlines()
    yield ".PP"
    yield from (".in 0", ".nf", *(_roff(line) for line in example), ".fi", ".in")


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"qlaunch {verb}")
    importlib.import_module(f"qlaunch.cli.{VERBS[verb][0]}").add_arguments(parser)
    return parser


def _usage(verb: str) -> str:
    actions = [a for a in _parser(verb)._actions if a.help != argparse.SUPPRESS]
    places = [a for a in actions if not a.option_strings]
    names = [f"[{_name(a)}]" if a.nargs in ("?", "*") else _name(a) for a in places]
    return " ".join([*names, "[options]"])


def _name(action: argparse.Action) -> str:
    value = str(action.metavar or action.dest.upper())
    if not action.option_strings:
        return value + " ..." * (action.nargs in ("*", "+", argparse.REMAINDER))
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _title(name: str) -> str:
    return f'.TH {_roff(name)} 1 "" qlaunch "User commands"'


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("%%", "%")
    return f"\\&{text}" if text[:1] in (".", "'") else text


if __name__ == "__main__":
    for file, text in pages().items():
        (HERE / file).write_text(text, encoding="utf-8")
