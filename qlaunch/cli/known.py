"""NAME on the command line: a machine that has a runtime directory, or a clear answer."""

from __future__ import annotations

import os
from collections.abc import Sequence

from qlaunch.cli.text import nearest, say
from qlaunch.errors import HostError, Problem, UsageError
from qlaunch.plan.paths import runtime_root
from qlaunch.run.info import machine_names, read_info
from qlaunch.values import parse_vm_name


def known_machine(base: str, text: str) -> str:
    """The name. A profile's path, or its file name without the suffix, stands for the machine that
    was started from it, whatever its `name` is.

    A machine that root runs for this user makes the command run again as root. Raises HostError
    for an unknown one.
    """
    names = machine_names(base)
    if text in names:
        return text
    started = started_from(base, text, names)
    if started:
        return started
    name = machine_name(text)
    if name in names:
        return name
    ours = machines_of_root()
    if name in ours:
        from qlaunch.cli.elevate import run_as_root

        say(f"{name} was started through root")
        run_as_root(name)
    near = nearest(name, [*names, *ours])
    hint = "qlaunch ps" if os.geteuid() == 0 else "qlaunch ps; root's machines: sudo qlaunch ps"
    if _has_run(name):
        hint, near = f"qlaunch logs '{name}' tells how it ended", ""
    raise HostError(
        Problem(f"no machine {name} runs or left something behind", where=base,
                hint=f"did you mean {near}?" if near else hint)
    )


def started_from(base: str, text: str, names: Sequence[str]) -> str:
    """The machine whose profile is at that path, else the only one with such a file; or ""."""
    files = {name: info.profile for name in names if (info := read_info(f"{base}/{name}"))}
    if "/" in text or text.endswith(".toml"):
        path = os.path.realpath(text)
        return next((n for n, file in files.items() if os.path.realpath(file) == path), "")
    alike = [n for n, file in files.items() if file.endswith(f"/{text}.toml")]
    return alike[0] if len(alike) == 1 else ""


def _has_run(name: str) -> bool:
    from qlaunch.facts.invoker import read_invoker
    from qlaunch.plan.paths import machine_paths
    from qlaunch.run.story import LOG

    return os.access(f"{machine_paths(name, read_invoker()).state}/{LOG}", os.R_OK)


def machines_of_root() -> list[str]:
    """Machines that root runs for this user, by the directories of their sockets."""
    uid = os.geteuid()
    return machine_names(f"{runtime_root(True, uid, '')}/.by-uid/{uid}") if uid else []


def machine_name(text: str) -> str:
    """A name, or a profile's path for its stem. Raises UsageError for what cannot be one."""
    try:
        return parse_vm_name(text.rsplit("/", 1)[-1].removesuffix(".toml"))
    except ValueError as error:
        raise UsageError(
            Problem("this cannot be a machine's name", found=text or '""', allowed=str(error),
                    hint="qlaunch ps lists names")
        ) from None
